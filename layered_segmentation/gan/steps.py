"""The steps of the layered GAN: discriminator (eq. 6), generator (eq. 5), average."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import ops

from layered_segmentation.choices import MaskLosses
from layered_segmentation.config import GANConfig
from layered_segmentation.gan import losses
from layered_segmentation.gan.adversarial_model import AdversarialModel
from layered_segmentation.gan.augment import augment
from layered_segmentation.gan.composite import Layers, compose, perturb
from layered_segmentation.gan.draws import (
    AugmentationDraws,
    Purpose,
    StepDraws,
    augmentation_draws,
    is_swapped,
    scales,
    step_draws,
)
from layered_segmentation.gan.keras_settings import DATA_FORMAT
from layered_segmentation.schedule import Stage

# Of real and of generated images; None where nothing is augmented.
Augmentations = tuple[AugmentationDraws, AugmentationDraws] | None


class LayeredSteps(AdversarialModel):
    """An `AdversarialModel` whose generator draws layers.

    A subclass sets the attributes.
    """

    settings: GANConfig
    seed: int
    stage: Stage
    average: Any
    images_seen: Any
    student: Any  # frozen segmenter that must find nothing in backgrounds, or None

    def step_options(self, batch: int, ahead: int = 0) -> dict[str, bool]:
        """Returns what a step does, as keyword arguments of `train_step`.

        A function of the images seen alone, so a resumed run does the same. If a setting is 1,
        every step does it, and the argument keeps its default.

        Args:
            batch: Global batch size of the step.
            ahead: Images between now and the step.
        """
        intervals = {
            "penalise": self.settings.penalty_every,
            "average": self.settings.average_every,
        }
        intervals = {name: every for name, every in intervals.items() if every > 1}
        if not intervals:
            return {}
        seen = int(self.images_seen.numpy()) + ahead - self.stage.first_image
        # Whether a multiple of `every` batches lies within the step's images.
        return {name: -seen % (every * batch) < batch for name, every in intervals.items()}

    def discriminator_step(
        self,
        real: tf.Tensor,
        draws: StepDraws,
        alpha: tf.Tensor | float,
        augmentations: Augmentations = None,
        penalise: bool = True,
    ) -> dict[str, tf.Tensor]:
        """Updates the discriminator (eq. 6).

        With `gan.penalty_every` above 1, the penalties have an update of their own, which
        `penalise=False` leaves out.
        """
        fake, _ = self.composite(draws, alpha)
        if augmentations:
            fake = augment(fake, augmentations[1])
        return self._update_discriminator(real, fake, draws, alpha, augmentations, penalise)[0]

    def generator_step(
        self, draws: StepDraws, alpha: tf.Tensor | float, augmentations: Augmentations = None
    ) -> dict[str, tf.Tensor]:
        """Updates the generator (eq. 5)."""
        return self._update_generator(lambda: self._generator_loss(draws, alpha, augmentations))

    def shared_step(
        self,
        real: tf.Tensor,
        draws: StepDraws,
        alpha: tf.Tensor | float,
        augmentations: Augmentations = None,
        penalise: bool = True,
    ) -> dict[str, tf.Tensor]:
        """Updates the discriminator and the generator on the same composites.

        With `gan.simultaneous`, both follow the scores before the discriminator's update. As their
        losses contain the same mean score with opposite signs, one backward pass through the
        discriminator then has the gradients of both.
        """
        is_simultaneous = self.settings.simultaneous
        logs: dict[str, tf.Tensor] = {}

        def judge(fake: tf.Tensor) -> tf.Tensor:
            image = tf.stop_gradient(fake)
            judged, score, slope = self._update_discriminator(
                real, image, draws, alpha, augmentations, penalise, is_simultaneous
            )
            logs.update(judged)
            if not is_simultaneous:
                return self.discriminator(fake, alpha=alpha)
            # The mean score, with its gradient.
            return tf.stop_gradient(score) + tf.reduce_sum((fake - image) * slope)

        generator_logs = self._update_generator(
            lambda: self._generator_loss(draws, alpha, augmentations, judge)
        )
        return logs | generator_logs

    def _update_discriminator(
        self,
        real: tf.Tensor,
        fake: tf.Tensor,
        draws: StepDraws,
        alpha: tf.Tensor | float,
        augmentations: Augmentations,
        penalise: bool,
        with_slope: bool = False,
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor | None]:
        """Updates the discriminator; `fake` are composites, already augmented.

        Returns:
            The logs, the mean score of the composites before the update and, `with_slope`, its
            gradient with respect to them.
        """
        if augmentations:
            real = augment(real, augmentations[0])
        every = self.settings.penalty_every
        variables = self.discriminator.stage_variables(self.stage.resolution)
        loss, logs, slope = self._minimise(
            lambda: self._discriminator_loss(real, fake, draws.zeta, alpha, every == 1),
            variables,
            self.discriminator_optimizer,
            watched=fake if with_slope else None,
        )
        score = logs.pop("score")
        logs = {"d_loss": loss, **logs}
        if every > 1 and penalise:

            def penalties() -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
                penalty, r1, logs = self._penalties(real, fake, draws.zeta, alpha)
                return every * (self.settings.gradient_penalty * penalty + r1), logs

            logs |= self._minimise(penalties, variables, self.discriminator_optimizer)[1]
        return logs, score, slope

    def _discriminator_loss(
        self,
        real: tf.Tensor,
        fake: tf.Tensor,
        zeta: tf.Tensor,
        alpha: tf.Tensor | float,
        with_penalties: bool = True,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        gan = self.settings
        both = tf.concat([real, fake], axis=0)  # one pass is faster than two
        real_score, fake_score = tf.split(self.discriminator(both, alpha=alpha, batches=2), 2)
        nothing: tuple[Any, Any, dict[str, tf.Tensor]] = 0.0, 0.0, {}
        penalty, r1, logs = self._penalties(real, fake, zeta, alpha) if with_penalties else nothing
        loss = losses.discriminator(
            real_score, fake_score, penalty, gan.gradient_penalty, gan.drift
        )
        score = tf.reduce_mean(fake_score)
        distance = tf.reduce_mean(real_score) - score
        loss = loss + r1 if gan.r1 else loss
        return loss, {"wasserstein": distance / self._replicas, "score": score, **logs}

    def _penalties(
        self, real: tf.Tensor, fake: tf.Tensor, zeta: tf.Tensor, alpha: tf.Tensor | float
    ) -> tuple[tf.Tensor, tf.Tensor | float, dict[str, tf.Tensor]]:
        """Returns the gradient penalty without its weight, R1 with it, and logs."""
        gan = self.settings
        mixed = losses.interpolate(real, tf.stop_gradient(fake), zeta)
        penalty = losses.gradient_penalty(self._score_gradients(mixed, alpha))
        r1 = gan.r1 * losses.r1(self._score_gradients(real, alpha)) if gan.r1 else 0.0
        return penalty, r1, {"gradient_penalty": gan.gradient_penalty * penalty / self._replicas}

    def _update_generator(
        self, compute: Callable[[], tuple[tf.Tensor, dict[str, tf.Tensor]]]
    ) -> dict[str, tf.Tensor]:
        loss, logs, _ = self._minimise(
            compute,
            self.generator.stage_variables(self.stage.resolution),
            self.generator_optimizer,
        )
        return {"g_loss": loss, **logs}

    def _generator_loss(
        self,
        draws: StepDraws,
        alpha: tf.Tensor | float,
        augmentations: Augmentations = None,
        judge: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Returns the loss and logs; `judge` returns the scores of composites, or their mean."""
        gan = self.settings
        layers = self._draw_layers(draws, alpha)
        fake, mask = self._perturbed(layers, draws)
        if augmentations:
            fake = augment(fake, augmentations[1])
        score = judge(fake) if judge else self.discriminator(fake, alpha=alpha)
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
        if self.student is not None:
            found = self._found(layers.background)
            logs["background_found"] = tf.reduce_mean(found)
            loss += gan.background_student_weight * losses.background_objects(found)
        return loss, {name: value / self._replicas for name, value in logs.items()}

    def _found(self, backgrounds: tf.Tensor) -> tf.Tensor:
        """Returns the student's probability of an object, float [B, S, S, 1], at its own side S."""
        images = losses.within_range(tf.cast(backgrounds, tf.float32))
        side = self.student.resolution
        if images.shape[1] != side:  # as `distill` resizes what students learn from
            images = ops.image.resize(
                images,
                (side, side),
                interpolation="bilinear",
                antialias=True,
                data_format=DATA_FORMAT,
            )
        masks = self.student(images, training=False)
        # Of several masks, the visible parts; see `segmenter.preprocessing.union`.
        return tf.minimum(tf.reduce_sum(tf.cast(masks, tf.float32), axis=-1, keepdims=True), 1.0)

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
        gan, side = self.settings, self.stage.resolution
        rate = 1.0 - gan.average_decay**gan.average_every
        index = {id(v): i for i, v in enumerate(self.generator.variables)}
        variables = self.generator.stage_variables(side)
        averages = [self.average.variables[index[id(v)]] for v in variables]
        self._move(averages, variables, rate)

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
