"""What a Keras model needs to train two networks against each other under any strategy."""

import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from layered_segmentation.errors import UserError
from layered_segmentation.gan import inputs
from layered_segmentation.gan.draws import replica_share


class AdversarialModel(keras.Model):
    """A Keras model with two optimizers, whose logs are means over the global batch.

    A subclass has a `generator`, a `discriminator` and the methods that raise
    `NotImplementedError` here. Its steps return each replica's share of the logs.
    """

    generator: Any
    discriminator: Any
    generator_optimizer: keras.optimizers.Optimizer
    discriminator_optimizer: keras.optimizers.Optimizer
    train_function: Any
    test_function: Any

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.wait_seconds = 0.0
        self._sums: dict[str, Any] = {}
        self._steps = 0

    def default_optimizers(self) -> tuple[keras.optimizers.Optimizer, keras.optimizers.Optimizer]:
        """Returns new optimizers of generator and discriminator, for `compile`."""
        raise NotImplementedError

    def check_batch(self, data: Any) -> None:
        """Raises UserError if one replica's data cannot be trained on."""
        raise NotImplementedError

    def compile(
        self,
        generator_optimizer: Any = None,
        discriminator_optimizer: Any = None,
        jit_compile: bool = False,
        run_eagerly: bool = False,
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
            **refused: Nothing else can be set.

        Raises:
            UserError: An argument that has no meaning here, or one optimizer for both networks.
        """
        if refused:
            raise UserError(
                f"compile({', '.join(refused)}=...) is not possible: the losses are "
                "fixed; it takes generator_optimizer, discriminator_optimizer, jit_compile and "
                "run_eagerly"
            )
        if isinstance(generator_optimizer, keras.optimizers.Optimizer) and (
            generator_optimizer is discriminator_optimizer
        ):
            raise UserError(
                f"generator_optimizer and discriminator_optimizer are the same object, "
                f"{generator_optimizer.name!r}; create one for each network"
            )
        with self.distribute_strategy.scope():
            default = self.default_optimizers()
            self.generator_optimizer = self._scaled(generator_optimizer or default[0])
            self.discriminator_optimizer = self._scaled(discriminator_optimizer or default[1])
            self.generator_optimizer.build(self.generator.trainable_variables)
            self.discriminator_optimizer.build(self.discriminator.trainable_variables)
            super().compile(
                optimizer=self.generator_optimizer,
                jit_compile=jit_compile,
                run_eagerly=run_eagerly,
                auto_scale_loss=False,
            )
        self._compile_arguments = {
            "generator_optimizer": generator_optimizer,
            "discriminator_optimizer": discriminator_optimizer,
            "jit_compile": jit_compile,
            "run_eagerly": run_eagerly,
        }

    def _scaled(self, given: Any) -> keras.optimizers.Optimizer:
        optimizer = keras.optimizers.get(given)
        is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if self.dtype_policy.name == "mixed_float16" and not is_scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        return optimizer

    def get_compile_config(self) -> dict[str, Any]:
        if not self.compiled:
            return {}
        config: dict[str, Any] = keras.saving.serialize_keras_object(self._compile_arguments)
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))

    def make_train_function(self, force: bool = False) -> Any:
        """Compiles the step; the time spent waiting for data is measured around the iterator."""
        if self.train_function is None or force:
            self.train_function = self._loop_function(self.train_step)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Compiles the step of `evaluate`."""
        if self.test_function is None or force:
            self.test_function = self._loop_function(self.test_step)
        return self.test_function

    def _loop_function(self, take_step: Callable[[Any], dict[str, tf.Tensor]]) -> Any:
        """Returns a function (iterator) -> logs of one step on the global batch."""
        strategy = self.distribute_strategy

        def step(data: Any) -> dict[str, tf.Tensor]:
            run = tf.function(take_step, jit_compile=True) if self.jit_compile else take_step
            logs = strategy.run(run, args=(data,))
            return {
                name: strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
                for name, value in logs.items()
            }

        compiled = step if self.run_eagerly else tf.function(step, reduce_retracing=True)

        def function(iterator: Any) -> dict[str, tf.Tensor]:
            start = time.perf_counter()
            data = next(iterator)
            while not inputs.is_even(strategy.experimental_local_results(data)):
                data = next(iterator)
            self.wait_seconds += time.perf_counter() - start
            if not self._steps:
                for share in strategy.experimental_local_results(data):
                    self.check_batch(share)
            logs: dict[str, tf.Tensor] = compiled(data)
            self._steps += 1
            for name, value in logs.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            return logs

        return function

    def get_metrics_result(self) -> dict[str, float]:
        """Returns each log's mean over the steps of the epoch, which Keras shows and records."""
        return {name: float(value) / self._steps for name, value in self._sums.items()}

    def reset_metrics(self) -> None:
        self._sums = {}
        self._steps = 0

    def _counter(self, name: str) -> Any:
        return self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int64",
            trainable=False,
            aggregation="only_first_replica",
            name=name,
        )

    @property
    def _replicas(self) -> int:
        return int(self.distribute_strategy.num_replicas_in_sync)

    def _global_batch(self, images: tf.Tensor) -> Any:
        return (images.shape[0] or tf.shape(images)[0]) * self._replicas

    def _share(self, draws: Any) -> Any:
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context is not None else 0
        return replica_share(draws, replica, self._replicas)

    def _mean_of_replicas(self, value: tf.Tensor) -> tf.Tensor:
        """Returns a tensor's mean over the replicas, through which gradients flow."""
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return value
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)

    def _roll(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the value of the sample before each one in the global batch, with gradients."""
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return tf.roll(value, 1, axis=0)
        share: tf.Tensor = self._share(tf.roll(context.all_gather(value, axis=0), 1, axis=0))
        return share

    def _minimise(
        self,
        compute: Callable[[], tuple[tf.Tensor, dict[str, tf.Tensor]]],
        variables: list[Any],
        optimizer: Any,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Takes an optimizer step on the loss that `compute` returns beside its logs."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            loss, logs = compute()
            loss, scaled = self._scale(loss, optimizer)
        gradients = tape.gradient(scaled, [v.value for v in variables])
        optimizer.apply(
            [
                tf.zeros_like(v.value) if g is None else g
                for g, v in zip(gradients, variables, strict=True)
            ],
            variables,
        )
        return loss, logs

    def _scale(self, loss: tf.Tensor, optimizer: Any) -> tuple[tf.Tensor, tf.Tensor]:
        # Keras sums gradients over the replicas; the mean is wanted.
        loss = loss / self._replicas
        return loss, optimizer.scale_loss(loss)

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
