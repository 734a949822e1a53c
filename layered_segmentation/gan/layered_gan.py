"""The layered GAN: one training step of discriminator, generator and average (eq. 5 and 6)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from layered_segmentation import schedule
from layered_segmentation.choices import MaskLosses
from layered_segmentation.config import Config
from layered_segmentation.gan import inputs, losses, sampling
from layered_segmentation.gan.adam import ProgressiveAdam
from layered_segmentation.gan.adversarial_model import AdversarialModel
from layered_segmentation.gan.augment import augment
from layered_segmentation.gan.composite import Layers, compose, perturb
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.draws import (
    AugmentationDraws,
    Purpose,
    StepDraws,
    augmentation_draws,
    initialise,
    is_swapped,
    mean_style_latents,
    scales,
    step_draws,
)
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.gan.keras_settings import policy
from layered_segmentation.schedule import Stage

MAPPING_RATE = 0.01

# Of real and of generated images; None where nothing is augmented.
Augmentations = tuple[AugmentationDraws, AugmentationDraws] | None


@keras.saving.register_keras_serializable(package="layered_segmentation")
class LayeredGAN(AdversarialModel):
    """Generator, discriminator, the generator's average and both optimizers.

    It trains on images without labels: float [B, R, R, 3] in [-1, 1], or uint8. Every step draws
    anew, as a function of the seed and of `images_seen`, which is saved with the weights.

    Args:
        resolution: Final image side, a power of two from 8.
        seed: Seed of the weights and of everything that is drawn.
        stages: Progressive growing, as of `schedule.stages`; `set_stage` chooses one. By default
            the GAN trains at its final resolution.
        stage: Index of the current stage.
        fused: Whether resampling convolutions are fused.
        trainable: As of `keras.Model`.
        dtype: Keras dtype policy of the networks.
        name: As of `keras.Model`.
        **settings: The other fields of `config.GANConfig`, which documents them: `variant`,
            `latent_dim`, `mapping_layers`, `max_channels`, `shift`, `mask_size`, ...

    Raises:
        UserError: An unknown setting, or a value that is out of bounds.

    Example:
        ```python
        gan = LayeredGAN(resolution=16, latent_dim=64, max_channels=64)
        gan.compile()
        gan.fit(images, batch_size=64, epochs=2)
        layers = gan.generate(8)
        gan.save("gan.keras")
        ```
    """

    def __init__(
        self,
        resolution: int = 128,
        seed: int = 0,
        stages: Sequence[Stage | dict[str, Any]] = (),
        stage: int = 0,
        fused: bool = True,
        trainable: bool = True,
        dtype: Any = None,
        name: str | None = None,
        **settings: Any,
    ):
        super().__init__(trainable=trainable, dtype=policy(dtype), name=name, autocast=False)
        config = inputs.config_of(resolution, settings)
        gan = self.settings = config.gan
        self.seed = seed
        self.fused = fused
        sizes: dict[str, Any] = {
            "resolution": gan.resolution,
            "max_channels": gan.max_channels,
            "fused": fused,
            "dtype": self.dtype_policy,
        }
        mapping: dict[str, Any] = {
            "latent_dim": gan.latent_dim,
            "mapping_layers": gan.mapping_layers,
            "shared_noise": gan.shared_noise,
            "foreground_layers": gan.layers,
        }
        self.generator = LayeredGenerator(gan.variant, **sizes, **mapping)
        self.discriminator = Discriminator(minibatch_std=gan.minibatch_std, **sizes)
        self.discriminator.across_replicas = self._mean_of_replicas
        self.average = LayeredGenerator(gan.variant, **sizes, **mapping)
        initialise(self.generator, seed, Purpose.GENERATOR_WEIGHTS)
        initialise(self.discriminator, seed, Purpose.DISCRIMINATOR_WEIGHTS)
        self.average.set_weights(self.generator.get_weights())
        self.average.trainable = False
        self.images_seen = self._counter("images_seen")
        self._images_evaluated = self._counter("images_evaluated")
        self.stages = tuple(
            Stage(**one) if isinstance(one, dict) else one
            for one in stages or schedule.stages(config)
        )
        self.stage = self.stages[stage]
        self.reset_metrics()
        self.built = True

    @classmethod
    def from_run_config(cls, config: Config, fused: bool = True) -> "LayeredGAN":
        """Returns the compiled GAN of a training run, at its first stage.

        Args:
            config: The experiment.
            fused: Whether resampling convolutions are fused.
        """
        gan = cls(
            **vars(config.gan),
            seed=config.train.seed,
            stages=schedule.stages(config),
            fused=fused,
            dtype=str(config.train.precision),
        )
        gan.compile(jit_compile=config.train.jit_compile)
        return gan

    def default_optimizers(self) -> tuple[keras.optimizers.Optimizer, keras.optimizers.Optimizer]:
        joins: dict[int, int] = {}
        for stage in self.stages:
            for network in (self.generator, self.discriminator):
                for variable in network.stage_variables(stage.resolution):
                    joins.setdefault(id(variable), stage.first_step)
        slow = {id(v): MAPPING_RATE for v in self.generator.mapping_variables()}
        rate = self.stage.learning_rate
        return (
            ProgressiveAdam(rate, slow, joins, name="generator_adam"),
            ProgressiveAdam(rate, {}, joins, name="discriminator_adam"),
        )

    def check_batch(self, data: Any) -> None:
        inputs.check(data, self.stage.resolution)

    def reset_metrics(self) -> None:
        super().reset_metrics()
        self._images_evaluated.assign(0)

    def get_config(self) -> dict[str, Any]:
        settings = {
            name: str(value) if isinstance(value, str) else value
            for name, value in vars(self.settings).items()
        }
        return {
            **super().get_config(),
            **settings,
            "seed": self.seed,
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "stage": self.stage.index,
            "fused": self.fused,
        }

    def set_stage(self, stage: Stage) -> None:
        """Chooses the resolution that the next `fit` trains at, and the learning rate.

        Optimizers given to `compile` keep their learning rates.
        """
        self.stage = stage
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            if isinstance(inner, ProgressiveAdam):
                inner.learning_rate = stage.learning_rate
        self.train_function = self.test_function = None

    def call(self, latents: Any, training: bool = False) -> Layers:
        """Draws the layers of latents with the averaged generator, without noise.

        Args:
            latents: Float [B, latent_dim], or [B, 2, latent_dim], of which the first is used.
            training: Has no effect.

        Returns:
            Layers at the current stage's resolution.
        """
        layers: Layers = self.average(
            latents, alpha=self._alpha(self.images_seen.value), resolution=self.stage.resolution
        )
        return layers

    def generate(self, count: int, seed: int = 0, truncation: float = 1.0) -> Layers:
        """Draws scenes with the averaged generator, at the current stage's resolution.

        Args:
            count: Number of scenes.
            seed: Seed of the scenes.
            truncation: ψ in [0, 1]; 1 draws from the whole distribution.

        Returns:
            Layers of numpy arrays, float32 [count, R, R, C]; `compose` lays them over each other.
        """
        if truncation != 1.0:
            self.average.update_mean_styles(mean_style_latents(self.seed, self.settings.latent_dim))
        return sampling.sample_layers(
            self.average,
            seed,
            count,
            truncation,
            resolution=self.stage.resolution,
            alpha=schedule.alpha(self.stage, int(self.images_seen.numpy())),
        )

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Takes a discriminator step, a generator step and updates the average.

        Args:
            data: This replica's images, float [B, R, R, 3] in [-1, 1] or uint8; the labels of a
                pair `(images, labels)` are ignored.

        Returns:
            Scalars for the log, this replica's share of each mean: their sum over the replicas
            is the mean over the global batch.
        """
        real = inputs.prepare(data)
        images_seen, batch = tf.convert_to_tensor(self.images_seen.value), self._global_batch(real)
        alpha = self._alpha(images_seen)
        place = (images_seen, Purpose.DISCRIMINATOR, batch)
        logs = self.discriminator_step(
            real, self._draws(*place), alpha, self._augmentations(*place)
        )
        place = (images_seen, Purpose.GENERATOR, batch)
        logs |= self.generator_step(self._draws(*place), alpha, self._augmentations(*place))
        self.update_average()
        self.images_seen.assign(images_seen + tf.cast(batch, tf.int64))
        return {**logs, "alpha": tf.convert_to_tensor(alpha, tf.float32) / self._replicas}

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Returns the losses on held-out images without training; `evaluate` repeats its draws.

        Args:
            data: As for `train_step`.
        """
        real = inputs.prepare(data)
        place, batch = tf.convert_to_tensor(self._images_evaluated.value), self._global_batch(real)
        alpha = self._alpha(tf.convert_to_tensor(self.images_seen.value))
        draws = self._draws(place, Purpose.EVALUATION, batch)
        fake, _ = self.composite(draws, alpha)
        loss, logs = self._discriminator_loss(real, fake, draws.zeta, alpha)
        generator_loss, generator_logs = self._generator_loss(draws, alpha)
        self._images_evaluated.assign(place + tf.cast(batch, tf.int64))
        return {
            "d_loss": loss / self._replicas,
            **logs,
            "g_loss": generator_loss / self._replicas,
            **generator_logs,
        }

    def discriminator_step(
        self,
        real: tf.Tensor,
        draws: StepDraws,
        alpha: tf.Tensor | float,
        augmentations: Augmentations = None,
    ) -> dict[str, tf.Tensor]:
        """Updates the discriminator (eq. 6)."""
        fake, _ = self.composite(draws, alpha)
        if augmentations:
            real, fake = augment(real, augmentations[0]), augment(fake, augmentations[1])
        loss, logs = self._minimise(
            lambda: self._discriminator_loss(real, fake, draws.zeta, alpha),
            self.discriminator.stage_variables(self.stage.resolution),
            self.discriminator_optimizer,
        )
        return {"d_loss": loss, **logs}

    def _discriminator_loss(
        self, real: tf.Tensor, fake: tf.Tensor, zeta: tf.Tensor, alpha: tf.Tensor | float
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        gan = self.settings
        both = tf.concat([real, fake], axis=0)  # one pass is faster than two
        real_score, fake_score = tf.split(self.discriminator(both, alpha=alpha, batches=2), 2)
        mixed = losses.interpolate(real, fake, zeta)
        penalty = losses.gradient_penalty(self._score_gradients(mixed, alpha))
        loss = losses.discriminator(
            real_score, fake_score, penalty, gan.gradient_penalty, gan.drift
        )
        if gan.r1:
            loss += gan.r1 * losses.r1(self._score_gradients(real, alpha))
        distance = tf.reduce_mean(real_score) - tf.reduce_mean(fake_score)
        return loss, {
            "wasserstein": distance / self._replicas,
            "gradient_penalty": gan.gradient_penalty * penalty / self._replicas,
        }

    def generator_step(
        self, draws: StepDraws, alpha: tf.Tensor | float, augmentations: Augmentations = None
    ) -> dict[str, tf.Tensor]:
        """Updates the generator (eq. 5)."""
        loss, logs = self._minimise(
            lambda: self._generator_loss(draws, alpha, augmentations),
            self.generator.stage_variables(self.stage.resolution),
            self.generator_optimizer,
        )
        return {"g_loss": loss, **logs}

    def _generator_loss(
        self, draws: StepDraws, alpha: tf.Tensor | float, augmentations: Augmentations = None
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        gan = self.settings
        layers = self._draw_layers(draws, alpha)
        fake, mask = self._perturbed(layers, draws)
        if augmentations:
            fake = augment(fake, augmentations[1])
        score = self.discriminator(fake, alpha=alpha)
        masks = tf.split(mask, gan.layers, axis=-1)
        size = sum(losses.mask_size(one, gan.mask_size, gan.mask_size_most) for one in masks)
        binary = sum(losses.mask_binary(one) for one in masks)
        if not self.generator.has_mask:
            size, binary = 0.0 * size, 0.0 * binary
        loss = losses.generator(score, size, binary, gan.mask_size_weight, gan.mask_binary_weight)
        logs = {"coverage": tf.reduce_mean(mask), "binarisation": binary}
        if gan.layers > 1:
            logs |= {f"coverage_{k}": tf.reduce_mean(one) for k, one in enumerate(masks, 1)}
        if gan.independence and self.generator.has_mask:
            logs["independence"] = losses.independence(layers, self._roll)
            loss += gan.independence * logs["independence"]
        return loss, {name: value / self._replicas for name, value in logs.items()}

    def composite(self, draws: StepDraws, alpha: tf.Tensor | float) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws layers, perturbs and composites them (eq. 2).

        Returns:
            The composite, float [B, R, R, 3], and the masks for the losses, float [B, R, R, K].
        """
        return self._perturbed(self._draw_layers(draws, alpha), draws)

    def _draw_layers(self, draws: StepDraws, alpha: tf.Tensor | float) -> Any:
        side = self.stage.resolution
        return self.generator(**draws.generator._asdict(), alpha=alpha, resolution=side)

    def _perturbed(self, layers: Layers, draws: StepDraws) -> tuple[tf.Tensor, tf.Tensor]:
        gan = self.settings
        if not self.generator.has_mask:
            return layers.background, layers.mask
        if gan.background_swap:
            swapped = is_swapped(draws.swap, gan.background_swap)[:, None, None, None]
            background = tf.where(swapped, self._roll(layers.background), layers.background)
            layers = layers._replace(background=background)
        contrast = draws.contrast if gan.contrast_jitter else None
        factors = scales(draws.scale, gan.scale) if gan.scale > 1 else None
        moved = perturb(layers, draws.shifts, contrast, factors)
        is_shifted = gan.mask_losses_on == MaskLosses.shifted
        return compose(moved), moved.mask if is_shifted else layers.mask

    def update_average(self) -> None:
        """Moves the average towards the generator's weights, in float32."""
        side, rate = self.stage.resolution, 1.0 - self.settings.average_decay
        index = {id(v): i for i, v in enumerate(self.generator.variables)}
        variables = self.generator.stage_variables(side)
        averages = [self.average.variables[index[id(v)]] for v in variables]
        self._move(averages, variables, rate)

    def _alpha(self, images_seen: tf.Tensor) -> tf.Tensor | float:
        """`schedule.alpha` in the graph; a Python 1.0 where the stage does not fade."""
        stage = self.stage
        if stage.fade_images == 0:
            return 1.0
        progress = tf.cast(images_seen - stage.first_image, tf.float32) / stage.fade_images
        return tf.clip_by_value(progress, 0.0, 1.0)

    def _draws(self, images_seen: tf.Tensor, purpose: Purpose, batch: Any) -> StepDraws:
        side, noise_images = self.stage.resolution, self.generator.noise_images
        draws = step_draws(
            self.seed, images_seen, purpose, batch, side, self.settings, noise_images
        )
        share: StepDraws = self._share(draws)
        return share

    def _augmentations(self, images_seen: tf.Tensor, purpose: Purpose, batch: Any) -> Augmentations:
        strength = self.settings.augment
        if not strength:
            return None
        draws = augmentation_draws(
            self.seed, images_seen, purpose, batch, self.stage.resolution, strength
        )
        share: Augmentations = self._share(draws)
        return share
