"""Exports a segmenter as a TFLite (LiteRT) file, for phones and small machines.

The file holds built-in operators only. Its signature serving_default takes `images`, [1, S, S, 3]
RGB from 0 to 255, and gives `masks`, [1, S, S, 1]: float32 in and out, masks in [0, 1]; with
--quantize=int8 uint8 in and out, masks in steps of 1/256. How a photo that is not square becomes
one is left to the caller: squashed, or, for a segmenter trained with data.aspect=pad or
centre_crop, with its edges continued. Its metadata say this to Android's tools. The file is loaded
again with the LiteRT interpreter and compared with the Keras model before it gets its name:
--quantize=none may differ by 1e-4 and float16 by 1e-2; dynamic and int8 may lose 0.01 of the mIoU,
against --masks or, without them, against the Keras model's own masks.

Example:
  python -m layered_segmentation.export.tflite --segmenter=RUN --out=segmenter.tflite
  python -m layered_segmentation.export.tflite --segmenter=RUN --out=small.tflite --quantize=int8 \
      --representative_data=PHOTOS --images=TEST_PHOTOS --masks=TEST_MASKS
"""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from layered_segmentation import files
from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from layered_segmentation.segmenter.segmenter import LayeredSegmenter

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
        milliseconds: Median time of one image on one thread, with XNNPACK.
        quantize: How its numbers are kept.
        operations: How many operators it runs.
        mean_difference: Mean absolute difference of its masks to Keras's.
        agreement: mIoU of its masks with Keras's, both at 0.5.
        keras_miou: mIoU of Keras's masks with true ones; None without true ones.
        file_miou: Likewise of the file's.
        latency: Milliseconds an image, [median, 90th percentile], by threads.
    """

    path: str
    megabytes: float
    operators: list[str]
    difference: float
    images: int
    milliseconds: float
    quantize: str
    operations: int
    mean_difference: float
    agreement: float
    keras_miou: float | None
    file_miou: float | None
    latency: dict[str, list[float]]

    def table(self) -> str:
        """Returns all of it as lines of text."""
        rows = [
            ("file", self.path),
            ("size", f"{self.megabytes:.2f} MB, {self.quantize}"),
            ("operators", f"{self.operations}: {', '.join(self.operators)}"),
        ]
        rows += [
            (f"{threads} thread{'s' if threads != '1' else ''}", f"{a:.2f} ms, 90 % {b:.2f} ms")
            for threads, (a, b) in self.latency.items()
        ]
        rows += [
            ("difference", f"at most {self.difference:.1e}, mean {self.mean_difference:.1e}"),
            ("mIoU with Keras", f"{self.agreement:.4f} on {self.images} images"),
        ]
        if self.file_miou is not None:
            rows.append(("mIoU with truth", f"{self.file_miou:.4f}, Keras {self.keras_miou:.4f}"))
        return "\n".join(f"  {name:16}{value}" for name, value in rows)


def export_tflite(
    segmenter: "LayeredSegmenter",
    out: str,
    input_size: int = 0,
    images: str = "",
    overwrite: bool = False,
    quantize: str = "none",
    representative_data: str = "",
    masks: str = "",
    ignore: str = "",
    label: str = "object",
) -> TFLiteExport:
    """Writes a TFLite file and checks it.

    Args:
        segmenter: What to export.
        out: The file.
        input_size: Side of its input, pixels; 0 takes the segmenter's resolution.
        images: Directory of photos to compare on; procedural scenes if empty.
        overwrite: Whether a file of that name is replaced.
        quantize: One of `quantize.MODES`.
        representative_data: Directory of photos that `int8` takes its ranges from.
        masks: Directory of true masks of all of `images`, to score against.
        ignore: Directory of masks of pixels that are not scored.
        label: What the masks show, in a word, for the file's metadata.

    Raises:
        UserError: The size does not suit the network, the file exists, the mode is unknown, no
            image can be read, an operator is not built in, or the masks differ from Keras's by
            more than the mode's limit; nothing is written then.
    """
    from layered_segmentation.data import folder
    from layered_segmentation.export import agreement, compare, metadata
    from layered_segmentation.export import quantize as quantization

    side = input_size or segmenter.resolution
    _require_writable(segmenter, out, side, overwrite)
    if quantize not in quantization.MODES:
        raise UserError(f"--quantize={quantize}: one of {', '.join(quantization.MODES)}")
    if masks and not images:
        raise UserError(f"--masks={masks}: name their photos with --images too")
    if ignore and not masks:
        raise UserError(f"--ignore={ignore}: name the true masks with --masks too")
    if not label.strip() or "\n" in label:
        raise UserError(f"--label={label!r}: it must be a word or a few, in one line")
    pairs = folder.PairFolder(images, masks, ignore) if masks else None
    samples = []
    if quantize == "int8":
        samples = quantization.representative_samples(representative_data, side)
    elif representative_data:
        raise UserError(
            f"--representative_data={representative_data}: it goes with --quantize=int8"
        )
    photos = [quantization.squashed(p, side) for p in compare.images_to_compare(images)]
    content = metadata.attach(
        convert(segmenter, side, quantize, samples), label.strip(), quantize == "int8"
    )
    operators, operations = builtin_operators(content), _count_operations(content)
    run = interpreter(content, threads=1)

    theirs = functools.partial(keras_masks, segmenter)
    measured = agreement.measure(run, theirs, photos)
    if pairs is not None:
        measured = agreement.with_truth(measured, run, theirs, pairs, side)
    agreement.require(measured, quantize)
    latency = {}
    for threads in (1, 2):
        one = functools.partial(interpreter(content, threads), photos[0][None])
        latency[str(threads)] = list(agreement.latency(one))
    _write(content, out)
    return TFLiteExport(
        path=out,
        megabytes=len(content) / 1e6,
        operators=operators,
        difference=measured.largest,
        images=measured.images,
        milliseconds=latency["1"][0],
        quantize=quantize,
        operations=operations,
        mean_difference=measured.mean,
        agreement=measured.agreement,
        keras_miou=measured.keras_miou,
        file_miou=measured.file_miou,
        latency=latency,
    )


def _require_writable(segmenter: "LayeredSegmenter", out: str, side: int, overwrite: bool) -> None:
    stride = segmenter.backbone.stride
    if side < stride or side % stride:
        raise UserError(f"--input_size={side}: it must be a multiple of {stride}")
    if segmenter.backbone.input.shape[1] not in (None, side):
        raise UserError(f"--input_size={side}: this network takes {segmenter.resolution} px only")
    if os.path.isdir(out):
        raise UserError(f"--out={out}: a directory has this name; name a file")
    if os.path.lexists(out) and not overwrite:
        raise UserError(f"--out={out}: already exists; remove it or add --overwrite")


def _write(content: bytes, out: str) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    files.write_bytes(out, content)


def convert(
    segmenter: "LayeredSegmenter",
    side: int,
    quantize: str = "none",
    samples: "Sequence[np.ndarray]" = (),
) -> bytes:
    """Returns the segmenter as a TFLite flatbuffer, unchecked; see `quantize.configure`."""
    import keras
    import tensorflow as tf

    from layered_segmentation.export.quantize import configure

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
        configure(converter, quantize, list(samples))
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


def _count_operations(content: bytes) -> int:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    return sum(model.Subgraphs(i).OperatorsLength() for i in range(model.SubgraphsLength()))


def interpreter(content: bytes, threads: int) -> Any:
    """Returns a function that runs a flatbuffer, [1, S, S, 3] of 0 to 255 -> float [1, S, S, 1]."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    runtime = Interpreter(model_content=content, num_threads=threads)
    signature = runtime.get_signature_runner("serving_default")
    kind = signature.get_input_details()["images"]["dtype"]
    output = signature.get_output_details()["masks"]
    scale, zero = output["quantization"]

    def run(images: np.ndarray) -> np.ndarray:
        masks = signature(images=images.astype(kind))["masks"]
        if output["dtype"] == np.float32:
            return masks
        return (masks.astype(np.float32) - zero) * np.float32(scale)

    return run


def keras_masks(segmenter: "LayeredSegmenter", images: "np.ndarray") -> "np.ndarray":
    """Returns what a file is compared with: uint8 [B, S, S, 3] -> float [B, S, S, 1]."""
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
    _MASKS = flags.DEFINE_string("masks", "", "True masks of --images, to score against too.")
    _IGNORE = flags.DEFINE_string("ignore", "", "Masks of pixels that are not scored.")
    _LABEL = flags.DEFINE_string("label", "object", "What the masks show, for the metadata.")
    _QUANTIZE = flags.DEFINE_enum(
        "quantize", "none", ["none", "float16", "dynamic", "int8"], "How its numbers are kept."
    )
    _REPRESENTATIVE = flags.DEFINE_string(
        "representative_data", "", "Some hundred photos that --quantize=int8 takes its ranges from."
    )
    _OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a file that exists.")

    def main(argv: list[str]) -> None:
        """Exports one segmenter."""
        del argv
        from layered_segmentation.segmenter import presets

        done = export_tflite(
            presets.load(_SEGMENTER.value),
            _OUT.value,
            _INPUT_SIZE.value,
            _IMAGES.value,
            _OVERWRITE.value,
            _QUANTIZE.value,
            _REPRESENTATIVE.value,
            _MASKS.value,
            _IGNORE.value,
            _LABEL.value,
        )
        print(done.table())

    app.run(main)
