"""Exports a segmenter as an ONNX file, for ONNX Runtime and other runtimes that read the format.

tf2onnx converts; it is an extra. Run as a module, it is `layerseg export --format=onnx`.
"""

if __name__ == "__main__":  # before TensorFlow is imported: `--help` needs none
    from layered_segmentation.cli import export

    export.run_format("onnx")

import dataclasses
import functools
import importlib.util
import os
from typing import Any

import numpy as np

from layered_segmentation import files, versions
from layered_segmentation.errors import UserError
from layered_segmentation.export import compare, metadata
from layered_segmentation.export.tflite import keras_masks, require_writable
from layered_segmentation.images import to_square
from layered_segmentation.segmenter.segmenter import OBJECT_MASKS, LayeredSegmenter

_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
_OPSET = 18  # of 2022, the newest that tf2onnx writes


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxExport(compare.Comparison):
    """An ONNX file that was written, and how closely it follows the Keras model."""

    path: str  # the file
    megabytes: float  # its size
    operators: list[str]  # the operators it uses, sorted
    milliseconds: float  # median time of one image on one thread of ONNX Runtime

    def summary(self) -> str:
        """Returns the export as lines of text."""
        rows = [
            ("file", self.path),
            ("size", f"{self.megabytes:.2f} MB, opset {_OPSET}"),
            ("operators", ", ".join(self.operators)),
            ("1 thread", f"{self.milliseconds:.2f} ms"),
            ("difference", f"at most {self.difference:.1e}, mean {self.mean_difference:.1e}"),
            ("mIoU with Keras", f"{self.agreement:.4f} on {self.images} images"),
        ]
        return "\n".join(f"  {name:16}{value}" for name, value in rows)


def export_onnx(
    segmenter: LayeredSegmenter,
    out: str,
    input_size: int = 0,
    images: str = "",
    overwrite: bool = False,
    label: str = "object",
) -> OnnxExport:
    """Writes an ONNX file and checks it with ONNX Runtime.

    Args:
        segmenter: The segmenter to export.
        out: The file.
        input_size: Side of its input, pixels; 0 uses the segmenter's resolution.
        images: Directory of photos to compare on; procedural scenes if empty.
        overwrite: Whether to replace an existing file.
        label: What the masks show, in a word or a few, for the file's metadata.

    Raises:
        UserError: The extra is not installed, the size does not suit the network, the file
            exists, no image can be read, or the masks differ from the Keras model's. Nothing is
            written then.
    """
    require_installed()
    side = input_size or segmenter.resolution
    require_writable(segmenter, out, side, overwrite)
    label = metadata.require_label(label)
    photos = [to_square(photo, side) for photo in compare.images_to_compare(images)]
    model = convert(segmenter, side)
    _describe(model, segmenter, label)
    content: bytes = model.SerializeToString()

    measured = compare.measure(runtime(content), functools.partial(keras_masks, segmenter), photos)
    compare.require_close(measured.difference, measured.images)
    if segmenter.num_masks > 1:
        each = compare.measure(
            runtime(content, OBJECT_MASKS),
            functools.partial(keras_masks, segmenter, name=OBJECT_MASKS),
            photos,
        )
        compare.require_close(each.difference, each.images)
    milliseconds, _ = compare.latency(functools.partial(runtime(content), photos[0][None]))
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    files.write_bytes(out, content)
    return OnnxExport(
        **dataclasses.asdict(measured),
        path=out,
        megabytes=len(content) / 1e6,
        operators=sorted({node.op_type for node in model.graph.node}),
        milliseconds=milliseconds,
    )


def require_installed() -> None:
    """Raises a UserError if the extra is not installed."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format=onnx needs {', '.join(missing)}: pip install 'layered-segmentation[onnx]'"
        )


def convert(segmenter: LayeredSegmenter, side: int) -> Any:
    """Returns the segmenter as an ONNX ModelProto, unchecked.

    Its input is `images`, float32 [N, side, side, 3] of 0 to 255; its outputs are those of the
    TFLite file, for N images.
    """
    import tensorflow as tf
    import tf2onnx

    converter = segmenter.preprocessor.image_converter
    specification = tf.TensorSpec((None, side, side, 3), tf.float32, name="images")

    @tf.function(input_signature=[specification])  # type: ignore[untyped-decorator]
    def serving_default(images: Any) -> dict[str, Any]:
        scaled = images * converter.scale + converter.offset
        return segmenter.named_masks(segmenter(scaled, training=False))

    model, _ = tf2onnx.convert.from_function(serving_default, [specification], opset=_OPSET)
    return model


def runtime(content: bytes, name: str = "masks") -> compare.Run:
    """Returns a function that runs a file with ONNX Runtime on one thread.

    Args:
        content: The file.
        name: Of the output.

    Returns:
        [B, S, S, 3] of 0 to 255 -> float32 [B, S, S, C].
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        (masks,) = session.run([name], {"images": images.astype(np.float32)})
        return np.asarray(masks)

    return run


def _describe(model: Any, segmenter: LayeredSegmenter, label: str) -> None:
    """Adds what a program needs to know to use the file, and checks it."""
    import onnx

    aspect = segmenter.preprocessor.image_converter.aspect
    square = (
        "padded to a square by repeating its edges, resized"
        if (segmenter.preprocessor.image_converter.pads)
        else "squashed"
    )
    version = versions.of("layered-segmentation")
    model.producer_name, model.producer_version = "layered-segmentation", version
    model.doc_string = f"Cuts {label} out of photos."
    properties = {
        "label": label,
        "version": version,
        "aspect": str(aspect),
        "preprocessing": (
            f"`images`: an upright RGB photo, {square} to the input's size with an antialiased "
            "bilinear resize, 0 to 255; scaling is part of the graph"
        ),
        "postprocessing": (
            "`masks`: probability of the object, 0 to 1; resize bilinearly to the photo's size"
        ),
    }
    onnx.helper.set_model_props(model, properties)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.checker.check_model(model)
