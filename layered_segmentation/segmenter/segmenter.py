"""`LayeredSegmenter`: a KerasHub task that segments photos of any size."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import keras
import keras_hub
import numpy as np
from keras import ops
from keras_hub.src.utils.preset_utils import register_presets

from layered_segmentation.choices import Aspect, Quantization
from layered_segmentation.gan.composite import Layers, compose, visible_masks
from layered_segmentation.gan.keras_settings import DATA_FORMAT, policy, standard
from layered_segmentation.segmenter import lite_file, pipeline, preset_files
from layered_segmentation.segmenter.encoder import EncoderGeneratorBackbone
from layered_segmentation.segmenter.preprocessing import (
    EncoderSegmenterImageConverter,
    EncoderSegmenterPreprocessor,
    LayeredSegmenterImageConverter,
    LayeredSegmenterPreprocessor,
    as_rgb,
    crop_from_square,
    pad_to_square,
    resize_masks,
    union,
)
from layered_segmentation.segmenter.preset_checks import (
    CheckedTask,
    round_to_float16,
    store_as_float16,
    weights_in_memory,
)
from layered_segmentation.segmenter.unet import UNetBackbone, levels_for

_BATCH = 64  # images per pass in prediction, if they are small
OBJECT_MASKS = "object_masks"  # comes after `masks` also in alphabetical order


@keras.saving.register_keras_serializable(package="layered_segmentation")
class LayeredSegmenter(CheckedTask, keras_hub.models.ImageSegmenter):
    """Segments one kind of object in photos.

    As a Keras model it maps prepared images, float [B, R, R, 3] in [-1, 1], to mask probabilities,
    float [B, R, R, K]. `predict`, `predict_masks` and `masks` take uint8 photos of any size.

    Args:
        backbone: A `UNetBackbone`.
        preprocessor: A `LayeredSegmenterPreprocessor`; its converter's size is the resolution R.
        num_masks: K; more than 1 for the visible parts of several foreground layers.
        **kwargs: `name` and the other arguments of `keras_hub.models.Task`.

    Example:
        ```python
        from layered_segmentation import LayeredSegmenter

        segmenter = LayeredSegmenter.from_preset("layered_unet_flowers_64")
        mask = segmenter.predict_masks(photo)  # uint8 [H, W, 3] -> float [H, W]
        segmenter.save_to_preset("my_preset")
        ```
    """

    backbone_cls: Any = UNetBackbone
    preprocessor_cls = LayeredSegmenterPreprocessor

    def __init__(self, backbone: Any, preprocessor: Any = None, num_masks: int = 1, **kwargs: Any):
        head = self.make_head(num_masks)
        inputs = backbone.input
        outputs = self.make_activation(num_masks)(head(backbone(inputs)))
        kwargs["dtype"] = policy(kwargs.get("dtype"))
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.num_masks = num_masks
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.head = head

    @staticmethod
    def make_head(num_masks: int) -> keras.layers.Layer:
        """Returns the layer that computes mask logits from the backbone's features."""
        # In float32 also under mixed precision: half precision rounds probabilities near 1 to 1.
        return keras.layers.Conv2D(
            num_masks, 1, data_format=DATA_FORMAT, dtype="float32", name="mask_logits"
        )

    @staticmethod
    def make_activation(num_masks: int) -> keras.layers.Layer:
        """Returns the layer that computes masks from mask logits."""
        del num_masks
        return keras.layers.Activation("sigmoid", dtype="float32", name="masks")

    @property
    def resolution(self) -> int:
        """Side of the square images the network takes, in pixels."""
        return int(self.preprocessor.image_converter.image_size[0])

    @standard()
    def compile(
        self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any
    ) -> None:
        """Compiles for fine-tuning on masks, float [B, H, W, K], with binary cross-entropy."""
        if loss == "auto":
            loss = keras.losses.BinaryCrossentropy()
        if metrics == "auto":
            metrics = [keras.metrics.BinaryAccuracy()]
        super().compile(optimizer, loss, metrics=metrics, **kwargs)

    @standard()
    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains on photos, [B, H, W, 3] from 0 to 255, and masks of their size; as Keras's `fit`.

        Raises:
            UserError: The photos are an array of values from 0 to 1, or from -1 to 1.
        """
        is_float = isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.size > 0
        if self.preprocessor is not None and is_float and x.max() <= 1:
            as_rgb(x.reshape(-1, *x.shape[-3:])[0])
        return super().fit(x, *args, **kwargs)

    def logits(self, images: Any, training: bool = False) -> Any:
        """Maps prepared images, float [B, R, R, 3], to mask logits, float [B, R, R, K]."""
        return self.head(self.backbone(images, training=training))

    def prepare(self, images: Any) -> Any:
        """Resizes and scales photos as the preprocessor does, but with `keras.ops` only.

        Args:
            images: uint8 [B, H, W, 3] of any size.

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
            data_format=DATA_FORMAT,
        )
        return images * converter.scale + converter.offset

    def restore(self, masks: Any, height: int, width: int) -> Any:
        """Resizes masks back to the size of the photos, the inverse of `prepare`.

        Args:
            masks: Float [B, R, R, K].
            height: Height of the photos in pixels.
            width: Width of the photos in pixels.

        Returns:
            Float [B, height, width, K] in [0, 1].
        """
        if not self.preprocessor.image_converter.pads:
            return resize_masks(masks, height, width)
        side = max(height, width)
        return crop_from_square(resize_masks(masks, side, side), height, width)

    def masks(self, images: Any) -> Any:
        """Segments a batch of photos of one size. The SavedModel computes this function.

        Args:
            images: uint8 [B, H, W, 3] of any size.

        Returns:
            Float [B, H, W, 1] in [0, 1]; of several masks, their union.
        """
        height, width = ops.shape(images)[1:3]
        return self.restore(union(self(self.prepare(images), training=False)), height, width)

    @overload
    def predict_masks(self, images: Sequence[np.ndarray]) -> list[np.ndarray]: ...

    @overload
    def predict_masks(self, images: np.ndarray) -> Any: ...

    def predict_masks(self, images: Any) -> Any:
        """Segments one photo, or photos of any sizes; of several masks, returns the union.

        Args:
            images: One uint8 photo [H, W, 3], a list of such photos, or a batch [B, H, W, 3];
                arrays or tensors. Grey photos, [H, W] or [H, W, 1], and RGBA photos, [H, W, 4],
                are converted.

        Returns:
            For one photo, its mask: float32 [H, W] in [0, 1]. Otherwise the list of their masks.

        Raises:
            UserError: An image is not uint8, or does not have the shape of an image.
        """
        found = self._predict_each(images, union)
        return [one[..., 0] for one in found] if isinstance(found, list) else found[..., 0]

    def predict(
        self,
        x: Any,
        batch_size: Any = None,
        verbose: Any = 0,
        steps: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Segments photos, at their own size.

        Args:
            x: uint8 photos: one, [H, W, 3], a batch [B, H, W, 3], a list of photos of any sizes, or
                a dataset of batches or photos, perhaps with masks, which are ignored. Without a
                preprocessor, what KerasHub's `predict` takes.
            batch_size: For KerasHub's `predict`.
            verbose: Likewise.
            steps: Batches of a dataset; all if None.
            **kwargs: For KerasHub's `predict`.

        Returns:
            Float [B, H, W, K] in [0, 1], for one photo [H, W, K]. Photos of a list, and those of a
            dataset if their sizes differ, give a list.
        """
        if self.preprocessor is None:
            return super().predict(x, batch_size=batch_size, verbose=verbose, steps=steps, **kwargs)
        if isinstance(x, list | tuple):
            return self._predict_each(x)
        if hasattr(x, "shape"):
            masks = self._predict_each(x)
            return np.stack(masks) if isinstance(masks, list) else masks
        found: list[np.ndarray] = []
        for photos in itertools.islice(_photos_of(x), steps):
            masks = self._predict_each(photos)
            found += masks if isinstance(masks, list) else [masks]
        is_one_size = len({mask.shape for mask in found}) == 1
        return np.stack(found) if is_one_size else found

    def save_to_preset(
        self, preset_dir: str, *args: Any, tflite: bool = True, float16: bool = False, **kwargs: Any
    ) -> None:
        """Writes a preset as KerasHub does, its TFLite file and the checksums of its files.

        Args:
            preset_dir: The directory.
            *args: For KerasHub.
            tflite: Whether to write the file with which `layerseg segment` needs no TensorFlow; it
                takes seconds. Only students have one.
            float16: Whether to round the segmenter's weights to 16 bits first and to store them so;
                those of the TFLite file get 8 bits. The preset is 0.4 times as large.
            **kwargs: For KerasHub.

        Raises:
            ValueError: A weight is too large for `float16`.
        """
        if float16:
            round_to_float16(self)
        with weights_in_memory():
            super().save_to_preset(preset_dir, *args, **kwargs)
        if float16:
            store_as_float16(preset_dir)
        lite_file.remove(preset_dir)  # of other weights
        if tflite and type(self) is LayeredSegmenter:
            lite_file.add_to_preset(
                self, preset_dir, Quantization.dynamic if float16 else Quantization.none
            )
        preset_files.write_checksums(preset_dir)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_masks": self.num_masks}

    def named_masks(self, masks: Any) -> dict[str, Any]:
        """Returns the outputs of exports for masks, float [B, H, W, K]: the union, and several."""
        return {"masks": union(masks)} | ({OBJECT_MASKS: masks} if self.num_masks > 1 else {})

    def _predict_each(self, images: Any, of: Callable[[Any], Any] = lambda x: x) -> Any:
        """Returns what `of` makes of the masks of each photo, float32 [H, W, C]; see `predict`."""
        if hasattr(images, "shape"):  # a tensor too: its rows are no photos
            images = ops.convert_to_numpy(images)
            if images.ndim < 4:
                return self._predict_each([images], of)[0]
        masks = []
        for batch, prepared in self._batches(images):
            # `self.predict` would prepare the images a second time. Replicas each segment all.
            small = keras.Model.predict_on_batch(self, prepared)[: len(batch)]
            for image, mask in zip(batch, of(small), strict=True):
                restored = self.restore(mask[None], *image.shape[:2])
                masks.append(ops.convert_to_numpy(restored)[0])
        return masks

    def _batches(self, images: Any) -> Iterator[tuple[list[np.ndarray], Any]]:
        """Yields batches of photos, each with the network's input for it."""
        sized = ((as_rgb(image), int(np.prod(np.shape(image)[:2]))) for image in images)
        for batch, _ in pipeline.batches(sized, _BATCH, pipeline.PIXELS):
            yield batch, ops.concatenate([self.prepare(image[None]) for image in batch])


@keras.saving.register_keras_serializable(package="layered_segmentation")
class EncoderSegmenter(LayeredSegmenter):
    """The paper's segmenter: the mask that the generator draws from a photo's codes.

    `fit` trains the encoder only; the generator is frozen.

    Args:
        backbone: An `EncoderGeneratorBackbone`.
        preprocessor: An `EncoderSegmenterPreprocessor`.
        num_masks: The generator's foreground layers.
        **kwargs: As for `LayeredSegmenter`.
    """

    backbone_cls = EncoderGeneratorBackbone
    preprocessor_cls = EncoderSegmenterPreprocessor

    @staticmethod
    def make_head(num_masks: int) -> keras.layers.Layer:
        """Returns the layer that selects the mask logits from the generator's outputs."""
        return _MaskLogits(num_masks, dtype="float32", name="mask_logits")

    @staticmethod
    def make_activation(num_masks: int) -> keras.layers.Layer:
        """Returns the layer that computes the visible part of each mask from mask logits."""
        if num_masks == 1:
            return LayeredSegmenter.make_activation(num_masks)
        return _VisibleMasks(dtype="float32", name="masks")

    def predict_layers(self, images: Sequence[np.ndarray] | np.ndarray) -> Layers:
        """Returns the layers that the generator draws for photos; see also `reconstruct`.

        Args:
            images: Photos of any sizes as a list, or a batch; as for `predict_masks`.

        Returns:
            `Layers` of float32 arrays at the network's resolution, [N, R, R, C].

        Raises:
            UserError: An image is not uint8, or does not have the shape of an image.
        """
        if isinstance(images, np.ndarray) and images.ndim < 4:
            images = [images]
        parts = [self.backbone.predict_on_batch(prepared) for _, prepared in self._batches(images)]
        layers = self.backbone.generator.to_layers(np.concatenate(parts))
        return Layers(*map(ops.convert_to_numpy, layers))

    def reconstruct(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Returns the composites of `predict_layers`, float [N, R, R, 3] in about [-1, 1]."""
        composites: np.ndarray = compose(self.predict_layers(images))
        return composites


class _MaskLogits(keras.layers.Layer):
    """Background, foreground and mask logits, [B, R, R, 3 + 4·K] -> mask logits, [B, R, R, K]."""

    def __init__(self, num_masks: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_masks = num_masks

    def call(self, outputs: Any) -> Any:
        return outputs[..., -self.num_masks :]


class _VisibleMasks(keras.layers.Layer):
    """Mask logits of layers -> visible parts of their masks, [B, R, R, K] -> the same shape."""

    def call(self, logits: Any) -> Any:
        return visible_masks(ops.sigmoid(logits))


def create_segmenter(
    width: int, resolution: int, aspect: str = Aspect.squash, num_masks: int = 1
) -> LayeredSegmenter:
    """Creates an untrained segmenter.

    Args:
        width: Channels of the U-Net's first level.
        resolution: Side of the square images it takes, a multiple of 8.
        aspect: How photos become square, as in `data.aspect`.
        num_masks: As for `LayeredSegmenter`.
    """
    converter = LayeredSegmenterImageConverter.for_side(resolution, aspect)
    return LayeredSegmenter(
        backbone=UNetBackbone(width, levels_for(resolution)),
        preprocessor=LayeredSegmenterPreprocessor(converter),
        num_masks=num_masks,
    )


def create_encoder_segmenter(
    backbone: EncoderGeneratorBackbone, aspect: str = Aspect.squash
) -> EncoderSegmenter:
    """Creates a segmenter from an encoder and a generator; `aspect` as in `create_segmenter`."""
    converter = EncoderSegmenterImageConverter.for_side(backbone.resolution, aspect)
    layers = backbone.generator.foreground_layers
    return EncoderSegmenter(backbone, EncoderSegmenterPreprocessor(converter), layers)


def _photos_of(dataset: Any) -> Iterator[Any]:
    """Yields the photos of a dataset's elements, which may have masks and weights too."""
    elements = dataset
    if isinstance(dataset, keras.utils.PyDataset):
        elements = (dataset[index] for index in range(len(dataset)))
    for element in elements:
        yield element[0] if isinstance(element, list | tuple) else element


# Makes the packaged presets known to `from_preset` and `LayeredSegmenter.presets`.
register_presets(preset_files.catalogue(), UNetBackbone)
