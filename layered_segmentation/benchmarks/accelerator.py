"""The speed, memory and share of peak of training on one accelerator.

By default it times a whole training step on TensorFlow: discriminator with gradient penalty,
generator, average, optimizers; with and without XLA, in float32 and in mixed precision. With
KERAS_BACKEND=jax it times the networks alone, forward and their gradients by `jax.grad`, and needs
no TensorFlow. Without an accelerator it uses the CPU.

Example:
  python -m layered_segmentation.benchmarks.accelerator
  KERAS_BACKEND=jax python -m layered_segmentation.benchmarks.accelerator --minutes=4
"""

import argparse
import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from layered_segmentation.benchmarks import memory, training

HEADER = (
    f"{'px':>4} {'work':>24} {'precision':>15} {'images/s':>9} {'min–max':>17} {'MB':>8} "
    f"{'of peak':>8}"
)
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
_PENALTY, _DRIFT = 10.0, 0.001  # weights in the discriminator's loss; any would do
_GIGA = 1e9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is timed."""

    batch: int = 16  # images
    max_channels: int = 512  # full width
    latent_dim: int = 512
    mapping_layers: int = 8
    peak_side: int = 8192  # of the matrices that the peak is measured with
    calls: int = 5  # in a round
    rounds: int = 3


@dataclasses.dataclass(frozen=True)
class Row:
    """The speed of one kind of work."""

    resolution: int  # pixels
    work: str  # what is timed
    precision: str  # Keras dtype policy
    speeds: tuple[float, ...] = ()  # images per second of each round; empty if it did not fit
    megabytes: float = 0.0  # peak of the device's memory; on a CPU, of the process
    flops: float = 0.0  # floating-point operations per image
    peak: float = 0.0  # operations per second of the device's matrix products at this precision

    def line(self) -> str:
        """Returns the row of the table under `HEADER`."""
        start = f"{self.resolution:>4} {self.work:>24} {self.precision:>15} "
        if not self.speeds:
            return start + "out of memory"
        median = statistics.median(self.speeds)
        spread = f"{min(self.speeds):,.1f}–{max(self.speeds):,.1f}"
        return start + (
            f"{median:>9,.1f} {spread:>17} {self.megabytes:>8,.0f} "
            f"{self.flops * median / self.peak:>8.1%}"
        )


def timed(call: Callable[[], object], sizes: Sizes) -> tuple[float, ...]:
    """Returns images per second of each round; `call` returns when a batch is done."""
    speeds = []
    for _ in range(sizes.rounds):
        start = time.perf_counter()
        for _ in range(sizes.calls):
            call()
        speeds.append(sizes.calls * sizes.batch / (time.perf_counter() - start))
    return tuple(speeds)


def steps(resolutions: Sequence[int], precisions: Sequence[str], sizes: Sizes) -> Iterator[Row]:
    """Times whole training steps on TensorFlow, on the first GPU if there is one.

    Args:
        resolutions: Of the stages.
        precisions: Keras dtype policies.
        sizes: What is timed.

    Yields:
        A row for each resolution, precision and compiler.
    """
    import tensorflow as tf

    from layered_segmentation import config as configs
    from layered_segmentation.gan.layered_gan import LayeredGAN
    from layered_segmentation.gan.step_timer import graph_flops

    gpus = tf.config.list_physical_devices("GPU")
    print(gpus[0].name if gpus else "CPU, no GPU was found", flush=True)
    for resolution in resolutions:
        shape = training.Sizes(resolution, sizes.max_channels, sizes.batch, sizes.latent_dim)
        for precision in precisions:
            stage = training.stage_settings(shape, precision)
            peak, flops = _tensorflow_peak(precision, sizes.peak_side), 0.0
            for jit_compile in (False, True):
                if gpus:
                    tf.config.experimental.reset_memory_stats("GPU:0")
                config = configs.load("", [*stage, f"gan.mapping_layers={sizes.mapping_layers}"])
                gan = LayeredGAN.from_run_config(config)
                gan.set_stage(gan.stages[0])
                step = tf.function(gan.train_step, jit_compile=jit_compile)
                real = tf.random.stateless_uniform(
                    (sizes.batch, resolution, resolution, 3), (0, 0), -1.0, 1.0
                )
                name = "step with XLA" if jit_compile else "step"
                call = functools.partial(_take, step, real)
                if not flops:
                    flops = graph_flops(step.get_concrete_function(real).graph) / sizes.batch
                try:
                    call()  # compiles
                    speeds = timed(call, sizes)
                except tf.errors.ResourceExhaustedError:
                    yield Row(resolution, name, precision)
                    continue
                yield Row(
                    resolution, name, precision, speeds, _tensorflow_memory(gpus), flops, peak
                )


def _take(step: Callable[[Any], Any], real: Any) -> None:
    step(real)["g_loss"].numpy()


def _tensorflow_memory(gpus: Sequence[Any]) -> float:
    import tensorflow as tf

    if not gpus:
        return memory.megabytes("VmHWM")
    return float(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6)


@functools.cache
def _tensorflow_peak(precision: str, side: int) -> float:
    import tensorflow as tf

    dtype = precision.removeprefix("mixed_")
    matrix = tf.cast(tf.random.stateless_normal([side, side], [0, 0]), dtype)
    product = tf.function(lambda x: tf.matmul(x, x)[0, 0])
    return _peak(lambda: product(matrix).numpy(), side)


def _peak(product: Callable[[], object], side: int) -> float:
    """Returns operations per second of a product of two matrices, of the fastest call."""
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def networks(resolutions: Sequence[int], precisions: Sequence[str], sizes: Sizes) -> Iterator[Row]:
    """Times the networks alone on JAX's first device.

    Args:
        resolutions: Of the networks.
        precisions: Keras dtype policies. Gradients in float16 may overflow; their time is right.
        sizes: What is timed.

    Yields:
        A row for each resolution, precision, network, and for forward and gradients.
    """
    import jax
    import jax.numpy as jnp

    print(jax.devices()[0].device_kind, flush=True)
    for resolution in resolutions:
        for precision in precisions:
            matrix = jnp.ones((sizes.peak_side,) * 2, precision.removeprefix("mixed_"))
            product = jax.jit(lambda x: (x @ x)[0, 0])
            peak = _peak(functools.partial(_wait, product, matrix), sizes.peak_side)
            for name, function, arguments in _functions(resolution, precision, sizes):
                try:
                    compiled = jax.jit(function).lower(*arguments).compile()
                    call = functools.partial(_wait, compiled, *arguments)
                    call()
                    speeds = timed(call, sizes)
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    yield Row(resolution, name, precision)
                    continue
                flops = _jax_flops(compiled) / sizes.batch
                yield Row(resolution, name, precision, speeds, _jax_memory(), flops, peak)


def _functions(
    resolution: int, precision: str, sizes: Sizes
) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """Yields a name, a function of arrays and its arguments for each kind of work."""
    import jax

    from layered_segmentation.gan import composite, losses
    from layered_segmentation.gan.discriminator import Discriminator
    from layered_segmentation.gan.generator import LayeredGenerator

    generator = LayeredGenerator(
        resolution=resolution,
        latent_dim=sizes.latent_dim,
        mapping_layers=sizes.mapping_layers,
        max_channels=sizes.max_channels,
        dtype=precision,
    )
    discriminator = Discriminator(
        resolution=resolution, max_channels=sizes.max_channels, dtype=precision
    )

    def values(variables: Sequence[Any]) -> list[Any]:
        return [variable.value for variable in variables]

    drawing = values(generator.trainable_variables), values(generator.non_trainable_variables)
    scoring = (
        values(discriminator.trainable_variables),
        values(discriminator.non_trainable_variables),
    )
    random = np.random.default_rng(0)
    latents = random.normal(size=(sizes.batch, sizes.latent_dim)).astype(np.float32)
    real, fake = random.uniform(-1, 1, (2, sizes.batch, resolution, resolution, 3)).astype(
        np.float32
    )

    def draw(variables: Any) -> Any:
        return generator.stateless_call(variables, drawing[1], latents)[0]

    def score(variables: Any, images: Any) -> Any:
        return discriminator.stateless_call(variables, scoring[1], images)[0]

    def compose(variables: Any) -> Any:
        return composite.compose(draw(variables))

    def generator_loss(variables: Any, judge: Any) -> Any:
        layers = draw(variables)
        size, binary = losses.mask_size(layers.mask, 0.25), losses.mask_binary(layers.mask)
        return losses.generator(score(judge, composite.compose(layers)), size, binary, 2.0, 2.0)

    def discriminator_loss(variables: Any, images: Any, others: Any) -> Any:
        mixed = losses.interpolate(images, others, 0.5)
        gradients = jax.grad(lambda part: score(variables, part).sum())(mixed)
        penalty = losses.gradient_penalty(gradients)
        scores = score(variables, images), score(variables, others)
        return losses.discriminator(*scores, penalty, _PENALTY, _DRIFT)

    yield "generator forward", compose, drawing[:1]
    yield "discriminator forward", score, (scoring[0], real)
    yield "generator gradients", jax.grad(generator_loss), (drawing[0], scoring[0])
    yield "discriminator gradients", jax.grad(discriminator_loss), (scoring[0], real, fake)


def _wait(function: Callable[..., Any], *arguments: Any) -> None:
    import jax

    jax.block_until_ready(function(*arguments))


def _jax_flops(compiled: Any) -> float:
    costs = compiled.cost_analysis() or {}
    costs = costs[0] if isinstance(costs, list) else costs  # one for each device
    return float(costs.get("flops", 0.0))


def _jax_memory() -> float:
    import jax

    statistics_ = jax.devices()[0].memory_stats() or {}
    used = statistics_.get("peak_bytes_in_use")
    return memory.megabytes("VmHWM") if used is None else used / 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, row by row."""
    parser = argparse.ArgumentParser(
        "python -m layered_segmentation.benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--resolutions", default="64,128", help="Stages to time, pixels.")
    parser.add_argument(
        "--minutes", type=float, default=4.0, help="Time after which no row is begun."
    )
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="Keras dtype policies.")
    names = [field.name for field in dataclasses.fields(Sizes)]
    for name in names:
        parser.add_argument(f"--{name}", type=int, default=getattr(Sizes, name))
    chosen = parser.parse_args(arguments)
    sizes = Sizes(**{name: getattr(chosen, name) for name in names})
    precisions = chosen.precisions.split(",")
    resolutions = [int(text) for text in chosen.resolutions.split(",")]
    start = time.monotonic()
    rows = networks if os.environ.get("KERAS_BACKEND") == "jax" else steps
    print(HEADER, flush=True)
    for row in rows(resolutions, precisions, sizes):
        print(row.line(), flush=True)
        if time.monotonic() - start > 60 * chosen.minutes:
            print(f"stopped after {chosen.minutes:g} minutes; --minutes=N gives it more time")
            return


if __name__ == "__main__":
    main()
