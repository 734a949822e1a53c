"""TFLite Metadata: describes a file's input and output to Android's and MediaPipe's tools.

The format is metadata_schema.fbs of TFLite Support and MediaPipe: a flatbuffer inside the model's
flatbuffer, with the label file in a zip archive appended to it. Slots are that schema's field
numbers. No maintained Python package writes this format, so this module does.
"""

import io
import zipfile
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

BUFFER = "TFLITE_METADATA"
LABELS = "labels.txt"

_IDENTIFIER = b"M001"
_PARSER_VERSION = "1.5.0"  # the first version of the schema with custom metadata
_IMAGE, _NORMALIZATION = 2, 1  # numbers of ImageProperties and NormalizationOptions in their unions
_RGB, _AXIS_LABELS = 1, 2


class _Field(NamedTuple):
    """A field of a table: its slot in the schema, the kind of its value, the value."""

    slot: int
    kind: str
    value: Any


def attach(content: bytes, label: str, is_uint8: bool) -> bytes:
    """Returns a TFLite file with metadata added.

    Args:
        content: The file; its input is RGB from 0 to 255, its output is masks.
        label: What the masks show, in a word or a few.
        is_uint8: Whether input and output are uint8.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(_metadata(label, is_uint8), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = BUFFER, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    file = io.BytesIO(bytes(builder.Output()))
    with zipfile.ZipFile(file, "a") as archive:
        # With a fixed date, the same segmenter gives the same file.
        archive.writestr(zipfile.ZipInfo(LABELS, (1980, 1, 1, 0, 0, 0)), f"{label}\n")
    return file.getvalue()


def _metadata(label: str, is_uint8: bool) -> bytes:
    values = "bytes, probability times 256" if is_uint8 else "probability, 0 to 1"
    image = [
        _Field(0, "string", "images"),
        _Field(1, "string", "RGB photo, squashed to the input's size, 0 to 255."),
        _Field(3, "table", _union(_IMAGE, [_Field(0, "byte", _RGB)])),
        _Field(4, "tables", [_union(_NORMALIZATION, _identity_normalization())]),
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


def _identity_normalization() -> list[_Field]:
    """Mean 0 and deviation 1: the graph scales its input."""
    return [_Field(0, "floats", [0.0]), _Field(1, "floats", [1.0])]


def _segmenter_options() -> _Field:
    """MediaPipe's options: the model already applies its activation."""
    builder = flatbuffers.Builder(64)
    options = [_Field(0, "byte", 0), _Field(1, "string", "1.0.0")]
    builder.Finish(_write(builder, options), b"V001")
    return _Field(1, "aligned", bytes(builder.Output()))


def _write(builder: Any, table: list[_Field]) -> int:
    """Writes a table, after its parts, and returns its offset."""
    parts = {field.slot: _write_part(builder, field) for field in table if field.kind != "byte"}
    builder.StartObject(1 + max((field.slot for field in table), default=0))
    for field in table:
        if field.kind == "byte":
            builder.PrependInt8Slot(field.slot, field.value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(field.slot, parts[field.slot], 0)
    return int(builder.EndObject())


def _write_part(builder: Any, field: _Field) -> int:
    if field.kind == "string":
        return int(builder.CreateString(field.value))
    if field.kind == "table":
        return _write(builder, field.value)
    if field.kind == "floats":
        return int(builder.CreateNumpyVector(np.asarray(field.value, np.float32)))
    if field.kind == "tables":
        offsets = [_write(builder, table) for table in field.value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())
    assert field.kind == "aligned", field.kind
    builder.StartVector(1, len(field.value), 16)
    for byte in reversed(field.value):
        builder.PrependByte(byte)
    return int(builder.EndVector())
