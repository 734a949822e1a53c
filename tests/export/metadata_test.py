"""The metadata of TFLite files, read slot by slot, and by MediaPipe if it is installed."""

import io
import zipfile

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tiny_networks import random_student, scenes

from layered_segmentation.errors import UserError
from layered_segmentation.export import metadata, tflite


@pytest.fixture(scope="module")
def plain():
    return tflite.convert(random_student(), 16)


class Table:
    """A table of a flatbuffer, whose fields are read by slot."""

    def __init__(self, data, position=None):
        start = flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0)
        self._table = flatbuffers.table.Table(data, start if position is None else position)

    def _offset(self, slot):
        offset = self._table.Offset(4 + 2 * slot)
        assert offset, f"slot {slot} is empty"
        return offset + self._table.Pos

    def byte(self, slot):
        return self._table.Get(flatbuffers.number_types.Int8Flags, self._offset(slot))

    def string(self, slot):
        return self._table.String(self._offset(slot)).decode()

    def table(self, slot):
        return Table(self._table.Bytes, self._table.Indirect(self._offset(slot)))

    def tables(self, slot):
        offset = self._offset(slot) - self._table.Pos
        first, count = self._table.Vector(offset), self._table.VectorLen(offset)
        places = [self._table.Indirect(first + 4 * index) for index in range(count)]
        return [Table(self._table.Bytes, place) for place in places]

    def vector(self, slot, kind):
        offset = self._offset(slot) - self._table.Pos
        return np.frombuffer(
            self._table.Bytes, kind, self._table.VectorLen(offset), self._table.Vector(offset)
        )


def read(content):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    (entry,) = [item for item in model.metadata if item.name == b"TFLITE_METADATA"]
    data = bytearray(bytes(model.buffers[entry.buffer].data))
    assert data[4:8] == b"M001"
    return Table(data)


@pytest.mark.parametrize("is_bytes", [False, True])
def test_input_range_normalisation_and_label(plain, is_bytes):
    content = metadata.attach(plain, "flower", is_bytes)
    model = read(content)
    (graph,) = model.tables(3)
    (image,), (mask,) = graph.tables(2), graph.tables(3)
    assert (image.string(0), mask.string(0)) == ("images", "masks")
    assert image.table(3).byte(0) == 2 and image.table(3).table(1).byte(0) == 1  # an image, RGB
    (unit,) = image.tables(4)
    assert unit.byte(0) == 1  # normalisation
    means, deviations = (unit.table(1).vector(slot, np.float32) for slot in (0, 1))
    assert means.tolist() == [0.0] and deviations.tolist() == [1.0]
    most, least = (image.table(5).vector(slot, np.float32) for slot in (0, 1))
    assert (least.tolist(), most.tolist()) == ([0.0], [255.0])
    (labels,) = mask.tables(6)
    assert labels.string(0) == "labels.txt" and labels.byte(2) == 2
    assert ("times 256" in mask.string(1)) == is_bytes
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("labels.txt") == b"flower\n"


def test_a_file_of_several_masks_describes_both_outputs():
    plain = tflite.convert(random_student(num_masks=2), 16)
    content = metadata.attach(plain, "leaf", False, masks=2)
    (graph,) = read(content).tables(3)
    tensors = graph.tables(3)
    described = [tensor.string(0) for tensor in tensors]
    # Tools go by the order of the file, in which each description must stand.
    channels = {"masks": 1, "object_masks": 2}
    outputs = Interpreter(model_content=content).get_output_details()
    assert [channels[name] for name in described] == [int(o["shape"][-1]) for o in outputs]
    of_objects = tensors[described.index("object_masks")]
    assert "2 layers of leaf" in of_objects.string(1)
    assert of_objects.tables(6)[0].string(0) == "object_labels.txt"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("labels.txt") == b"leaf\n"
        assert archive.read("object_labels.txt") == b"leaf 1\nleaf 2\n"


def test_metadata_do_not_change_the_masks(plain):
    content = metadata.attach(plain, "car", False)
    assert content == metadata.attach(plain, "car", False)  # bit for bit, whenever it is made
    before, after = (
        Interpreter(model_content=file).get_signature_runner("serving_default")
        for file in (plain, content)
    )
    image = scenes(16)[:1].astype(np.float32)
    np.testing.assert_array_equal(after(images=image)["masks"], before(images=image)["masks"])
    assert len(content) - len(plain) < 4000


def test_invalid_labels(tmp_path):
    for label in ("", " ", "two\nlines"):
        with pytest.raises(UserError, match="--label="):
            tflite.export_tflite(random_student(), str(tmp_path / "a.tflite"), label=label)
    assert list(tmp_path.iterdir()) == []


def test_mediapipe_reads_it(plain, tmp_path):
    """MediaPipe Tasks, as on Android and iOS, needs the metadata."""
    mediapipe = pytest.importorskip("mediapipe")
    from mediapipe.tasks import python
    from mediapipe.tasks.python import vision

    image = np.ascontiguousarray(scenes(16)[0])
    path = tmp_path / "file.tflite"
    path.write_bytes(metadata.attach(plain, "flower", False))
    options = vision.ImageSegmenterOptions(
        base_options=python.BaseOptions(model_asset_path=str(path)), output_confidence_masks=True
    )
    with vision.ImageSegmenter.create_from_options(options) as segmenter:
        assert segmenter.labels == ["flower"]
        given = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
        (mask,) = segmenter.segment(given).confidence_masks
    run = Interpreter(model_path=str(path)).get_signature_runner("serving_default")
    expected = run(images=image[None].astype(np.float32))["masks"][0]
    np.testing.assert_allclose(np.squeeze(mask.numpy_view()), expected[..., 0], atol=1e-5)
