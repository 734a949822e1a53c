"""`LayeredSegmenter`: the product, a KerasHub task that turns photos of any size into masks."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops
from keras_hub.src.utils.preset_utils import register_presets

from layered_segmentation import files
from layered_segmentation.errors import UserError
from layered_segmentation.gan.composite import Layers, compose
from layered_segmentation.segmenter import presets
from layered_segmentation.segmenter.autoencoder import EncoderGeneratorBackbone
from layered_segmentation.segmenter.preprocessing import (
    EncoderSegmenterImageConverter,
    EncoderSegmenterPreprocessor,
    LayeredSegmenterImageConverter,
    LayeredSegmenterPreprocessor,
    crop_from_square,
    pad_to_square,
)
from layered_segmentation.segmenter.unet import UNetBackbone, levels_for

_BATCH = 64  # images a pass, in prediction


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

    backbone_cls: Any = UNetBackbone
    preprocessor_cls = LayeredSegmenterPreprocessor

    def __init__(self, backbone: Any, preprocessor: Any = None, **kwargs: Any):
        head = self.make_head()
        inputs = backbone.input
        logits = head(backbone(inputs))
        outputs = keras.layers.Activation("sigmoid", dtype="float32", name="masks")(logits)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.head = head

    @staticmethod
    def make_head() -> keras.layers.Layer:
        """Returns the layer that makes mask logits of the backbone's features."""
        # In float32 also under mixed precision: a mask is a probability.
        return keras.layers.Conv2D(1, 1, dtype="float32", name="mask_logits")

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
        if converter.pads:
            images = pad_to_square(images)
        images = ops.image.resize(
            ops.cast(images, "float32"),
            converter.image_size,
            interpolation=converter.interpolation,
            antialias=converter.antialias,
        )
        return images * converter.scale + converter.offset

    def restore(self, masks: Any, height: int, width: int) -> Any:
        """Undoes what `prepare` did to the shape of photos.

        Args:
            masks: Float [B, R, R, 1].
            height: Of the photos, pixels.
            width: Likewise.

        Returns:
            Float [B, height, width, 1] in [0, 1].
        """
        if not self.preprocessor.image_converter.pads:
            return resize_masks(masks, height, width)
        side = max(height, width)
        return crop_from_square(resize_masks(masks, side, side), height, width)

    def masks(self, images: Any) -> Any:
        """Segments a batch of photos; what the SavedModel computes.

        Args:
            images: uint8 [B, H, W, 3], any size.

        Returns:
            Float [B, H, W, 1] in [0, 1].
        """
        height, width = ops.shape(images)[1:3]
        return self.restore(self(self.prepare(images), training=False), height, width)

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
        for batch, prepared in self._batches(images):
            # Keras's own predict: the one of KerasHub would prepare the images once more.
            small = keras.Model.predict_on_batch(self, prepared)
            for image, mask in zip(batch, small, strict=True):
                restored = self.restore(mask[None], *image.shape[:2])
                masks.append(ops.convert_to_numpy(restored)[0, ..., 0])
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

    def save_to_preset(self, preset_dir: str, *args: Any, **kwargs: Any) -> None:
        """Writes a preset as KerasHub does, and the checksums of its files."""
        super().save_to_preset(preset_dir, *args, **kwargs)
        presets.write_checksums(preset_dir)

    def _batches(self, images: Any) -> Iterator[tuple[list[np.ndarray], Any]]:
        """Yields photos with what the network takes, a batch at a time."""
        for first in range(0, len(images), _BATCH):
            batch = [as_rgb(image) for image in images[first : first + _BATCH]]
            yield batch, ops.concatenate([self.prepare(image[None]) for image in batch])


@keras.saving.register_keras_serializable(package="layered_segmentation")
class EncoderSegmenter(LayeredSegmenter):
    """The paper's segmenter: the mask that the generator draws for a photo's codes.

    `fit` trains the encoder only; the generator stays as it is.

    Args:
        backbone: An `EncoderGeneratorBackbone`.
        preprocessor: An `EncoderSegmenterPreprocessor`.
        **kwargs: As of `LayeredSegmenter`.
    """

    backbone_cls = EncoderGeneratorBackbone
    preprocessor_cls = EncoderSegmenterPreprocessor

    @staticmethod
    def make_head() -> keras.layers.Layer:
        """Returns the layer that picks the mask logits out of the generator's outputs."""
        return _MaskLogits(dtype="float32", name="mask_logits")

    def predict_layers(self, images: Sequence[np.ndarray] | np.ndarray) -> Layers:
        """Returns what the generator draws for photos; `compose` lays it together.

        Args:
            images: As for `predict_masks`.

        Returns:
            Layers of float32 arrays at the network's resolution, [N, R, R, C].

        Raises:
            UserError: An image is not uint8 or not an image.
        """
        parts = [self.backbone.predict_on_batch(prepared) for _, prepared in self._batches(images)]
        layers = self.backbone.generator.to_layers(np.concatenate(parts))
        return Layers(*map(ops.convert_to_numpy, layers))

    def reconstruct(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Returns the composites of `predict_layers`, float [N, R, R, 3] in about [-1, 1]."""
        return compose(self.predict_layers(images))


class _MaskLogits(keras.layers.Layer):
    """Background, foreground and mask logits, [B, R, R, 7] -> mask logits, [B, R, R, 1]."""

    def call(self, outputs: Any) -> Any:
        return outputs[..., 6:7]


def create(width: int, resolution: int, aspect: str = "squash") -> LayeredSegmenter:
    """Makes an untrained segmenter.

    Args:
        width: Channels of the U-Net's first level.
        resolution: Side of the square it works at, a multiple of 8.
        aspect: How photos become that square, as in `data.aspect`.
    """
    converter = LayeredSegmenterImageConverter.for_side(resolution, aspect)
    return LayeredSegmenter(
        backbone=UNetBackbone(width, levels_for(resolution)),
        preprocessor=LayeredSegmenterPreprocessor(converter),
    )


def create_encoder(backbone: EncoderGeneratorBackbone, aspect: str = "squash") -> EncoderSegmenter:
    """Makes a segmenter of an encoder and a generator; `aspect` as for `create`."""
    converter = EncoderSegmenterImageConverter.for_side(backbone.resolution, aspect)
    return EncoderSegmenter(backbone, EncoderSegmenterPreprocessor(converter))


def save(
    segmenter: LayeredSegmenter, directory: str, overwrite: bool = False, card: str = ""
) -> None:
    """Writes a KerasHub preset; the directory appears only when it is complete.

    Args:
        segmenter: What to write.
        directory: The preset's.
        overwrite: Whether a preset that is there is replaced; a card in it that somebody has
            worked on stays beside the new one.
        card: Its model card; none if empty.

    Raises:
        UserError: The directory exists and `overwrite` is off.
    """
    if os.path.lexists(directory) and not overwrite:
        raise UserError(f"{directory}: already exists; remove it or add --overwrite")
    with files.replacing_directory(directory) as partial:
        segmenter.save_to_preset(partial)
        if card:
            presets.write_card(partial, card)
        presets.keep_edited_card(directory, partial)


def load(path: str) -> LayeredSegmenter:
    """Loads a segmenter from a run directory, a preset directory or a preset's address.

    Args:
        path: RUN (with RUN/segmenter/), a preset directory, the name of a preset that comes with
            the package (`presets.names()`), or `hf://…`, `kaggle://…`. A directory goes before a
            name.

    Raises:
        UserError: There is none, it is not one of ours, or a file of it is not what was saved.
    """
    preset = path
    if "://" not in path:
        preset = find(path)
        if preset in presets.names():  # a directory, which KerasHub would take for its own
            preset = os.path.join(os.curdir, preset)
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


def find(path: str, flag: str = "--segmenter") -> str:
    """Returns the directory of a preset on this machine, its files checked.

    Args:
        path: As for `load`, but for addresses.
        flag: What named it, for messages.

    Raises:
        UserError: There is none, or a file of it is not what was saved.
    """
    if not os.path.lexists(path) and (directory := presets.packaged(path)):
        return directory
    for candidate in (path, os.path.join(path, "segmenter")):
        if os.path.isfile(os.path.join(candidate, "task.json")):
            if os.path.isfile(os.path.join(candidate, presets.CHECKSUMS)):
                presets.verify(candidate, "make it anew, or copy it again from where it is whole")
            return candidate
    if os.path.isfile(os.path.join(path, "config.yaml")):
        raise UserError(
            f"no segmenter in {path} yet: run `layerseg distill --run_dir={path}` first"
        )
    if os.path.isdir(path):
        raise UserError(
            f"{flag}={path}: neither a run directory (no config.yaml) nor a preset (no task.json)"
        )
    raise UserError(
        f"{flag}={path}: there is no such directory, and no such preset in the package "
        f"({', '.join(presets.names())})"
    )


# `LayeredSegmenter.presets` lists them, and `ImageSegmenter.from_preset` finds them by name.
register_presets(presets.catalogue(), UNetBackbone)
