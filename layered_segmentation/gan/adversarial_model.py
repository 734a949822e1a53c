"""What a Keras model needs to train two networks against each other under any strategy."""

from typing import Any

import keras
import tensorflow as tf

from layered_segmentation.errors import UserError
from layered_segmentation.gan.distributed_model import DistributedModel
from layered_segmentation.gan.draws import replica_share


class AdversarialModel(DistributedModel):
    """A `DistributedModel` with two optimizers.

    A subclass has a `generator`, a `discriminator` and the methods that raise
    `NotImplementedError` in `DistributedModel`.
    """

    generator: Any
    discriminator: Any
    generator_optimizer: keras.optimizers.Optimizer
    discriminator_optimizer: keras.optimizers.Optimizer

    def trained_networks(self) -> tuple[Any, Any]:
        return self.generator, self.discriminator

    def compile(
        self,
        generator_optimizer: Any = None,
        discriminator_optimizer: Any = None,
        jit_compile: bool = False,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        **refused: Any,
    ) -> None:
        """Chooses the optimizers; the losses are those of eq. 5 and 6.

        Args:
            generator_optimizer: A Keras optimizer, its name or its config. By default the paper's
                Adam, which trains mapping networks at 0.01 of the learning rate. Another optimizer
                trains all variables at the same rate, and the stages leave that rate alone.
            discriminator_optimizer: Likewise.
            jit_compile: Whether XLA compiles the step.
            run_eagerly: Whether steps run without a graph, for debugging.
            steps_per_execution: Steps from one call of the callbacks to the next. More are faster
                where steps are small; the result is the same.
            **refused: Nothing else can be set.

        Raises:
            UserError: An argument that has no meaning here, or one optimizer for both networks.
        """
        if isinstance(generator_optimizer, keras.optimizers.Optimizer) and (
            generator_optimizer is discriminator_optimizer
        ):
            raise UserError(
                f"generator_optimizer and discriminator_optimizer are the same object, "
                f"{generator_optimizer.name!r}; create one for each network"
            )
        optimizers = {
            "generator_optimizer": generator_optimizer,
            "discriminator_optimizer": discriminator_optimizer,
        }
        self._compile(optimizers, jit_compile, run_eagerly, steps_per_execution, refused)

    def _counter(self, name: str) -> Any:
        return self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int64",
            trainable=False,
            aggregation="only_first_replica",
            name=name,
        )

    def _global_batch(self, images: tf.Tensor) -> Any:
        return (images.shape[0] or tf.shape(images)[0]) * self._replicas

    def _share(self, draws: Any) -> Any:
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context is not None else 0
        return replica_share(draws, replica, self._replicas)

    def _roll(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the value of the sample before each one in the global batch, with gradients."""
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return tf.roll(value, 1, axis=0)
        share: tf.Tensor = self._share(tf.roll(context.all_gather(value, axis=0), 1, axis=0))
        return share

    def _score_gradients(self, images: tf.Tensor, alpha: tf.Tensor | float) -> tf.Tensor:
        """Returns the gradients of the images' scores with respect to the images, float32."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            score = self.discriminator(images, alpha=alpha)
        return tf.cast(tape.gradient(score, images), tf.float32)

    def _move(self, averages: list[Any], variables: list[Any], rate: float) -> None:
        """Moves averages towards variables, on all replicas alike."""

        def move(strategy: tf.distribute.Strategy | None, *_: Any) -> None:
            for average, variable in zip(averages, variables, strict=True):
                if strategy is None:
                    average.value.assign_sub(rate * (average.value - variable.value))
                    continue
                strategy.extended.update(
                    average.value,
                    lambda a, v: a.assign_sub(rate * (a - v)),
                    args=(variable.value,),
                )

        context = tf.distribute.get_replica_context()
        if self._replicas == 1:
            move(None)
        elif context is not None:
            context.merge_call(move)
