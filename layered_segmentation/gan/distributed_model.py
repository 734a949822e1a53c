"""What a Keras model needs to train under any strategy as it trains on one device."""

import contextlib
import functools
import inspect
import itertools
import numbers
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from layered_segmentation import stopping
from layered_segmentation.errors import UserError
from layered_segmentation.gan import inputs
from layered_segmentation.gan.keras_settings import standard

_MOST_SECONDS = 0.5  # of the steps of one loop within a graph


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
        self._step_seconds = _MOST_SECONDS  # of the last steps
        self._epoch_steps: int | None = None  # as asked for; None for all the data
        self._steps = 0  # of the epoch so far

    def default_optimizers(self) -> Sequence[keras.optimizers.Optimizer]:
        """Returns new optimizers, one for each of `trained_networks`."""
        raise NotImplementedError

    def trained_networks(self) -> Sequence[Any]:
        """Returns the networks that train, each with its own optimizer."""
        raise NotImplementedError

    def check_batch(self, data: Any) -> None:
        """Raises UserError if one replica's data cannot be trained on."""
        raise NotImplementedError

    def step_options(self, batch: int, ahead: int = 0) -> dict[str, bool]:
        """Returns keyword arguments of a coming `train_step`.

        Each combination is a graph of its own, so what a step leaves out costs nothing, and
        replicas exchange values outside of conditions.

        Args:
            batch: The step's global batch size.
            ahead: Images between now and the step.
        """
        return {}

    def _compile(
        self,
        optimizers: Mapping[str, Any],
        jit_compile: bool,
        run_eagerly: bool,
        steps_per_execution: int,
        refused: Mapping[str, Any],
    ) -> None:
        """Compiles with optimizers by the names of their attributes; None is a default one."""
        if refused:
            raise UserError(
                f"compile({', '.join(refused)}=...) is not possible: the losses are fixed; it "
                f"takes {', '.join(optimizers)}, jit_compile, run_eagerly and steps_per_execution"
            )
        if not isinstance(steps_per_execution, numbers.Integral) or steps_per_execution < 1:
            raise UserError(
                f"compile(steps_per_execution={steps_per_execution!r}): pass an integer, at least 1"
            )
        steps_per_execution = int(steps_per_execution)
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
                steps_per_execution=steps_per_execution,
                auto_scale_loss=False,
            )
        self._compile_arguments: dict[str, Any] = {
            **optimizers,
            "jit_compile": jit_compile,
            "run_eagerly": run_eagerly,
            "steps_per_execution": steps_per_execution,
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
        given = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        with self._epochs_of(given.get("steps_per_epoch")):
            return super().fit(*args, **kwargs)

    @standard()
    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Measures the losses as Keras's `evaluate` does."""
        given = inspect.signature(super().evaluate).bind(*args, **kwargs).arguments
        with self._epochs_of(given.get("steps")):
            return super().evaluate(*args, **kwargs)

    @contextlib.contextmanager
    def _epochs_of(self, steps: int | None) -> Iterator[None]:
        """Ends epochs after so many steps. Keras itself only ends them after whole executions."""
        before = self._epoch_steps, self._steps
        self._epoch_steps, self._steps = steps or None, 0
        try:
            yield
        finally:
            self._epoch_steps, self._steps = before

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
        step_options: Callable[[int, int], dict[str, bool]] = lambda batch, ahead: {},
    ) -> Any:
        """Returns a function (iterator) -> logs of the next `steps_per_execution` steps."""
        take_steps = self.steps_function(take_step, step_options)

        def function(iterator: Any) -> dict[str, tf.Tensor]:
            start = time.perf_counter()
            most = self.steps_per_execution
            if self._epoch_steps is not None:
                most = min(most, max(0, self._epoch_steps - self._steps))
            batches = [inputs.images(data) for data in itertools.islice(self._even(iterator), most)]
            if not batches:
                raise StopIteration
            self._steps += len(batches)
            self.wait_seconds += time.perf_counter() - start
            if not self._counts:
                for share in self.distribute_strategy.experimental_local_results(batches[0]):
                    self.check_batch(share)
            return take_steps(batches)

        return function

    def steps_function(
        self,
        take_step: Callable[..., dict[str, tf.Tensor]],
        step_options: Callable[[int, int], dict[str, bool]] = lambda batch, ahead: {},
    ) -> Callable[[Sequence[Any]], dict[str, tf.Tensor]]:
        """Returns a function that takes a step on each of several global batches of images.

        The function returns each log's mean over the steps that have it. On one replica,
        successive steps of the same kind run as one loop within a graph, because starting a graph
        takes a fifth of the time of a small step.

        Args:
            take_step: A step of one replica.
            step_options: As `DistributedModel.step_options`.
        """
        strategy = self.distribute_strategy
        is_loop = self.steps_per_execution > 1 and self._replicas == 1 and not self.run_eagerly

        @functools.cache
        def compiled(signature: tf.TensorSpec | None, **options: bool) -> Any:
            take = functools.partial(take_step, **options) if options else take_step
            run = tf.function(take, jit_compile=True) if self.jit_compile else take
            names: list[str] = []

            def step(data: Any) -> dict[str, tf.Tensor]:
                logs = strategy.run(run, args=(data,))
                return {
                    name: strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
                    for name, value in logs.items()
                }

            def loop(stacked: tf.Tensor) -> dict[str, tf.Tensor]:
                def one(index: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                    logs = step(stacked[index])
                    names.clear()
                    names.extend(logs)
                    return index + 1, sums + tf.stack(list(logs.values()))

                count = tf.shape(stacked)[0]
                _, sums = tf.while_loop(
                    lambda index, sums: index < count,
                    one,
                    (0, tf.zeros([])),
                    shape_invariants=(tf.TensorShape([]), tf.TensorShape(None)),
                )
                return dict(zip(names, tf.unstack(sums, num=len(names)), strict=True))

            if self.run_eagerly:
                return step
            if signature is not None:
                return tf.function(loop if is_loop else step, input_signature=[signature])
            return tf.function(step, reduce_retracing=True)

        def take_steps(batches: Sequence[Any]) -> dict[str, tf.Tensor]:
            sums: dict[str, Any] = {}
            counts: dict[str, int] = {}
            for options, group in self._kinds(batches, step_options, is_loop):
                start = time.perf_counter()
                data, signature = group[0], None
                # Traced once for each shape, since a graph of any shape rounds differently.
                if is_loop:
                    data = tf.stack(group)
                    signature = tf.TensorSpec([None, *data.shape[1:]], data.dtype)
                elif self._replicas == 1:
                    data = tf.convert_to_tensor(data)
                    signature = tf.TensorSpec(data.shape, data.dtype)
                for name, value in compiled(signature, **options)(data).items():
                    sums[name] = sums.get(name, 0.0) + value
                    counts[name] = counts.get(name, 0) + len(group)
                self._step_seconds = (time.perf_counter() - start) / len(group)
                if stopping.is_requested():
                    break
            for name, value in sums.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + counts[name]
            return {name: value / counts[name] for name, value in sums.items()}

        return take_steps

    def _even(self, iterator: Iterator[Any]) -> Iterator[Any]:
        """Yields the batches of which all replicas have equally many images."""
        for data in iterator:
            if inputs.is_even(self.distribute_strategy.experimental_local_results(data)):
                yield data

    def _kinds(
        self,
        batches: Sequence[Any],
        step_options: Callable[[int, int], dict[str, bool]],
        is_loop: bool,
    ) -> Iterator[tuple[dict[str, bool], list[Any]]]:
        """Groups successive steps that have the same options and shapes.

        A group takes about `_MOST_SECONDS` at most, so that a signal can stop slow steps between
        two groups.

        Yields:
            The options of a group and its batches.
        """
        ahead, kinds = 0, []
        for number, data in enumerate(batches):
            share = self.distribute_strategy.experimental_local_results(data)[0]
            batch = inputs.count(share) * self._replicas
            own = None if is_loop else number  # without loops, a step is a group of its own
            kinds.append((step_options(batch, ahead), own, tuple(share.shape)))
            ahead += batch
        pairs = zip(kinds, batches, strict=True)
        for kind, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            same = [data for _, data in group]
            while same:
                most = max(1, int(_MOST_SECONDS / self._step_seconds))
                yield kind[0], same[:most]
                same = same[most:]

    def get_metrics_result(self) -> dict[str, float]:
        """Returns each log's mean over the epoch's steps that have it, which Keras shows."""
        return {name: float(value) / self._counts[name] for name, value in self._sums.items()}

    def _get_metrics_result_or_logs(self, logs: Any) -> dict[str, float]:
        # Keras would take the last logs instead of the means if the last step has not all of them.
        return self.get_metrics_result()

    def reset_metrics(self) -> None:
        self._sums, self._counts, self._steps = {}, {}, 0

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
        watched: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor | None]:
        """Takes an optimizer step on the loss that `compute` returns with its logs.

        Args:
            compute: Computes the loss and the logs.
            variables: What the step updates.
            optimizer: Their optimizer.
            watched: A tensor that `compute` uses.

        Returns:
            This replica's share of the loss, the logs, and the gradient of the unscaled loss with
            respect to `watched`.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            if watched is not None:
                tape.watch(watched)
            loss, logs = compute()
            share, scaled = self._scale(loss, optimizer)
        sources = [v.value for v in variables]
        if watched is None:
            gradients, slope = tape.gradient(scaled, sources), None
        else:
            gradients, slope = tape.gradient(scaled, [sources, watched])
            slope *= self._replicas / optimizer.scale_loss(1.0)
        gradients = [
            tf.zeros_like(v.value) if g is None else g
            for g, v in zip(gradients, variables, strict=True)
        ]
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            gradients = self._overflowing_alike(gradients)
        optimizer.apply(gradients, variables)
        return share, logs, slope

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
