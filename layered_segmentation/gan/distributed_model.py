"""What a Keras model needs to train under any strategy as it trains on one device."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from layered_segmentation.errors import UserError
from layered_segmentation.gan import inputs
from layered_segmentation.gan.keras_settings import standard


class DistributedModel(keras.Model):
    """A Keras model whose losses are fixed and whose logs are means over the global batch.

    A subclass has `train_step` and `test_step`, which return each replica's share of the logs, and
    the methods that raise `NotImplementedError` here.
    """

    optimizer: Any
    train_function: Any
    test_function: Any

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.wait_seconds = 0.0
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._steps = 0

    def default_optimizers(self) -> Sequence[keras.optimizers.Optimizer]:
        """Returns new optimizers, one for each of `trained_networks`."""
        raise NotImplementedError

    def trained_networks(self) -> Sequence[Any]:
        """Returns the networks that train, each with its own optimizer."""
        raise NotImplementedError

    def check_batch(self, data: Any) -> None:
        """Raises UserError if one replica's data cannot be trained on."""
        raise NotImplementedError

    def step_options(self, batch: int) -> dict[str, bool]:
        """Returns keyword arguments of the next `train_step` of a global batch of this size.

        Each combination is a graph of its own, so what a step leaves out costs nothing, and
        replicas exchange values outside of conditions.
        """
        return {}

    def _compile(
        self,
        optimizers: Mapping[str, Any],
        jit_compile: bool,
        run_eagerly: bool,
        refused: Mapping[str, Any],
    ) -> None:
        """Compiles with optimizers by the names of their attributes; None is a default one."""
        if refused:
            raise UserError(
                f"compile({', '.join(refused)}=...) is not possible: the losses are "
                f"fixed; it takes {', '.join(optimizers)}, jit_compile and run_eagerly"
            )
        with self.distribute_strategy.scope():
            with standard():
                defaults = self.default_optimizers()
            built = [
                self._scaled(given or default)
                for given, default in zip(optimizers.values(), defaults, strict=True)
            ]
            for name, optimizer, network in zip(
                optimizers, built, self.trained_networks(), strict=True
            ):
                optimizer.build(network.trainable_variables)
                setattr(self, name, optimizer)
            super().compile(
                optimizer=built[0],
                jit_compile=jit_compile,
                run_eagerly=run_eagerly,
                auto_scale_loss=False,
            )
        self._compile_arguments = {
            **optimizers,
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

    @standard()  # Keras converts arrays to its general float type
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as Keras's `fit` does."""
        return super().fit(*args, **kwargs)

    @standard()
    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Measures the losses as Keras's `evaluate` does."""
        return super().evaluate(*args, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Compiles the step; the time spent waiting for data is measured around the iterator."""
        if self.train_function is None or force:
            self.train_function = self._loop_function(self.train_step, self.step_options)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Compiles the step of `evaluate`."""
        if self.test_function is None or force:
            self.test_function = self._loop_function(self.test_step)
        return self.test_function

    def _loop_function(
        self,
        take_step: Callable[..., dict[str, tf.Tensor]],
        step_options: Callable[[int], dict[str, bool]] = lambda batch: {},
    ) -> Any:
        """Returns a function (iterator) -> logs of one step on the global batch."""
        strategy = self.distribute_strategy

        @functools.cache
        def compiled(**options: bool) -> Any:
            take = functools.partial(take_step, **options) if options else take_step

            def step(data: Any) -> dict[str, tf.Tensor]:
                run = tf.function(take, jit_compile=True) if self.jit_compile else take
                logs = strategy.run(run, args=(data,))
                return {
                    name: strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
                    for name, value in logs.items()
                }

            return step if self.run_eagerly else tf.function(step, reduce_retracing=True)

        def function(iterator: Any) -> dict[str, tf.Tensor]:
            start = time.perf_counter()
            data = next(iterator)
            while not inputs.is_even(shares := strategy.experimental_local_results(data)):
                data = next(iterator)
            self.wait_seconds += time.perf_counter() - start
            if not self._steps:
                for share in shares:
                    self.check_batch(share)
            options = step_options(inputs.count(shares[0]) * self._replicas)
            logs: dict[str, tf.Tensor] = compiled(**options)(data)
            self._steps += 1
            for name, value in logs.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1
            return logs

        return function

    def get_metrics_result(self) -> dict[str, float]:
        """Returns each log's mean over the epoch's steps that have it, which Keras shows."""
        return {name: float(value) / self._counts[name] for name, value in self._sums.items()}

    def reset_metrics(self) -> None:
        self._sums, self._counts = {}, {}
        self._steps = 0

    @property
    def _replicas(self) -> int:
        return int(self.distribute_strategy.num_replicas_in_sync)

    def _mean_of_replicas(self, value: tf.Tensor) -> tf.Tensor:
        """Returns a tensor's mean over the replicas, through which gradients flow."""
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return value
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)

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
        gradients = [
            tf.zeros_like(v.value) if g is None else g
            for g, v in zip(gradients, variables, strict=True)
        ]
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            gradients = self._overflowing_alike(gradients)
        optimizer.apply(gradients, variables)
        return loss, logs

    def _overflowing_alike(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Returns gradients that are NaN on all replicas if they are not finite on one of them.

        Keras skips a step if the gradients of the first replica are not finite, and would add those
        of the others to the weights.
        """
        if self._replicas == 1:
            return gradients
        zero_or_nan = tf.add_n([tf.reduce_sum(0.0 * gradient) for gradient in gradients])
        context = tf.distribute.get_replica_context()
        zero_or_nan = context.all_reduce(tf.distribute.ReduceOp.SUM, zero_or_nan)
        return [gradient + zero_or_nan for gradient in gradients]

    def _scale(self, loss: tf.Tensor, optimizer: Any) -> tuple[tf.Tensor, tf.Tensor]:
        # Keras sums gradients over the replicas; the mean is wanted.
        loss = loss / self._replicas
        return loss, optimizer.scale_loss(loss)
