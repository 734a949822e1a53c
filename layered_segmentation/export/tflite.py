"""Exports a segmenter as a TFLite (LiteRT) file for phones and small machines.

Run as a module, it is `layerseg export --format=tflite`.
"""

if __name__ == "__main__":  # before TensorFlow is imported: `--help` needs none
    from layered_segmentation.cli import export

    export.run_format("tflite")

import dataclasses
import functools
import os
from collections.abc import Sequence

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from layered_segmentation import files
from layered_segmentation.choices import Quantization
from layered_segmentation.data import folder
from layered_segmentation.errors import UserError
from layered_segmentation.export import compare, metadata
from layered_segmentation.images import to_square
from layered_segmentation.segmenter import domain, lite, preset_files
from layered_segmentation.segmenter.lite import interpreter as interpreter
from layered_segmentation.segmenter.lite_file import convert as convert
from layered_segmentation.segmenter.segmenter import OBJECT_MASKS, LayeredSegmenter

_SAMPLES = 200  # representative photos; more hardly change the ranges


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFLiteExport(compare.Comparison):
    """A TFLite file that was written, and how closely it follows the Keras model."""

    path: str  # the file
    megabytes: float  # its size
    operators: list[str]  # the built-in operators it uses, sorted
    milliseconds: float  # median time of one image on one thread, with XNNPACK
    quantize: str  # its quantization
    operations: int  # number of operators it runs
    # milliseconds an image, [median, 90th percentile], by number of threads
    latency: dict[str, list[float]]

    def summary(self) -> str:
        """Returns the export as lines of text."""
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
    segmenter: LayeredSegmenter,
    out: str,
    input_size: int = 0,
    images: str = "",
    overwrite: bool = False,
    quantize: str = Quantization.none,
    representative_data: str = "",
    masks: str = "",
    ignore: str = "",
    label: str = "object",
    mask_values: Sequence[int] = (),
    statistics: domain.Domain | None = None,
) -> TFLiteExport:
    """Writes a TFLite file and checks it.

    Args:
        segmenter: The segmenter to export.
        out: The file.
        input_size: Side of its input, pixels; 0 uses the segmenter's resolution.
        images: Directory of photos to compare on; procedural scenes if empty.
        overwrite: Whether to replace an existing file.
        quantize: A `Quantization`.
        representative_data: Directory of photos from which `int8` derives its ranges.
        masks: Directory of true masks of all of `images`, to score against.
        ignore: Directory of masks of pixels that are not scored.
        label: What the masks show, in a word or a few, for the file's metadata.
        mask_values: Stored values of the object in `masks`, if these are label maps.
        statistics: Of the training photos. They are added to the file, for the web page.

    Raises:
        UserError: The size does not suit the network, the file exists, the mode is unknown, no
            image can be read, an operator is not built in, or the masks differ from the Keras
            model's by more than the mode's limit. Nothing is written then.
    """
    side = input_size or segmenter.resolution
    require_writable(segmenter, out, side, overwrite)
    if quantize not in list(Quantization):
        raise UserError(f"--quantize={quantize}: one of {', '.join(Quantization)}")
    if masks and not images:
        raise UserError(f"--masks={masks}: name their photos with --images too")
    if ignore and not masks:
        raise UserError(f"--ignore={ignore}: name the true masks with --masks too")
    label = metadata.require_label(label)
    if mask_values and not masks:
        raise UserError("--mask_value: name the true masks with --masks too")
    pairs = folder.PairFolder(images, masks, ignore, mask_values) if masks else None
    samples = []
    if quantize == Quantization.int8:
        samples = representative_samples(representative_data, side)
    elif representative_data:
        raise UserError(
            f"--representative_data={representative_data}: it goes with --quantize=int8"
        )
    photos = [to_square(photo, side) for photo in compare.images_to_compare(images)]
    content = convert(segmenter, side, quantize, samples)
    content = metadata.attach(
        content,
        label,
        is_uint8=quantize == Quantization.int8,
        aspect=segmenter.preprocessor.image_converter.aspect,
        masks=segmenter.num_masks,
    )
    if statistics is not None:
        content = lite.append(content, preset_files.DOMAIN, statistics.text())
    operators, operations = builtin_operators(content), _count_operations(content)

    run, keras = interpreter(content, threads=1), functools.partial(keras_masks, segmenter)
    measured = compare.measure(run, keras, photos)
    if pairs is not None:
        measured = dataclasses.replace(
            measured,
            keras_miou=compare.score(keras, pairs, side),
            file_miou=compare.score(run, pairs, side),
        )
    compare.require_limits(measured, quantize)
    if segmenter.num_masks > 1:
        _require_object_masks(segmenter, content, quantize, photos)
    latency = {}
    for threads in (1, 2):
        one = functools.partial(interpreter(content, threads), photos[0][None])
        latency[str(threads)] = list(compare.latency(one))
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    files.write_bytes(out, content)
    return TFLiteExport(
        **dataclasses.asdict(measured),
        path=out,
        megabytes=len(content) / 1e6,
        operators=operators,
        milliseconds=latency["1"][0],
        quantize=quantize,
        operations=operations,
        latency=latency,
    )


def representative_samples(directory: str, side: int) -> list[np.ndarray]:
    """Returns the photos from which `int8` derives its ranges.

    Args:
        directory: Photos like those the segmenter will see; at most `_SAMPLES` are used, spread
            evenly over the directory.
        side: Side of the model's input, pixels.

    Returns:
        float32 [side, side, 3], whole numbers from 0 to 255.

    Raises:
        UserError: No directory is given, it is missing, or it contains no readable image.
    """
    flag = "--representative_data"
    if not directory:
        raise UserError(
            f"{flag} is needed with --quantize=int8: name a directory of some hundred photos like "
            "those the segmenter will see"
        )
    if os.path.isfile(directory):
        raise UserError(f"{flag}={directory}: is a file; name a directory of photos")
    images = compare.images_to_compare(directory, _SAMPLES, flag)
    return [to_square(image, side).astype(np.float32) for image in images]


def keras_masks(segmenter: LayeredSegmenter, images: np.ndarray, name: str = "masks") -> np.ndarray:
    """Returns an output of the Keras model, uint8 [B, S, S, 3] -> float [B, S, S, C]."""
    converter = segmenter.preprocessor.image_converter
    scaled = images.astype(np.float32) * converter.scale + converter.offset
    masks = keras.ops.convert_to_numpy(segmenter(scaled, training=False))
    return np.asarray(segmenter.named_masks(masks)[name])


def builtin_operators(content: bytes) -> list[str]:
    """Returns the names of a flatbuffer's operators, sorted.

    Raises:
        UserError: One of them is not built into every TFLite runtime (a Flex or custom operator).
    """
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name[0] != "_"}
    model = schema.Model.GetRootAs(content, 0)
    operators = set()
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        # Operators of the first schema keep their number in its field.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number == schema.BuiltinOperator.CUSTOM:
            raise UserError(
                f"the converted model needs the operator {code.CustomCode().decode()!r}, which is "
                "not built into TFLite; nothing was written"
            )
        operators.add(names[number])
    return sorted(operators)


def _require_object_masks(
    segmenter: LayeredSegmenter, content: bytes, quantize: str, photos: list[np.ndarray]
) -> None:
    """Raises a UserError if the masks of the layers are beyond the limits of the mode."""
    expected = functools.partial(keras_masks, segmenter, name=OBJECT_MASKS)
    run = interpreter(content, threads=1, name=OBJECT_MASKS)
    compare.require_limits(compare.measure(run, expected, photos), quantize)


def _count_operations(content: bytes) -> int:
    model = schema.Model.GetRootAs(content, 0)
    return sum(model.Subgraphs(i).OperatorsLength() for i in range(model.SubgraphsLength()))


def require_writable(segmenter: LayeredSegmenter, out: str, side: int, overwrite: bool) -> None:
    """Raises a UserError if a file of that input side cannot be written to `out`."""
    stride = segmenter.backbone.stride
    if side < stride or side % stride:
        raise UserError(f"--input_size={side}: it must be a multiple of {stride}")
    if segmenter.backbone.input.shape[1] not in (None, side):
        raise UserError(f"--input_size={side}: this network takes {segmenter.resolution} px only")
    if os.path.isdir(out):
        raise UserError(f"--out={out}: a directory has this name; name a file")
    if os.path.lexists(out) and not overwrite:
        raise UserError(f"--out={out}: already exists; remove it or add --overwrite")
