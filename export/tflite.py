"""Exports a segmenter as a TFLite (LiteRT) file, for phones and small machines.

The file holds built-in operators in float32. Its signature serving_default takes `images`, float32
[1, S, S, 3] RGB from 0 to 255, and gives `masks`, float32 [1, S, S, 1] in [0, 1]. How a photo that
is not square becomes one is left to the caller: squashed, or, for a segmenter trained with
data.aspect=pad or centre_crop, with its edges continued. The file is loaded again with the LiteRT
interpreter and compared with the Keras model before it gets its name.

Example:
  python -m layered_segmentation.export.tflite --segmenter=RUN --out=segmenter.tflite
"""

import dataclasses
import os
import tempfile
from typing import TYPE_CHECKING, Any

from absl import flags

from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.models.segmenter import LayeredSegmenter

RESUME = "no file was written; run it again"


@dataclasses.dataclass(frozen=True)
class TFLiteExport:
    """A TFLite file that was written and checked.

    Attributes:
        path: The file.
        megabytes: Its size.
        operators: The built-in operators it uses, sorted.
        difference: Largest difference of its masks to the Keras model's.
        images: How many images were compared.
        milliseconds: Median time of one image on one thread.
    """

    path: str
    megabytes: float
    operators: list[str]
    difference: float
    images: int
    milliseconds: float


def export_tflite(
    segmenter: "LayeredSegmenter",
    out: str,
    input_size: int = 0,
    images: str = "",
    overwrite: bool = False,
) -> TFLiteExport:
    """Writes a TFLite file and checks it.

    Args:
        segmenter: What to export.
        out: The file.
        input_size: Side of its input, pixels; 0 takes the segmenter's resolution.
        images: Directory of photos to compare on; procedural scenes if empty.
        overwrite: Whether a file of that name is replaced.

    Raises:
        UserError: The size does not suit the network, the file exists, no image can be read, an
            operator is not built in, or the masks differ from Keras's; nothing is written then.
    """
    from layered_segmentation.export import checks

    side = input_size or segmenter.resolution
    stride = segmenter.backbone.stride
    if side < stride or side % stride:
        raise UserError(f"--input_size={side}: it must be a multiple of {stride}")
    if segmenter.backbone.input.shape[1] not in (None, side):
        raise UserError(f"--input_size={side}: this network takes {segmenter.resolution} px only")
    if os.path.isdir(out):
        raise UserError(f"--out={out}: a directory has this name; name a file")
    if os.path.lexists(out) and not overwrite:
        raise UserError(f"--out={out}: already exists; remove it or add --overwrite")
    photos = checks.images_to_compare(images)
    content = convert(segmenter, side)
    operators = builtin_operators(content)
    run = interpreter(content, threads=1)
    prepared = [_prepare(photo, side) for photo in photos]
    difference = checks.largest_difference(
        run, lambda batch: _keras_masks(segmenter, batch), prepared
    )
    checks.require_close(difference, len(photos))
    milliseconds = checks.median_latency(lambda: run(prepared[0][None]))
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    partial = f"{out}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(content)
        os.replace(partial, out)
    except BaseException:
        if os.path.exists(partial):
            os.remove(partial)
        raise
    return TFLiteExport(out, len(content) / 1e6, operators, difference, len(photos), milliseconds)


def convert(segmenter: "LayeredSegmenter", side: int) -> bytes:
    """Returns the segmenter as a TFLite flatbuffer, unchecked."""
    import keras
    import tensorflow as tf

    scale = segmenter.preprocessor.image_converter.scale
    offset = segmenter.preprocessor.image_converter.offset

    def serving_default(images: Any) -> dict[str, Any]:
        return {"masks": segmenter(images * scale + offset, training=False)}

    archive = keras.export.ExportArchive()
    archive.track(segmenter)
    specification = tf.TensorSpec((1, side, side, 3), tf.float32, name="images")
    archive.add_endpoint("serving_default", serving_default, [specification])
    with tempfile.TemporaryDirectory() as directory:
        archive.write_out(directory, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            directory, signature_keys=["serving_default"]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return converter.convert()


def builtin_operators(content: bytes) -> list[str]:
    """Returns the names of a flatbuffer's operators, sorted.

    Raises:
        UserError: One is not built into every TFLite runtime (a Flex or custom operator).
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name[0] != "_"}
    model = schema.Model.GetRootAs(content, 0)
    operators = set()
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        # Old operators still keep their number in the field of the first schema.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number == schema.BuiltinOperator.CUSTOM:
            raise UserError(
                f"the converted model needs the operator {code.CustomCode().decode()!r}, which is "
                "not built into TFLite; nothing was written"
            )
        operators.add(names[number])
    return sorted(operators)


def interpreter(content: bytes, threads: int) -> Any:
    """Returns a function that runs a flatbuffer, [1, S, S, 3] of 0 to 255 -> [1, S, S, 1]."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    runtime = Interpreter(model_content=content, num_threads=threads)
    signature = runtime.get_signature_runner("serving_default")

    def run(images: np.ndarray) -> np.ndarray:
        return signature(images=images.astype(np.float32))["masks"]

    return run


def _prepare(photo: Any, side: int) -> Any:
    """Returns a photo at the input's size, whole numbers from 0 to 255 as a phone has them."""
    import cv2

    return cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)


def _keras_masks(segmenter: "LayeredSegmenter", images: Any) -> Any:
    import keras
    import numpy as np

    converter = segmenter.preprocessor.image_converter
    scaled = images.astype(np.float32) * converter.scale + converter.offset
    return keras.ops.convert_to_numpy(segmenter(scaled, training=False))


if __name__ == "__main__":
    # Flags are defined only where the script runs: two scripts may be imported side by side.
    _SEGMENTER = flags.DEFINE_string(
        "segmenter", None, "Run directory, preset directory, hf://… or kaggle://….", required=True
    )
    _OUT = flags.DEFINE_string("out", None, "The .tflite file to write.", required=True)
    _INPUT_SIZE = flags.DEFINE_integer(
        "input_size", 0, "Side of the input, pixels; the segmenter's resolution if 0."
    )
    _IMAGES = flags.DEFINE_string(
        "images", "", "Photos to compare with the Keras model on; drawn scenes if empty."
    )
    _OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a file that exists.")

    def main(argv: list[str]) -> None:
        """Exports one segmenter."""
        del argv
        from layered_segmentation.models import segmenter as segmenters

        done = export_tflite(
            segmenters.load(_SEGMENTER.value),
            _OUT.value,
            _INPUT_SIZE.value,
            _IMAGES.value,
            _OVERWRITE.value,
        )
        print(
            f"{done.path}: {done.megabytes:.2f} MB, operators {', '.join(done.operators)}; masks "
            f"differ from Keras by at most {done.difference:.1e} on {done.images} images; "
            f"{done.milliseconds:.2f} ms an image on one thread"
        )

    app.run(main)
