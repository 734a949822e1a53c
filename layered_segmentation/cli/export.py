r"""Exports a segmenter: a SavedModel for servers, TFLite for phones, or ONNX.

The export is loaded again and compared with the Keras model, on --images or on procedural scenes;
one that differs too much is not written.

--format=saved_model writes OUT/N, where N is the next version number. It has the signatures
serving_default (uint8 photos [B, H, W, 3] of any size -> float32 masks [B, H, W, 1] of the same
size), image_bytes (JPEG or PNG files, string [B] -> masks [B, R, R, 1] at the network's own side R)
and, if a generator draws the masks, layers (photos -> background, foreground, mask and composite).
A segmenter of several foreground layers also gives `object_masks`, one for each, in both formats.
OUT/models.config, for --model_config_file, is written once.

--format=tflite writes the file OUT, of built-in operators only. Its signature takes `images`
[1, S, S, 3], RGB from 0 to 255, and gives `masks` [1, S, S, 1] in [0, 1], both float32; with
--quantize=int8 both are uint8 and masks are in steps of 1/256. The caller makes a photo square: by
squashing it or, for a segmenter trained with data.aspect=pad or centre_crop, by continuing its
edges. Mask values may differ by 1e-4, with --quantize=float16 by 1e-2; dynamic and int8 may lose
0.01 of the mIoU, against --masks or else against the Keras model's own masks.

--format=onnx writes the file OUT for ONNX Runtime, with the signature of the TFLite file for any
number of images, float32. It needs the extra `onnx`. Mask values may differ by 1e-4.

`python -m layered_segmentation.export.saved_model`, `….tflite` and `….onnx` take the same flags and
need no --format.

Example:
  layerseg export --format=saved_model --segmenter=RUN --out=MODELS/layerseg
  layerseg export --format=tflite --segmenter=RUN --out=segmenter.tflite
  layerseg export --format=tflite --segmenter=RUN --out=small.tflite --quantize=int8 \
      --representative_data=PHOTOS --images=TEST_PHOTOS --masks=TEST_MASKS
  layerseg export --format=onnx --segmenter=RUN --out=segmenter.onnx
"""

import sys

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.choices import Quantization
from layered_segmentation.cli import app, shared

_FORMAT = flags.DEFINE_enum(
    "format", None, ["saved_model", "tflite", "onnx"], "What to export.", required=True
)
_SEGMENTER = flags.DEFINE_string(
    "segmenter", None, "Run directory, preset directory, hf://… or kaggle://….", required=True
)
_STAGE = shared.define_stage_flag()
_OUT = flags.DEFINE_string(
    "out", None, "The file, or the directory of a SavedModel's versions.", required=True
)
_IMAGES = flags.DEFINE_string(
    "images", "", "Photos to compare with the Keras model on; procedural scenes if empty."
)
_INPUT_SIZE = flags.DEFINE_integer(
    "input_size", 0, "Side of the input, pixels; the segmenter's resolution if 0."
)
_MASKS = flags.DEFINE_string("masks", "", "True masks of --images, to score against too.")
_IGNORE = flags.DEFINE_string("ignore", "", "Masks of pixels that are not scored.")
_MASK_VALUE = shared.define_value_flag("mask_value", "--masks")
_LABEL = flags.DEFINE_string("label", "object", "What the masks show, for the file's metadata.")
_QUANTIZE = flags.DEFINE_enum(
    "quantize",
    Quantization.none,
    list(Quantization),
    "float32, float16 weights, int8 weights, or int8 throughout.",
)
_REPRESENTATIVE = flags.DEFINE_string(
    "representative_data",
    "",
    "Some hundred photos from which --quantize=int8 derives its ranges.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing file.")
shared.define_max_pixels_flag()
for flag in (_MASKS, _IGNORE, _MASK_VALUE, _QUANTIZE, _REPRESENTATIVE):
    app.goes_with(flag, _FORMAT, "tflite")
for flag in (_INPUT_SIZE, _LABEL, _OVERWRITE):
    app.goes_with(flag, _FORMAT, "tflite", "onnx")


def run_format(name: str) -> None:
    """Runs the verb with `--format=NAME`, for the scripts named after a format."""
    app.run(main, argv=[sys.argv[0], f"--format={name}", *sys.argv[1:]])


def main(_: list[str]) -> None:
    """Exports one segmenter."""
    quiet.import_tensorflow()
    {"tflite": _export_tflite, "onnx": _export_onnx, "saved_model": _export_saved_model}[
        _FORMAT.value
    ]()


def _segmenter() -> str:
    return shared.segmenter_at(_SEGMENTER.value, _STAGE.value)


def _export_saved_model() -> None:
    from layered_segmentation.export import saved_model
    from layered_segmentation.segmenter import presets

    segmenter = presets.load(_segmenter())
    print(saved_model.export_saved_model(segmenter, _OUT.value, _IMAGES.value).summary())


def _export_onnx() -> None:
    from layered_segmentation.export import onnx
    from layered_segmentation.segmenter import presets

    onnx.require_installed()
    done = onnx.export_onnx(
        presets.load(_segmenter()),
        _OUT.value,
        input_size=_INPUT_SIZE.value,
        images=_IMAGES.value,
        overwrite=_OVERWRITE.value,
        label=_LABEL.value,
    )
    print(done.summary())


def _export_tflite() -> None:
    from layered_segmentation.export import tflite
    from layered_segmentation.segmenter import domain, presets

    done = tflite.export_tflite(
        presets.load(_segmenter()),
        _OUT.value,
        input_size=_INPUT_SIZE.value,
        images=_IMAGES.value,
        overwrite=_OVERWRITE.value,
        quantize=_QUANTIZE.value,
        representative_data=_REPRESENTATIVE.value,
        masks=_MASKS.value,
        ignore=_IGNORE.value,
        label=_LABEL.value,
        mask_values=_MASK_VALUE.value,
        statistics=domain.of_segmenter(_segmenter()),
    )
    print(done.summary())


if __name__ == "__main__":
    app.run(main)
