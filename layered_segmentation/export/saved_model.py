"""Exports a segmenter as a SavedModel, for TF Serving.

Writes OUT/N, N being the next free number, with the signatures serving_default: uint8
[B, H, W, 3] RGB of any size -> float32 masks [B, H, W, 1] in [0, 1] of the same size; image_bytes:
encoded JPEG or PNG photos, string [B], which may differ in size -> masks at the network's own side
R, float32 [B, R, R, 1]; and, where a generator draws the mask, layers: uint8 [B, H, W, 3] ->
float32 background, foreground, composite [B, R, R, 3] in about [-1, 1] and mask [B, R, R, 1]. It is
loaded again, its operators are checked, its warm-up requests answered and all signatures compared
with the Keras model before it gets its number.

OUT/models.config is for --model_config_file; an existing one stays as it is.

Example:
  python -m layered_segmentation.export.saved_model --segmenter=RUN --out=MODELS/layerseg
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from layered_segmentation import files
from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.segmenter.segmenter import LayeredSegmenter

RESUME = "no version was added; run it again"


@dataclasses.dataclass(frozen=True)
class SavedModelExport:
    """A SavedModel that was written and checked.

    Attributes:
        path: The version's directory.
        megabytes: Its size.
        difference: Largest difference of its masks to the Keras model's.
        images: How many images were compared.
        milliseconds: Median time of one image at the network's resolution, in this process.
        signatures: Their names.
        operators: TensorFlow's operators that it runs, sorted.
        warmup: How many warm-up requests it carries.
    """

    path: str
    megabytes: float
    difference: float
    images: int
    milliseconds: float
    signatures: list[str]
    operators: list[str]
    warmup: int


def export_saved_model(
    segmenter: "LayeredSegmenter", out: str, images: str = ""
) -> SavedModelExport:
    """Writes OUT/N and checks it.

    Args:
        segmenter: What to export.
        out: Directory of all versions of the model.
        images: Directory of photos to compare on; procedural scenes if empty.

    Raises:
        UserError: `out` is a file, no image can be read, an operator is not TensorFlow's own, or
            an output differs from Keras's; no version is added then.
    """
    import numpy as np
    import tensorflow as tf

    from layered_segmentation.export import compare, operators, serving, serving_settings

    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"--out={out}: a file has this name; name a directory")
    photos = compare.images_to_compare(images)
    is_new = not os.path.isdir(out)
    os.makedirs(out, exist_ok=True)
    path = os.path.join(out, str(_next_version(out)))
    try:
        with files.replacing_directory(path, overwrite=False) as partial:
            write(segmenter, partial)
            run = operators.served(partial)
            model = os.path.basename(os.path.abspath(out))
            serving.write(partial, segmenter, model)
            serving_settings.write_batching(partial)
            # Loaded from disk, without this package's classes, as a server does.
            loaded = tf.saved_model.load(partial)
            serve = loaded.signatures["serving_default"]

            def exported(batch: np.ndarray) -> np.ndarray:
                return serve(images=tf.constant(batch))["masks"].numpy()

            def keras_masks(batch: np.ndarray) -> np.ndarray:
                return np.stack(segmenter.predict_masks(batch))[..., None]

            difference = compare.largest_difference(exported, keras_masks, photos)
            difference = max(difference, _bytes_difference(loaded, segmenter, photos))
            if "layers" in loaded.signatures:
                difference = max(difference, _layers_difference(loaded, segmenter, photos))
            requests = serving.replay(partial, loaded)
            compare.require_close(difference, len(photos))
            side = segmenter.resolution
            one = np.zeros((1, side, side, 3), np.uint8)
            milliseconds = compare.median_latency(lambda: exported(one))
            megabytes = _size(partial) / 1e6
    except BaseException:
        if is_new and not os.listdir(out):  # another export may have added a version meanwhile
            os.rmdir(out)
        raise
    serving_settings.write_models(out, model)
    return SavedModelExport(
        path=path,
        megabytes=megabytes,
        difference=difference,
        images=len(photos),
        milliseconds=milliseconds,
        signatures=sorted(loaded.signatures),
        operators=run,
        warmup=requests,
    )


def write(segmenter: "LayeredSegmenter", directory: str) -> None:
    """Writes the SavedModel, unchecked."""
    import keras

    from layered_segmentation.export import signatures

    archive = keras.export.ExportArchive()
    archive.track(segmenter)
    for name, signature in signatures.of(segmenter).items():
        archive.add_endpoint(name, signature.function, [signature.specification])
    archive.write_out(directory, verbose=False)


def _bytes_difference(loaded: Any, segmenter: "LayeredSegmenter", photos: "Sequence[Any]") -> float:
    """Returns how far the masks of encoded photos, all in one batch, are from Keras's."""
    import cv2
    import keras
    import numpy as np
    import tensorflow as tf

    from layered_segmentation.export import signatures
    from layered_segmentation.segmenter.segmenter import resize_masks

    encoded = [cv2.imencode(".png", photo[..., ::-1])[1].tobytes() for photo in photos]
    ours = loaded.signatures["image_bytes"](bytes=tf.constant(encoded))["masks"].numpy()
    theirs = []
    for photo in photos:
        mask = segmenter(segmenter.prepare(photo[None]), training=False)
        if segmenter.preprocessor.image_converter.pads:
            side = segmenter.resolution
            height, width = signatures.uncropped(photo.shape[0], photo.shape[1], side)
            mask = resize_masks(segmenter.restore(mask, int(height), int(width)), side, side)
        theirs.append(keras.ops.convert_to_numpy(mask))
    difference = float(np.abs(ours - np.concatenate(theirs)).max())
    return difference if np.isfinite(difference) else float("inf")


def _layers_difference(loaded: Any, segmenter: Any, photos: "Sequence[Any]") -> float:
    """Returns how far the layers and their composite are from Keras's.

    As a share of the largest value, where that is over 1: a generator that has learnt little draws
    far outside of [-1, 1].
    """
    import numpy as np
    import tensorflow as tf

    largest = 0.0
    for photo in photos:
        ours = loaded.signatures["layers"](images=tf.constant(photo[None]))
        theirs = segmenter.predict_layers(photo[None])._asdict()
        theirs["composite"] = segmenter.reconstruct(photo[None])
        for name, expected in theirs.items():
            difference = float(np.abs(ours[name].numpy() - expected).max())
            difference /= max(1.0, float(np.abs(expected).max()))
            largest = max(largest, difference if np.isfinite(difference) else float("inf"))
    return largest


def _next_version(out: str) -> int:
    """Returns the number after the highest one that is there, so that a server takes it."""
    return 1 + max((int(name) for name in os.listdir(out) if name.isdigit()), default=0)


def _size(directory: str) -> int:
    return sum(
        os.path.getsize(os.path.join(folder, file))
        for folder, _, files in os.walk(directory)
        for file in files
    )


if __name__ == "__main__":
    # Flags are defined only where the script runs: two scripts may be imported side by side.
    _SEGMENTER = flags.DEFINE_string(
        "segmenter", None, "Run directory, preset directory, hf://… or kaggle://….", required=True
    )
    _OUT = flags.DEFINE_string(
        "out", None, "Directory of the model's versions; a number is added.", required=True
    )
    _IMAGES = flags.DEFINE_string(
        "images", "", "Photos to compare with the Keras model on; drawn scenes if empty."
    )

    def main(argv: list[str]) -> None:
        """Exports one segmenter."""
        del argv
        from layered_segmentation.segmenter import presets

        done = export_saved_model(presets.load(_SEGMENTER.value), _OUT.value, _IMAGES.value)
        print(
            f"{done.path}: {done.megabytes:.2f} MB; masks differ from Keras by at most "
            f"{done.difference:.1e} on {done.images} images; {done.milliseconds:.1f} ms an image\n"
            f"  signatures      {', '.join(done.signatures)}\n"
            f"  operators       {len(done.operators)}: {', '.join(done.operators)}\n"
            f"  warm-up         {done.warmup} requests"
        )

    app.run(main)
