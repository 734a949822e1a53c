"""TFLite Metadata: what Android's and MediaPipe's tools read about a file's input and output.

The format is metadata_schema.fbs of TFLite Support and MediaPipe, a flatbuffer inside the model's
own one, with its label file in a zip archive behind it. Slots are that schema's field numbers. No
kept package for Python writes it, so it is put together here.
"""

import io
import zipfile
from typing import Any, NamedTuple

import numpy as np

BUFFER = "TFLITE_METADATA"
LABELS = "labels.txt"

_IDENTIFIER = b"M001"
_PARSER_VERSION = "1.5.0"  # the schema's version that knows of custom metadata
_IMAGE, _NORMALIZATION = 2, 1  # numbers of ImageProperties and NormalizationOptions in their unions
_RGB, _AXIS_LABELS = 1, 2


class _Field(NamedTuple):
    """A field of a table: its slot in the schema, the kind of its value, the value."""

    slot: int
    kind: str
    value: Any


def attach(content: bytes, label: str, is_bytes: bool) -> bytes:
    """Returns a TFLite file with metadata.

    Args:
        content: The file: one input, RGB of 0 to 255, and one output, masks.
        label: What the masks show, in a word.
        is_bytes: Whether input and output are uint8.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(_metadata(label, is_bytes), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = BUFFER, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    file = io.BytesIO(bytes(builder.Output()))
    with zipfile.ZipFile(file, "a") as archive:
        # A fixed date: the same segmenter gives the same file.
        archive.writestr(zipfile.ZipInfo(LABELS, (1980, 1, 1, 0, 0, 0)), f"{label}\n")
    return file.getvalue()


def _metadata(label: str, is_bytes: bool) -> bytes:
    import flatbuffers

    values = "bytes, probability times 256" if is_bytes else "probability, 0 to 1"
    image = [
        _Field(0, "string", "images"),
        _Field(1, "string", "RGB photo, squashed to the input's size, 0 to 255."),
        _Field(3, "table", _union(_IMAGE, [_Field(0, "byte", _RGB)])),
        _Field(4, "tables", [_union(_NORMALIZATION, _unchanged())]),
        _Field(5, "table", [_Field(0, "floats", [255.0]), _Field(1, "floats", [0.0])]),
    ]
    mask = [
        _Field(0, "string", "masks"),
        _Field(1, "string", f"Mask of {label}: {values}."),
        _Field(3, "table", _union(_IMAGE, [])),
        _Field(5, "table", [_Field(0, "floats", [1.0]), _Field(1, "floats", [0.0])]),
        _Field(6, "tables", [[_Field(0, "string", LABELS), _Field(2, "byte", _AXIS_LABELS)]]),
    ]
    graph = [
        _Field(2, "tables", [image]),
        _Field(3, "tables", [mask]),
        _Field(9, "tables", [[_Field(0, "string", "SEGMENTER_METADATA"), _segmenter_options()]]),
    ]
    model = [
        _Field(0, "string", "ImageSegmenter"),
        _Field(1, "string", f"Cuts {label} out of photos."),
        _Field(2, "string", "v1"),
        _Field(3, "tables", [graph]),
        _Field(7, "string", _PARSER_VERSION),
    ]
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, model), _IDENTIFIER)
    return bytes(builder.Output())


def _union(kind: int, table: list[_Field]) -> list[_Field]:
    return [_Field(0, "byte", kind), _Field(1, "table", table)]


def _unchanged() -> list[_Field]:
    """Normalisation by mean 0 and deviation 1: the scaling is in the graph."""
    return [_Field(0, "floats", [0.0]), _Field(1, "floats", [1.0])]


def _segmenter_options() -> _Field:
    """MediaPipe's own: the output has gone through its activation already."""
    import flatbuffers

    builder = flatbuffers.Builder(64)
    options = [_Field(0, "byte", 0), _Field(1, "string", "1.0.0")]
    builder.Finish(_write(builder, options), b"V001")
    return _Field(1, "aligned", bytes(builder.Output()))


def _write(builder: Any, table: list[_Field]) -> int:
    """Writes a table, its parts first, and returns its offset."""
    parts = {field.slot: _write_part(builder, field) for field in table if field.kind != "byte"}
    builder.StartObject(1 + max((field.slot for field in table), default=0))
    for field in table:
        if field.kind == "byte":
            builder.PrependInt8Slot(field.slot, field.value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(field.slot, parts[field.slot], 0)
    return builder.EndObject()


def _write_part(builder: Any, field: _Field) -> int:
    if field.kind == "string":
        return builder.CreateString(field.value)
    if field.kind == "table":
        return _write(builder, field.value)
    if field.kind == "floats":
        return builder.CreateNumpyVector(np.asarray(field.value, np.float32))
    if field.kind == "tables":
        offsets = [_write(builder, table) for table in field.value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()
    assert field.kind == "aligned", field.kind
    builder.StartVector(1, len(field.value), 16)
    for byte in reversed(field.value):
        builder.PrependByte(byte)
    return builder.EndVector()
