"""Exports a segmenter as a SavedModel, for TF Serving.

Writes OUT/N, N being the next free number, with the signature serving_default: uint8
[B, H, W, 3] RGB of any size -> float32 masks [B, H, W, 1] in [0, 1] of the same size; and the
signature image_bytes: encoded JPEG or PNG photos, string [B], which may differ in size -> masks at
the network's own side R, float32 [B, R, R, 1]. It is loaded again and both are compared with the
Keras model before it gets its number.

Example:
  python -m layered_segmentation.export.saved_model --segmenter=RUN --out=MODELS/layerseg
"""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.models.segmenter import LayeredSegmenter

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
    """

    path: str
    megabytes: float
    difference: float
    images: int
    milliseconds: float


def export_saved_model(
    segmenter: "LayeredSegmenter", out: str, images: str = ""
) -> SavedModelExport:
    """Writes OUT/N and checks it.

    Args:
        segmenter: What to export.
        out: Directory of all versions of the model.
        images: Directory of photos to compare on; procedural scenes if empty.

    Raises:
        UserError: `out` is a file, no image can be read, or the masks differ from Keras's; no
            version is added then.
    """
    import numpy as np
    import tensorflow as tf

    from layered_segmentation.export import checks

    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"--out={out}: a file has this name; name a directory")
    photos = checks.images_to_compare(images)
    is_new = not os.path.isdir(out)
    os.makedirs(out, exist_ok=True)
    partial = os.path.join(out, "version.partial")  # not a number: TF Serving looks past it
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write(segmenter, partial)
        # Loaded from disk, without this package's classes, as a server does.
        loaded = tf.saved_model.load(partial)
        serve = loaded.signatures["serving_default"]

        def exported(batch: np.ndarray) -> np.ndarray:
            return serve(images=tf.constant(batch))["masks"].numpy()

        def keras_masks(batch: np.ndarray) -> np.ndarray:
            return np.stack(segmenter.predict_masks(batch))[..., None]

        difference = checks.largest_difference(exported, keras_masks, photos)
        difference = max(difference, _bytes_difference(loaded, segmenter, photos))
        checks.require_close(difference, len(photos))
        side = segmenter.resolution
        one = np.zeros((1, side, side, 3), np.uint8)
        milliseconds = checks.median_latency(lambda: exported(one))
        megabytes = _size(partial) / 1e6
        path = os.path.join(out, str(_next_version(out)))
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if is_new and not os.listdir(out):
            os.rmdir(out)
        raise
    return SavedModelExport(path, megabytes, difference, len(photos), milliseconds)


def write(segmenter: "LayeredSegmenter", directory: str) -> None:
    """Writes the SavedModel, unchecked."""
    import keras
    import tensorflow as tf

    from layered_segmentation.models.preprocessing import crop_from_square

    def serving_default(images: Any) -> dict[str, Any]:
        masks = segmenter(segmenter.prepare(images), training=False)
        # As `segmenter.restore` does; keras.ops does not resize to a size known only at run time.
        size = tf.shape(images)[1:3]
        if segmenter.preprocessor.image_converter.pads:
            side = tf.reduce_max(size)
            masks = tf.image.resize(masks, [side, side], antialias=True)
            masks = crop_from_square(masks, size[0], size[1])
        else:
            masks = tf.image.resize(masks, size, antialias=True)
        return {"masks": tf.clip_by_value(masks, 0.0, 1.0)}

    def image_bytes(bytes: Any) -> dict[str, Any]:  # the input's name is a contract
        def prepare(encoded: Any) -> Any:
            image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
            image.set_shape([None, None, 3])
            return segmenter.prepare(image[None])[0]

        side = segmenter.resolution
        shape = tf.TensorSpec((side, side, 3), tf.float32)
        prepared = tf.map_fn(prepare, bytes, fn_output_signature=shape)
        return {"masks": segmenter(prepared, training=False)}

    archive = keras.export.ExportArchive()
    archive.track(segmenter)
    specification = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")
    archive.add_endpoint("serving_default", serving_default, [specification])
    encoded = tf.TensorSpec((None,), tf.string, name="bytes")
    archive.add_endpoint("image_bytes", image_bytes, [encoded])
    archive.write_out(directory, verbose=False)


def _bytes_difference(loaded: Any, segmenter: "LayeredSegmenter", photos: "Sequence[Any]") -> float:
    """Returns how far the masks of encoded photos, all in one batch, are from Keras's."""
    import cv2
    import keras
    import numpy as np
    import tensorflow as tf

    encoded = [cv2.imencode(".png", photo[..., ::-1])[1].tobytes() for photo in photos]
    ours = loaded.signatures["image_bytes"](bytes=tf.constant(encoded))["masks"].numpy()
    prepared = np.concatenate(
        [keras.ops.convert_to_numpy(segmenter.prepare(photo[None])) for photo in photos]
    )
    theirs = keras.ops.convert_to_numpy(segmenter(prepared, training=False))
    difference = float(np.abs(ours - theirs).max())
    return difference if np.isfinite(difference) else float("inf")


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
        from layered_segmentation.models import segmenter as segmenters

        done = export_saved_model(segmenters.load(_SEGMENTER.value), _OUT.value, _IMAGES.value)
        print(
            f"{done.path}: {done.megabytes:.2f} MB; masks differ from Keras by at most "
            f"{done.difference:.1e} on {done.images} images; {done.milliseconds:.1f} ms an image"
        )

    app.run(main)
