"""The layered GAN: one training step of discriminator, generator and average (eq. 5 and 6)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from layered_segmentation import schedule
from layered_segmentation.choices import Precision
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.gan import inputs, sampling
from layered_segmentation.gan.adam import BETA_2, ProgressiveAdam
from layered_segmentation.gan.composite import Layers
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.draws import Purpose, StepDraws, initialise, mean_style_latents
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.gan.keras_settings import policy
from layered_segmentation.gan.steps import Augmentations, LayeredSteps
from layered_segmentation.schedule import Stage

MAPPING_RATE = 0.01


@keras.saving.register_keras_serializable(package="layered_segmentation")
class LayeredGAN(LayeredSteps):
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
        student: A `LayeredSegmenter` that must find nothing in drawn backgrounds; None is off, as
            in the paper. It is saved with the GAN, and frozen: its `trainable` is set to False.
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
        student: Any = None,
        **settings: Any,
    ):
        super().__init__(trainable=trainable, dtype=policy(dtype), name=name, autocast=False)
        config = inputs.config_of(resolution, settings)
        gan = self.settings = config.gan
        self.student = _frozen(student)
        if gan.background_student and student is None:
            raise UserError(
                f"gan.background_student={gan.background_student}: pass the segmenter itself, too: "
                "student=LayeredSegmenter.from_preset(...)"
            )
        if student is not None and not gan.variant.has_mask:
            raise UserError(f"student: pass none with variant={gan.variant}, which has no layers")
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
    def from_run_config(
        cls, config: Config, fused: bool = True, student: Any = None
    ) -> "LayeredGAN":
        """Returns the compiled GAN of a training run, at its first stage.

        Args:
            config: The experiment.
            fused: Whether resampling convolutions are fused.
            student: The segmenter that `gan.background_student` names.

        Raises:
            UserError: The precision is `auto`, which only a run can choose, or the student is
                missing.
        """
        if config.train.precision == Precision.auto:
            raise UserError("train.precision=auto: only `layerseg train` chooses; name a precision")
        gan = cls(
            **vars(config.gan),
            seed=config.train.seed,
            stages=schedule.stages(config),
            fused=fused,
            dtype=str(config.train.precision),
            student=student,
        )
        gan.compile(
            jit_compile=config.train.jit_compile,
            steps_per_execution=config.train.steps_per_execution,
        )
        return gan

    def default_optimizers(self) -> tuple[keras.optimizers.Optimizer, keras.optimizers.Optimizer]:
        networks = (self.generator, self.discriminator)
        joins: list[dict[int, int]] = [{}, {}]
        updates = [0, 0]  # of each network before the stage
        for stage in self.stages:
            for network, first, before in zip(networks, joins, updates, strict=True):
                for variable in network.stage_variables(stage.resolution):
                    first.setdefault(id(variable), before)
            penalties = 0 if self._lazy == 1 else -(-stage.steps // self.settings.penalty_every)
            updates = [updates[0] + stage.steps, updates[1] + stage.steps + penalties]
        slow = {id(v): MAPPING_RATE for v in self.generator.mapping_variables()}
        rate, lazy = self.stage.learning_rate, self._lazy
        return (
            ProgressiveAdam(rate, slow, joins[0], name="generator_adam"),
            ProgressiveAdam(
                lazy * rate, {}, joins[1], beta_2=BETA_2**lazy, name="discriminator_adam"
            ),
        )

    @property
    def _lazy(self) -> float:
        """The share of the discriminator's updates that are not of penalties alone.

        As in StyleGAN2, its Adam then has this times the rate, and its decays to this power, so
        that k + 1 updates do what k did.
        """
        every = self.settings.penalty_every
        return every / (every + 1) if every > 1 else 1.0

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
            "student": keras.saving.serialize_keras_object(self.student),
        }

    def set_stage(self, stage: Stage) -> None:
        """Chooses the resolution that the next `fit` trains at, and the learning rate.

        Optimizers given to `compile` keep their learning rates.
        """
        self.stage = stage
        rates = stage.learning_rate, self._lazy * stage.learning_rate
        optimizers = self.generator_optimizer, self.discriminator_optimizer
        for optimizer, rate in zip(optimizers, rates, strict=True):
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            if isinstance(inner, ProgressiveAdam):
                inner.learning_rate = rate
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

    def train_step(
        self, data: Any, penalise: bool = True, average: bool = True
    ) -> dict[str, tf.Tensor]:
        """Takes a discriminator step, a generator step and updates the average.

        Args:
            data: This replica's images, float [B, R, R, 3] in [-1, 1] or uint8; the labels of a
                pair `(images, labels)` are ignored.
            penalise: Whether this is a step with penalties, of `gan.penalty_every` above 1.
            average: Whether this is a step that updates the average.

        Returns:
            Scalars for the log, this replica's share of each mean: their sum over the replicas
            is the mean over the global batch.
        """
        real = inputs.prepare(data)
        images_seen, batch = tf.convert_to_tensor(self.images_seen.value), self._global_batch(real)
        alpha = self._alpha(images_seen)

        def drawn(purpose: Purpose) -> tuple[StepDraws, tf.Tensor | float, Augmentations]:
            place = (images_seen, purpose, batch)
            return self._draws(*place), alpha, self._augmentations(*place)

        if self.settings.shared_pass or self.settings.simultaneous:
            logs = self.shared_step(real, *drawn(Purpose.GENERATOR), penalise)
        else:
            logs = self.discriminator_step(real, *drawn(Purpose.DISCRIMINATOR), penalise)
            logs |= self.generator_step(*drawn(Purpose.GENERATOR))
        if average:
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
        logs.pop("score")
        generator_loss, generator_logs = self._generator_loss(draws, alpha)
        self._images_evaluated.assign(place + tf.cast(batch, tf.int64))
        return {
            "d_loss": loss / self._replicas,
            **logs,
            "g_loss": generator_loss / self._replicas,
            **generator_logs,
        }

    def _alpha(self, images_seen: tf.Tensor) -> tf.Tensor | float:
        """`schedule.alpha` in the graph; a Python 1.0 where the stage does not fade."""
        stage = self.stage
        if stage.fade_images == 0:
            return 1.0
        progress = tf.cast(images_seen - stage.first_image, tf.float32) / stage.fade_images
        return tf.clip_by_value(progress, 0.0, 1.0)


def _frozen(student: Any) -> Any:
    """Returns a segmenter, given as it is or as `get_config` returns it, that does not train."""
    if isinstance(student, dict):
        student = keras.saving.deserialize_keras_object(student)
    if student is None:
        return None
    if not hasattr(student, "resolution"):
        raise UserError(
            f"student={student!r}: pass a segmenter, such as LayeredSegmenter.from_preset(...)"
        )
    student.trainable = False
    return student
