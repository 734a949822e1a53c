"""`LayeredSegmenter`: the product, a KerasHub task that turns photos of any size into masks."""

import os
import shutil
from collections.abc import Sequence
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

from layered_segmentation.errors import UserError
from layered_segmentation.models.unet import UNetBackbone, levels_for

_BATCH = 64  # images a pass, in prediction


@keras.saving.register_keras_serializable(package="layered_segmentation")
class LayeredSegmenterImageConverter(keras_hub.layers.ImageConverter):
    """Squashes uint8 RGB images of any size to the network's square, in [-1, 1]."""

    backbone_cls = UNetBackbone

    def call(self, inputs: Any) -> Any:
        """Resizes and scales one image, a batch or a list; float at once, so nothing is rounded."""
        return super().call(keras.tree.map_structure(self._as_float, inputs))

    def _as_float(self, images: Any) -> Any:
        if isinstance(images, np.ndarray):
            return images.astype(np.float32)
        return self._convert_types(images, images, "float32")[0]


@keras.saving.register_keras_serializable(package="layered_segmentation")
class LayeredSegmenterPreprocessor(keras_hub.models.ImageSegmenterPreprocessor):
    """The converter as KerasHub's preprocessor, so that `fit` and `from_preset` find it."""

    backbone_cls = UNetBackbone
    image_converter_cls = LayeredSegmenterImageConverter


@keras.saving.register_keras_serializable(package="layered_segmentation")
class LayeredSegmenter(keras_hub.models.ImageSegmenter):
    """Cuts one kind of thing out of photos.

    As a Keras model it maps prepared images, float [B, R, R, 3] in [-1, 1], to mask probabilities,
    float [B, R, R, 1]; `predict`, `predict_masks` and `masks` take photos as they are. A preset
    directory round-trips: `segmenter.save_to_preset(DIR)`, then
    `keras_hub.models.ImageSegmenter.from_preset(DIR)`.

    Args:
        backbone: A `UNetBackbone`.
        preprocessor: A `LayeredSegmenterPreprocessor`; its converter's size is the resolution.
        **kwargs: `name`, and what `keras_hub.models.Task` takes.
    """

    backbone_cls = UNetBackbone
    preprocessor_cls = LayeredSegmenterPreprocessor

    def __init__(self, backbone: UNetBackbone, preprocessor: Any = None, **kwargs: Any):
        # The head works in float32 also under mixed precision: a mask is a probability.
        head = keras.layers.Conv2D(1, 1, dtype="float32", name="mask_logits")
        inputs = backbone.input
        logits = head(backbone(inputs))
        outputs = keras.layers.Activation("sigmoid", dtype="float32", name="masks")(logits)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.head = head

    @property
    def resolution(self) -> int:
        """Side of the square the network works at, pixels."""
        return int(self.preprocessor.image_converter.image_size[0])

    def compile(
        self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any
    ) -> None:
        """Compiles for fine-tuning on masks, float [B, R, R, 1], with binary cross-entropy."""
        if loss == "auto":
            loss = keras.losses.BinaryCrossentropy()
        if metrics == "auto":
            metrics = [keras.metrics.BinaryAccuracy()]
        super().compile(optimizer, loss, metrics=metrics, **kwargs)

    def logits(self, images: Any, training: bool = False) -> Any:
        """Maps prepared images, float [B, R, R, 3], to mask logits, float [B, R, R, 1]."""
        return self.head(self.backbone(images, training=training))

    def prepare(self, images: Any) -> Any:
        """Resizes and scales photos as the preprocessor does, in `keras.ops` only.

        Args:
            images: uint8 [B, H, W, 3], any size.

        Returns:
            Float [B, R, R, 3] in [-1, 1].
        """
        converter = self.preprocessor.image_converter
        images = ops.image.resize(
            ops.cast(images, "float32"),
            converter.image_size,
            interpolation=converter.interpolation,
            antialias=converter.antialias,
        )
        return images * converter.scale + converter.offset

    def masks(self, images: Any) -> Any:
        """Segments a batch of photos; what the SavedModel computes.

        Args:
            images: uint8 [B, H, W, 3], any size.

        Returns:
            Float [B, H, W, 1] in [0, 1].
        """
        height, width = ops.shape(images)[1:3]
        return resize_masks(self(self.prepare(images), training=False), height, width)

    def predict_masks(self, images: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Segments photos of any sizes.

        Args:
            images: uint8 photos [H, W, 3]; grey [H, W] and RGBA [H, W, 4] are converted. Or one
                uint8 [B, H, W, 3].

        Returns:
            For each photo a float32 [H, W] in [0, 1].

        Raises:
            UserError: An image is not uint8 or not an image.
        """
        masks = []
        for first in range(0, len(images), _BATCH):
            batch = [as_rgb(image) for image in images[first : first + _BATCH]]
            prepared = ops.concatenate([self.prepare(image[None]) for image in batch])
            # Keras's own predict: the one of KerasHub would prepare the images once more.
            small = keras.Model.predict_on_batch(self, prepared)
            for image, mask in zip(batch, small, strict=True):
                mask = resize_masks(mask[None], *image.shape[:2])
                masks.append(ops.convert_to_numpy(mask)[0, ..., 0])
        return masks

    def predict(self, x: Any, batch_size: Any = None, verbose: Any = 0, **kwargs: Any) -> Any:
        """Segments photos: uint8 [B, H, W, 3] -> float [B, H, W, 1]; a list gives a list.

        Datasets go to KerasHub's `predict` and give masks at the network's resolution.
        """
        if isinstance(x, np.ndarray) and x.ndim == 4:
            return np.stack(self.predict_masks(x))[..., None]
        if isinstance(x, list | tuple):
            return [mask[..., None] for mask in self.predict_masks(x)]
        return super().predict(x, batch_size=batch_size, verbose=verbose, **kwargs)


def create(width: int, resolution: int) -> LayeredSegmenter:
    """Makes an untrained segmenter.

    Args:
        width: Channels of the U-Net's first level.
        resolution: Side of the square it works at, a multiple of 8.
    """
    converter = LayeredSegmenterImageConverter(
        image_size=(resolution, resolution),
        scale=1 / 127.5,
        offset=-1.0,
        crop_to_aspect_ratio=False,
        antialias=True,
    )
    return LayeredSegmenter(
        backbone=UNetBackbone(width, levels_for(resolution)),
        preprocessor=LayeredSegmenterPreprocessor(converter),
    )


def save(segmenter: LayeredSegmenter, directory: str, overwrite: bool = False) -> None:
    """Writes a KerasHub preset; the directory appears only when it is complete.

    Raises:
        UserError: The directory exists and `overwrite` is off.
    """
    if os.path.lexists(directory) and not overwrite:
        raise UserError(f"{directory}: already exists; remove it or add --overwrite")
    partial, replaced = f"{directory}.partial", f"{directory}.replaced"
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        segmenter.save_to_preset(partial)
        if os.path.lexists(directory):
            os.replace(directory, replaced)
        os.replace(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def load(path: str) -> LayeredSegmenter:
    """Loads a segmenter from a run directory, a preset directory or a preset's address.

    Args:
        path: RUN (with RUN/segmenter/), a preset directory, or `hf://…`, `kaggle://…`.

    Raises:
        UserError: There is none, or it is not one of ours.
    """
    preset = path
    if "://" not in path:
        preset = _find_preset(path)
    try:
        segmenter = keras_hub.models.ImageSegmenter.from_preset(preset)
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--segmenter={path}: {preset} cannot be loaded: {reason}") from error
    if not isinstance(segmenter, LayeredSegmenter):
        raise UserError(
            f"--segmenter={path}: holds a {type(segmenter).__name__}, not a LayeredSegmenter"
        )
    return segmenter


def resize_masks(masks: Any, height: Any, width: Any) -> Any:
    """Resizes masks bilinearly, float [B, h, w, 1] -> float [B, height, width, 1]."""
    resized = ops.image.resize(masks, (height, width), interpolation="bilinear", antialias=True)
    return ops.clip(resized, 0.0, 1.0)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Returns a uint8 image as RGB: grey is repeated, alpha is dropped.

    Raises:
        UserError: It is not a uint8 image.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise UserError(
            f"an image has values of type {image.dtype}; the segmenter takes uint8, 0 to 255"
        )
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise UserError(f"an image has the shape {image.shape}; it must be [H, W, 3]")
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]


def _find_preset(path: str) -> str:
    for candidate in (path, os.path.join(path, "segmenter")):
        if os.path.isfile(os.path.join(candidate, "task.json")):
            return candidate
    if os.path.isfile(os.path.join(path, "config.yaml")):
        raise UserError(
            f"no segmenter in {path} yet: run `layerseg distill --run_dir={path}` first"
        )
    if os.path.isdir(path):
        raise UserError(
            f"--segmenter={path}: neither a run directory (no config.yaml) nor a preset (no "
            "task.json)"
        )
    raise UserError(f"--segmenter={path}: there is no such directory")
