"""The layered GAN: one training step of discriminator, generator and average (eq. 5 and 6)."""

import time
from typing import Any

import keras
import tensorflow as tf

from layered_segmentation.config import Config, MaskLosses, Precision
from layered_segmentation.gan import losses
from layered_segmentation.gan.adam import ProgressiveAdam
from layered_segmentation.gan.augment import augment
from layered_segmentation.gan.composite import compose, perturb
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.draws import (
    AugmentationDraws,
    Purpose,
    StepDraws,
    augmentation_draws,
    initialise,
    replica_share,
    step_draws,
)
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.schedule import Stage, stages

MAPPING_RATE = 0.01

# Of real and of generated images; None where nothing is augmented.
Augmentations = tuple[AugmentationDraws, AugmentationDraws] | None


class LayeredGAN(keras.Model):
    """Generator, discriminator, the generator's average and both optimisers.

    `set_stage` chooses the resolution, then `fit` trains on batches of
    `(images, images_seen)`: float [B, R, R, 3] in [-1, 1] and a scalar int64.

    Args:
        config: The experiment.
        fused: Whether resampling convolutions are fused.
    """

    def __init__(self, config: Config, fused: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        gan = config.gan
        self.config = config
        policy = config.train.precision
        sizes: dict[str, Any] = {
            "resolution": gan.resolution,
            "max_channels": gan.max_channels,
            "fused": fused,
        }
        mapping: dict[str, Any] = {
            "latent_dim": gan.latent_dim,
            "mapping_layers": gan.mapping_layers,
            "shared_noise": gan.shared_noise,
        }
        self.generator = LayeredGenerator(gan.variant, **sizes, **mapping, dtype=policy)
        self.discriminator = Discriminator(minibatch_std=gan.minibatch_std, **sizes, dtype=policy)
        self.average = LayeredGenerator(gan.variant, **sizes, **mapping, dtype=policy)
        initialise(self.generator, config.train.seed, Purpose.GENERATOR_WEIGHTS)
        initialise(self.discriminator, config.train.seed, Purpose.DISCRIMINATOR_WEIGHTS)
        self.average.set_weights(self.generator.get_weights())
        self.average.trainable = False
        self.run_stages = stages(config)
        self.stage = self.run_stages[0]
        self.wait_seconds = 0.0
        self.built = True
        self._build_optimizers()
        self.compile(
            optimizer=self.generator_optimizer,
            jit_compile=config.train.jit_compile,
            auto_scale_loss=False,
        )

    def _build_optimizers(self) -> None:
        joins: dict[int, int] = {}
        for stage in self.run_stages:
            for network in (self.generator, self.discriminator):
                for variable in network.stage_variables(stage.resolution):
                    joins.setdefault(id(variable), stage.first_step)
        slow = {id(v): MAPPING_RATE for v in self.generator.mapping_variables()}
        rate = self.stage.learning_rate
        self.generator_optimizer = self._scaled(
            ProgressiveAdam(rate, slow, joins, name="generator_adam")
        )
        self.discriminator_optimizer = self._scaled(
            ProgressiveAdam(rate, {}, joins, name="discriminator_adam")
        )
        self.generator_optimizer.build(self.generator.trainable_variables)
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)

    def _scaled(self, optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
        if self.config.train.precision != Precision.mixed_float16:
            return optimizer
        return keras.optimizers.LossScaleOptimizer(optimizer)

    def set_stage(self, stage: Stage) -> None:
        """Chooses the resolution and learning rate that the next `fit` trains with."""
        self.stage = stage
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            getattr(optimizer, "inner_optimizer", optimizer).learning_rate = stage.learning_rate
        self.train_function: Any = None

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Takes a discriminator step, a generator step and updates the average.

        Args:
            data: This replica's images, float [B, R, R, 3] in [-1, 1], and the images seen
                before this global batch, scalar int64.

        Returns:
            Scalars for the log, this replica's share of each mean: their sum over the replicas
            is the mean over the global batch.
        """
        real, images_seen = data
        alpha = self._alpha(images_seen)
        for_d, for_g = Purpose.DISCRIMINATOR, Purpose.GENERATOR
        logs = self.discriminator_step(
            real, self._draws(images_seen, for_d), alpha, self._augmentations(images_seen, for_d)
        )
        logs |= self.generator_step(
            self._draws(images_seen, for_g), alpha, self._augmentations(images_seen, for_g)
        )
        self.update_average()
        return {**logs, "alpha": tf.convert_to_tensor(alpha, tf.float32) / self._replicas}

    def discriminator_step(
        self,
        real: tf.Tensor,
        draws: StepDraws,
        alpha: tf.Tensor | float,
        augmentations: Augmentations = None,
    ) -> dict[str, tf.Tensor]:
        """Updates the discriminator (eq. 6)."""
        gan = self.config.gan
        fake, _ = self.composite(draws, alpha)
        if augmentations:
            real, fake = augment(real, augmentations[0]), augment(fake, augmentations[1])
        mixed = losses.interpolate(real, fake, draws.zeta)
        variables = self.discriminator.stage_variables(self.stage.resolution)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            both = tf.concat([real, fake], axis=0)  # one pass is faster than two
            real_score, fake_score = tf.split(self.discriminator(both, alpha=alpha, batches=2), 2)
            penalty = losses.gradient_penalty(self._score_gradients(mixed, alpha))
            loss = losses.discriminator(
                real_score, fake_score, penalty, gan.gradient_penalty, gan.drift
            )
            if gan.r1:
                loss += gan.r1 * losses.r1(self._score_gradients(real, alpha))
            loss, scaled = self._scale(loss, self.discriminator_optimizer)
        self._apply(tape.gradient(scaled, [v.value for v in variables]), variables, False)
        distance = tf.reduce_mean(real_score) - tf.reduce_mean(fake_score)
        return {
            "d_loss": loss,
            "wasserstein": distance / self._replicas,
            "gradient_penalty": gan.gradient_penalty * penalty / self._replicas,
        }

    def _score_gradients(self, images: tf.Tensor, alpha: tf.Tensor | float) -> tf.Tensor:
        """Returns the gradients of the images' scores with respect to the images, float32."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            score = self.discriminator(images, alpha=alpha)
        return tf.cast(tape.gradient(score, images), tf.float32)

    def generator_step(
        self, draws: StepDraws, alpha: tf.Tensor | float, augmentations: Augmentations = None
    ) -> dict[str, tf.Tensor]:
        """Updates the generator (eq. 5)."""
        gan = self.config.gan
        variables = self.generator.stage_variables(self.stage.resolution)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            fake, mask = self.composite(draws, alpha)
            if augmentations:
                fake = augment(fake, augmentations[1])
            score = self.discriminator(fake, alpha=alpha)
            size = losses.mask_size(mask, gan.mask_size, gan.mask_size_most)
            binary = losses.mask_binary(mask)
            if not self.generator.has_mask:
                size, binary = 0.0 * size, 0.0 * binary
            loss = losses.generator(
                score, size, binary, gan.mask_size_weight, gan.mask_binary_weight
            )
            loss, scaled = self._scale(loss, self.generator_optimizer)
        self._apply(tape.gradient(scaled, [v.value for v in variables]), variables, True)
        return {
            "g_loss": loss,
            "coverage": tf.reduce_mean(mask) / self._replicas,
            "binarisation": binary / self._replicas,
        }

    def composite(self, draws: StepDraws, alpha: tf.Tensor | float) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws layers, perturbs and composites them (eq. 2).

        Returns:
            The composite, float [B, R, R, 3], and the mask for the losses, float [B, R, R, 1].
        """
        generator = draws.generator
        layers = self.generator(
            generator.latents,
            noise=generator.noise,
            crossover=generator.crossover,
            alpha=alpha,
            resolution=self.stage.resolution,
        )
        if not self.generator.has_mask:
            return layers.background, layers.mask
        contrast = draws.contrast if self.config.gan.contrast_jitter else None
        moved = perturb(layers, draws.shifts, contrast)
        is_shifted = self.config.gan.mask_losses_on == MaskLosses.shifted
        return compose(moved), moved.mask if is_shifted else layers.mask

    def update_average(self) -> None:
        """Moves the average towards the generator's weights, in float32."""
        decay = self.config.gan.average_decay
        variables = self.generator.stage_variables(self.stage.resolution)
        averages = self.average_variables(self.stage.resolution)

        def move(strategy: tf.distribute.Strategy | None, *_: Any) -> None:
            for average, variable in zip(averages, variables, strict=True):
                if strategy is None:
                    average.value.assign_sub((1.0 - decay) * (average.value - variable.value))
                    continue
                strategy.extended.update(
                    average.value,
                    lambda a, v: a.assign_sub((1.0 - decay) * (a - v)),
                    args=(variable.value,),
                )

        context = tf.distribute.get_replica_context()
        if self._replicas == 1:
            move(None)
        elif context is not None:
            context.merge_call(move)

    def average_variables(self, resolution: int) -> list[Any]:
        """Returns the average's variables, in the order of the generator's stage variables."""
        index = {id(v): i for i, v in enumerate(self.generator.variables)}
        averages = self.average.variables
        return [averages[index[id(v)]] for v in self.generator.stage_variables(resolution)]

    def make_train_function(self, force: bool = False) -> Any:
        """Compiles the step; the time spent waiting for data is measured around the iterator."""
        if self.train_function is not None and not force:
            return self.train_function
        strategy = self.distribute_strategy

        def step(data: Any) -> dict[str, tf.Tensor]:
            run = tf.function(self.train_step, jit_compile=True) if self.jit_compile else None
            logs = strategy.run(run or self.train_step, args=(data,))
            return {
                name: strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
                for name, value in logs.items()
            }

        compiled = tf.function(step, reduce_retracing=True)

        def train_function(iterator: Any) -> Any:
            start = time.perf_counter()
            data = next(iterator)
            self.wait_seconds += time.perf_counter() - start
            return compiled(data)

        self.train_function = train_function
        return train_function

    @property
    def _replicas(self) -> int:
        return int(self.distribute_strategy.num_replicas_in_sync)

    def _alpha(self, images_seen: tf.Tensor) -> tf.Tensor | float:
        """`schedule.alpha` in the graph; a Python 1.0 where the stage does not fade."""
        stage = self.stage
        if stage.fade_images == 0:
            return 1.0
        progress = tf.cast(images_seen - stage.first_image, tf.float32) / stage.fade_images
        return tf.clip_by_value(progress, 0.0, 1.0)

    def _draws(self, images_seen: tf.Tensor, purpose: Purpose) -> StepDraws:
        gan = self.config.gan
        draws = step_draws(
            self.config.train.seed,
            images_seen,
            purpose,
            self.stage.batch,
            self.stage.resolution,
            gan.latent_dim,
            gan.mixing,
            gan.shift,
            gan.contrast_jitter,
            self.generator.noise_images,
        )
        share: StepDraws = self._share(draws)
        return share

    def _augmentations(self, images_seen: tf.Tensor, purpose: Purpose) -> Augmentations:
        strength, stage = self.config.gan.augment, self.stage
        if not strength:
            return None
        seed = self.config.train.seed
        draws = augmentation_draws(
            seed, images_seen, purpose, stage.batch, stage.resolution, strength
        )
        share: Augmentations = self._share(draws)
        return share

    def _share(self, draws: Any) -> Any:
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context is not None else 0
        return replica_share(draws, replica, self._replicas)

    def _scale(self, loss: tf.Tensor, optimizer: Any) -> tuple[tf.Tensor, tf.Tensor]:
        # Keras sums gradients over the replicas; the mean is wanted.
        loss = loss / self._replicas
        return loss, optimizer.scale_loss(loss)

    def _apply(self, gradients: list[Any], variables: list[Any], is_generator: bool) -> None:
        optimizer = self.generator_optimizer if is_generator else self.discriminator_optimizer
        optimizer.apply(
            [
                tf.zeros_like(v.value) if g is None else g
                for g, v in zip(gradients, variables, strict=True)
            ],
            variables,
        )
