"""Differentiable augmentation of what the discriminator sees, real and generated alike.

Colour, translation and cutout as in Zhao et al., Differentiable Augmentation for Data-Efficient GAN
Training (2020), section 4. The discriminator then cannot memorise a small data set, and the
generator, which receives the gradient through the augmentation, does not learn to draw augmented
images.
"""

from typing import Any

import tensorflow as tf

from layered_segmentation.gan.composite import shift
from layered_segmentation.gan.draws import AugmentationDraws


def augment(images: Any, draws: AugmentationDraws) -> Any:
    """Augments images, float [B, R, R, 3] in [-1, 1]; cut-out and uncovered pixels become grey."""
    images = images + draws.brightness
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    images = grey + draws.saturation * (images - grey)
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    images = mean + draws.contrast * (images - mean)
    return shift(images, draws.shifts) * draws.kept
