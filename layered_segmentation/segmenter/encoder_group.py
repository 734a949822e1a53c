"""Encoders that learn beside each other, in one graph, through one frozen generator (eq. 7)."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from layered_segmentation.gan import composite, losses
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.segmenter.autoencoder import EncoderGeneratorBackbone
from layered_segmentation.segmenter.encoder import Encoder

FEATURE_SIDE = 8  # of the discriminator's features in eq. 7


class EncoderGroup:
    """One encoder or several, each with a loss, batch norms and an Adam of its own.

    Only the frozen networks are shared. They treat every image alone, so the codes of all encoders
    go through them as one batch, and the encoders, of which no one waits for another, fill cores
    that one encoder leaves idle. The results are those of encoders that train alone.

    Args:
        backbone: Its encoder is the group's first; its generator draws for all.
        discriminator: Gives the features of eq. 7.
    """

    def __init__(self, backbone: EncoderGeneratorBackbone, discriminator: Discriminator):
        self._generator = backbone.generator
        self._discriminator = discriminator
        self._learners = [_Learner(backbone.encoder)]
        self._count = 1
        self._step = tf.function(self._train_step)

    def begin(self, count: int, weights: Sequence[np.ndarray], learning_rate: float) -> None:
        """Starts anew with so many encoders.

        Args:
            count: How many.
            weights: What each of them starts from.
            learning_rate: Adam's.
        """
        while len(self._learners) < count:
            first = self._learners[0].encoder
            self._learners.append(_Learner(Encoder.from_config(first.get_config())))
        self._count = count
        for learner in self._learners[:count]:
            learner.reset(weights, learning_rate)

    def step(self, batches: Sequence[np.ndarray]) -> np.ndarray:
        """Trains each encoder on its batch; returns eq. 7 of each before that, float [K].

        Args:
            batches: Float [B, R, R, 3] in [-1, 1] for each encoder, of sizes of their own.
        """
        return self._step([tf.constant(images) for images in batches]).numpy()

    def weights(self) -> list[list[np.ndarray]]:
        """Returns the weights of each encoder, as its `get_weights` gives them."""
        return [learner.encoder.get_weights() for learner in self._learners[: self._count]]

    def eq7(self, reconstruction: Any, batches: Sequence[Any]) -> list[Any]:
        """Returns eq. 7 of each batch of photos.

        Args:
            reconstruction: Float [N, R, R, 3], of all batches, one after another.
            batches: Each float [B, R, R, 3].
        """
        images = ops.concatenate(batches)
        compared = (
            reconstruction,
            images,
            self._discriminator.features(reconstruction, side=FEATURE_SIDE),
            self._discriminator.features(images, side=FEATURE_SIDE),
        )
        parts = [tf.split(values, [batch.shape[0] for batch in batches]) for values in compared]
        return [losses.encoder(*of_batch) for of_batch in zip(*parts, strict=True)]

    def _train_step(self, batches: list[tf.Tensor]) -> tf.Tensor:
        learners = self._learners[: len(batches)]
        variables = [learner.encoder.trainable_variables for learner in learners]
        with tf.GradientTape() as tape:
            codes = [
                learner.encoder(images, training=True)
                for learner, images in zip(learners, batches, strict=True)
            ]
            layers = self._generator.from_codes(ops.concatenate(codes))
            each = self.eq7(composite.compose(layers), batches)
        # Of the losses' sum; to an encoder's gradients only its own loss adds.
        for learner, gradients in zip(learners, tape.gradient(each, variables), strict=True):
            learner.optimizer.apply(gradients, learner.encoder.trainable_variables)
        return tf.stack(each)


class _Learner:
    """An encoder and its Adam."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self.optimizer = keras.optimizers.Adam(beta_1=0.9, beta_2=0.999, epsilon=1e-8)
        self.optimizer.build(encoder.trainable_variables)

    def reset(self, weights: Sequence[np.ndarray], learning_rate: float) -> None:
        self.encoder.set_weights(weights)
        for variable in self.optimizer.variables:
            variable.assign(ops.zeros_like(variable))
        self.optimizer.learning_rate = learning_rate
