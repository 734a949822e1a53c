"""TFLite Metadata: describes a file's input and output to Android's and MediaPipe's tools.

The format is metadata_schema.fbs of TFLite Support and MediaPipe: a flatbuffer inside the model's
flatbuffer, with the label file in a zip archive appended to it. Slots are that schema's field
numbers. No maintained Python package writes this format, so this module does.
"""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from layered_segmentation.choices import Aspect
from layered_segmentation.errors import UserError
from layered_segmentation.segmenter import lite

BUFFER = "TFLITE_METADATA"
LABELS = "labels.txt"
OBJECT_LABELS = "object_labels.txt"  # of `object_masks`

_IDENTIFIER = b"M001"
_PARSER_VERSION = "1.5.0"  # the first version of the schema with custom metadata
_IMAGE, _NORMALIZATION = 2, 1  # numbers of ImageProperties and NormalizationOptions in their unions
_RGB, _AXIS_LABELS = 1, 2


_Field = tuple[int, str, Any]  # slot in the schema, kind of the value, value


def attach(
    content: bytes, label: str, is_uint8: bool, aspect: str = Aspect.squash, masks: int = 1
) -> bytes:
    """Returns a TFLite file with metadata added.

    Args:
        content: The file; its input is RGB from 0 to 255, its output is masks.
        label: What the masks show, in a word or a few.
        is_uint8: Whether input and output are uint8.
        aspect: How photos become square; `layerseg segment` reads it.
        masks: Masks of the second output, if there is one.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(_metadata(_outputs(model), label, is_uint8, masks), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = BUFFER, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    content = lite.append(bytes(builder.Output()), LABELS, f"{label}\n")
    if masks > 1:
        labels = "".join(f"{label} {number}\n" for number in range(1, masks + 1))
        content = lite.append(content, OBJECT_LABELS, labels)
    return lite.add_aspect(content, aspect)


def require_label(label: str) -> str:
    """Returns a label without spaces around it.

    Raises:
        UserError: It is empty, or of several lines.
    """
    if not label.strip() or "\n" in label:
        raise UserError(f"--label={label!r}: it must be a word or a few, in one line")
    return label.strip()


def _outputs(model: Any) -> list[str]:
    """Returns the names of the outputs in the file's order."""
    (signature,) = model.signatureDefs
    names = {output.tensorIndex: output.name.decode() for output in signature.outputs}
    return [names[index] for index in model.subgraphs[0].outputs]


def _metadata(outputs: list[str], label: str, is_uint8: bool, masks: int) -> bytes:
    values = "bytes, probability times 256" if is_uint8 else "probability, 0 to 1"
    image = [
        (0, "string", "images"),
        (1, "string", "RGB photo, squashed to the input's size, 0 to 255."),
        (3, "table", _union(_IMAGE, [(0, "byte", _RGB)])),
        (4, "tables", [_union(_NORMALIZATION, _identity_normalization())]),
        (5, "table", [(0, "floats", [255.0]), (1, "floats", [0.0])]),
    ]
    contents = {
        "masks": (f"Mask of {label}: {values}.", LABELS),
        "object_masks": (f"Masks of {masks} layers of {label}: {values}.", OBJECT_LABELS),
    }
    tensors = [
        [
            (0, "string", name),
            (1, "string", contents[name][0]),
            (3, "table", _union(_IMAGE, [])),
            (5, "table", [(0, "floats", [1.0]), (1, "floats", [0.0])]),
            (6, "tables", [[(0, "string", contents[name][1]), (2, "byte", _AXIS_LABELS)]]),
        ]
        for name in outputs
    ]
    graph = [
        (2, "tables", [image]),
        (3, "tables", tensors),
        (9, "tables", [[(0, "string", "SEGMENTER_METADATA"), _segmenter_options()]]),
    ]
    model = [
        (0, "string", "ImageSegmenter"),
        (1, "string", f"Cuts {label} out of photos."),
        (2, "string", "v1"),
        (3, "tables", [graph]),
        (7, "string", _PARSER_VERSION),
    ]
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, model), _IDENTIFIER)
    return bytes(builder.Output())


def _union(kind: int, table: list[_Field]) -> list[_Field]:
    return [(0, "byte", kind), (1, "table", table)]


def _identity_normalization() -> list[_Field]:
    """Mean 0 and deviation 1: the graph scales its input."""
    return [(0, "floats", [0.0]), (1, "floats", [1.0])]


def _segmenter_options() -> _Field:
    """MediaPipe's options: the model already applies its activation."""
    builder = flatbuffers.Builder(64)
    options = [(0, "byte", 0), (1, "string", "1.0.0")]
    builder.Finish(_write(builder, options), b"V001")
    return (1, "aligned", bytes(builder.Output()))


def _write(builder: Any, table: list[_Field]) -> int:
    """Writes a table, after its parts, and returns its offset."""
    parts = {slot: _write_part(builder, *part) for slot, *part in table if part[0] != "byte"}
    builder.StartObject(1 + max((slot for slot, _, _ in table), default=0))
    for slot, kind, value in table:
        if kind == "byte":
            builder.PrependInt8Slot(slot, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, parts[slot], 0)
    return int(builder.EndObject())


def _write_part(builder: Any, kind: str, value: Any) -> int:
    if kind == "string":
        return int(builder.CreateString(value))
    if kind == "table":
        return _write(builder, value)
    if kind == "floats":
        return int(builder.CreateNumpyVector(np.asarray(value, np.float32)))
    if kind == "tables":
        offsets = [_write(builder, table) for table in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())
    assert kind == "aligned", kind
    builder.StartVector(1, len(value), 16)
    for byte in reversed(value):
        builder.PrependByte(byte)
    return int(builder.EndVector())
