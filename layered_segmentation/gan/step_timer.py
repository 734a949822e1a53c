"""The time that whole training steps take."""

import collections
import functools
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from layered_segmentation.gan.layered_gan import LayeredGAN


class Turn(NamedTuple):
    """Some steps, timed."""

    images_per_second: float
    processor_milliseconds: float  # of an image; of all threads of the process


class StepTimer:
    """Takes training steps of a GAN at its current stage, always on the same random images.

    Args:
        gan: The compiled GAN; its weights change.
        batch: Images per step.
    """

    def __init__(self, gan: LayeredGAN, batch: int):
        self.batch = batch
        self.gan = gan
        # Steps after which every kind of step is compiled.
        most = max(gan.settings.penalty_every, gan.settings.average_every)
        self.warm_up = most + 1 if most > 1 else 1
        side = gan.stage.resolution
        real = np.random.default_rng(0).uniform(-1, 1, (batch, side, side, 3))
        self._real = tf.constant(real, tf.float32)
        self._kinds: collections.Counter[tuple[tuple[str, bool], ...]] = collections.Counter()
        self._take = gan.steps_function(gan.train_step, gan.step_options)
        self._graphs: dict[tuple[tuple[str, bool], ...], Any] = {}

    def run(self, steps: int) -> Turn:
        """Takes at least so many steps, in executions of `steps_per_execution`, as `fit` does."""
        each = self.gan.steps_per_execution
        executions = -(-steps // each)
        start, processor = time.perf_counter(), time.process_time()
        for _ in range(executions):
            for ahead in range(0, each * self.batch, self.batch):
                self._kinds[tuple(self.gan.step_options(self.batch, ahead).items())] += 1
            self._take([self._real] * each)["g_loss"].numpy()
        images = executions * each * self.batch
        return Turn(
            images / (time.perf_counter() - start),
            1e3 * (time.process_time() - processor) / images,
        )

    def flops_per_image(self) -> float:
        """Counts the floating-point operations of the graphs of the steps taken, per image."""
        total = sum(count * graph_flops(self._graph(kind)) for kind, count in self._kinds.items())
        return total / sum(self._kinds.values()) / self.batch

    def operations(self) -> int:
        """Returns the number of operations in the graph of a step, the largest of those taken."""
        return max(len(self._graph(kind).get_operations()) for kind in self._kinds or [()])

    def _graph(self, kind: tuple[tuple[str, bool], ...]) -> Any:
        if kind not in self._graphs:
            step = functools.partial(self.gan.train_step, **dict(kind))
            function = tf.function(step, jit_compile=self.gan.jit_compile or None)
            self._graphs[kind] = function.get_concrete_function(self._real).graph
        return self._graphs[kind]


def graph_flops(graph: tf.Graph) -> float:
    """Counts the floating-point operations of a graph."""
    from tensorflow.python.profiler import model_analyzer, option_builder

    builder = option_builder.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    return float(model_analyzer.profile(graph, options=options).total_float_ops)
