"""Exports a segmenter as a SavedModel for TensorFlow Serving.

Run as a module, it is `layerseg export --format=saved_model`.
"""

if __name__ == "__main__":  # before TensorFlow is imported: `--help` needs none
    from layered_segmentation.cli import export

    export.run_format("saved_model")

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import cv2
import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from layered_segmentation import files
from layered_segmentation.errors import UserError
from layered_segmentation.export import compare, serving, signatures
from layered_segmentation.segmenter.preprocessing import resize_masks
from layered_segmentation.segmenter.segmenter import (
    OBJECT_MASKS,
    EncoderSegmenter,
    LayeredSegmenter,
)

# Registered with TensorFlow, but not for a server: these call back into the Python process that
# built the graph, or need a compiler or a device that the server may lack.
_NOT_SERVED = ("PyFunc", "EagerPyFunc", "Xla", "TPU", "Tpu", "Trt")


@dataclasses.dataclass(frozen=True)
class SavedModelExport:
    """A SavedModel that was written and checked."""

    path: str  # the version's directory
    megabytes: float  # its size
    difference: float  # largest difference of its outputs from the Keras model's
    images: int  # number of images compared
    milliseconds: float  # median time of one image at the network's resolution, in this process
    signatures: list[str]  # their names
    operators: list[str]  # the TensorFlow operators it runs, sorted
    warmup: int  # number of warm-up requests it carries

    def summary(self) -> str:
        """Returns the export as lines of text."""
        return (
            f"{self.path}: {self.megabytes:.2f} MB; masks differ from Keras by at most "
            f"{self.difference:.1e} on {self.images} images; {self.milliseconds:.1f} ms an image\n"
            f"  signatures      {', '.join(self.signatures)}\n"
            f"  operators       {len(self.operators)}: {', '.join(self.operators)}\n"
            f"  warm-up         {self.warmup} requests"
        )


def export_saved_model(segmenter: LayeredSegmenter, out: str, images: str = "") -> SavedModelExport:
    """Writes the next version, OUT/N, and checks it.

    Args:
        segmenter: The segmenter to export.
        out: Directory of all versions of the model.
        images: Directory of photos to compare on; procedural scenes if empty.

    Raises:
        UserError: `out` is a file, no image can be read, an operator is not TensorFlow's own, or
            an output differs from the Keras model's. No version is added then.
    """
    files.require_directory(out)
    photos = compare.images_to_compare(images)
    is_new = not os.path.isdir(out)
    os.makedirs(out, exist_ok=True)
    path = os.path.join(out, str(_next_version(out)))
    model = os.path.basename(os.path.abspath(out))
    try:
        with files.replacing_directory(path, overwrite=False) as partial:
            write(segmenter, partial)
            operators = served_operators(partial)
            serving.write_warmup(partial, segmenter, model)
            serving.write_batching(partial)
            # From disk and without this package's classes, as a server loads it.
            loaded = tf.saved_model.load(partial)
            difference = _difference(loaded, segmenter, photos)
            requests = serving.replay_warmup(partial, loaded)
            compare.require_close(difference, len(photos))
            one = np.zeros((1, segmenter.resolution, segmenter.resolution, 3), np.uint8)
            milliseconds, _ = compare.latency(lambda: _serve(loaded, one))
            megabytes = _size(partial) / 1e6
    except BaseException:
        if is_new and not os.listdir(out):  # another export may have added a version meanwhile
            os.rmdir(out)
        raise
    serving.write_models(out, model)
    return SavedModelExport(
        path=path,
        megabytes=megabytes,
        difference=difference,
        images=len(photos),
        milliseconds=milliseconds,
        signatures=sorted(loaded.signatures),
        operators=operators,
        warmup=requests,
    )


def write(segmenter: LayeredSegmenter, directory: str) -> None:
    """Writes the SavedModel, unchecked."""
    archive = keras.export.ExportArchive()
    archive.track(segmenter)
    for name, signature in signatures.build(segmenter).items():
        archive.add_endpoint(name, signature.function, [signature.specification])
    archive.write_out(directory, verbose=False)


def served_operators(directory: str) -> list[str]:
    """Returns the operators of a SavedModel, sorted, all of which TensorFlow Serving has.

    Operators of other libraries, such as TensorFlow Text, are registered when those are imported;
    `tf.raw_ops` lists only those that TensorFlow was built with.

    Args:
        directory: The directory that contains saved_model.pb.

    Raises:
        UserError: TensorFlow Serving does not have an operator.
    """
    model = saved_model_pb2.SavedModel()
    with open(os.path.join(directory, "saved_model.pb"), "rb") as file:
        model.ParseFromString(file.read())
    operators = set()
    for graph in (meta_graph.graph_def for meta_graph in model.meta_graphs):
        functions = graph.library.function
        nodes = [*graph.node, *(node for function in functions for node in function.node_def)]
        # A node that calls a function may carry the function's name instead of an operator's.
        operators |= {node.op for node in nodes} - {item.signature.name for item in functions}
    foreign = sorted(
        name for name in operators if not hasattr(tf.raw_ops, name) or name.startswith(_NOT_SERVED)
    )
    if foreign:
        raise UserError(
            f"the exported model needs {', '.join(foreign)}, which TensorFlow Serving does not "
            "have; nothing was written"
        )
    return sorted(operators)


def _difference(loaded: Any, segmenter: LayeredSegmenter, photos: Sequence[np.ndarray]) -> float:
    """Returns the largest difference of any signature's outputs from the Keras model's."""

    def keras_masks(batch: np.ndarray) -> np.ndarray:
        return np.stack(segmenter.predict_masks(batch))[..., None]

    masks = compare.measure(lambda batch: _serve(loaded, batch), keras_masks, photos)
    difference = max(masks.difference, _bytes_difference(loaded, segmenter, photos))
    if segmenter.num_masks > 1:
        each = compare.measure(
            lambda batch: _serve(loaded, batch, OBJECT_MASKS), segmenter.predict, photos
        )
        difference = max(difference, each.difference)
    if isinstance(segmenter, EncoderSegmenter):
        difference = max(difference, _layers_difference(loaded, segmenter, photos))
    return difference


def _serve(loaded: Any, images: np.ndarray, output: str = "masks") -> np.ndarray:
    serve = loaded.signatures["serving_default"]
    return np.asarray(serve(images=tf.constant(images))[output].numpy())


def _bytes_difference(
    loaded: Any, segmenter: LayeredSegmenter, photos: Sequence[np.ndarray]
) -> float:
    """Returns how far the masks of encoded photos, all in one batch, are from the Keras model's."""
    encoded = [cv2.imencode(".png", photo[..., ::-1])[1].tobytes() for photo in photos]
    outputs = loaded.signatures["image_bytes"](bytes=tf.constant(encoded))
    largest = 0.0
    for index, photo in enumerate(photos):
        masks = segmenter(segmenter.prepare(photo[None]), training=False)
        for name, expected in segmenter.named_masks(masks).items():
            if segmenter.preprocessor.image_converter.pads:
                side = segmenter.resolution
                size = signatures.crop_size(photo.shape[0], photo.shape[1], side)
                expected = resize_masks(segmenter.restore(expected, *map(int, size)), side, side)
            expected = keras.ops.convert_to_numpy(expected)[0]
            difference = compare.largest_difference(outputs[name][index].numpy(), expected)
            largest = max(largest, difference)
    return largest


def _layers_difference(
    loaded: Any, segmenter: EncoderSegmenter, photos: Sequence[np.ndarray]
) -> float:
    """Returns how far the layers and their composite are from the Keras model's.

    Values above 1 count relative to the largest: an untrained generator draws far outside [-1, 1].
    """
    largest = 0.0
    for photo in photos:
        outputs = loaded.signatures["layers"](images=tf.constant(photo[None]))
        expected = segmenter.predict_layers(photo[None])._asdict()
        expected["composite"] = segmenter.reconstruct(photo[None])
        for name, values in expected.items():
            difference = compare.largest_difference(outputs[name].numpy(), values)
            largest = max(largest, difference / max(1.0, float(np.abs(values).max())))
    return largest


def _next_version(out: str) -> int:
    """Returns a number above every version's, so that a server loads it."""
    return 1 + max((int(name) for name in os.listdir(out) if name.isdigit()), default=0)


def _size(directory: str) -> int:
    files = (path for path in pathlib.Path(directory).rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files)
