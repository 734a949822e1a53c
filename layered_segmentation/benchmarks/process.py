"""A second process that times TensorFlow as it is; imports nothing heavy before it is quiet."""

import contextlib
import dataclasses
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layered_segmentation.benchmarks.training import Sizes


class RemoteTimer:
    """A timer of the plain variant, in another process."""

    def __init__(self, connection: Any):
        self._connection = connection

    def run(self, steps: int) -> float:
        """Takes steps; returns images a second."""
        self._connection.send(steps)
        return float(self._connection.recv())


@contextlib.contextmanager
def plain_timer(sizes: "Sizes", chosen: Sequence[str]) -> Iterator[RemoteTimer]:
    """Starts a process that times the unfused float32 step; it ends with the context.

    Args:
        sizes: The step.
        chosen: Environment variables that the process runs without.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, dataclasses.asdict(sizes))
    process = context.Process(target=_serve, args=arguments, daemon=True)
    kept = {name: os.environ.pop(name) for name in chosen if name in os.environ}
    try:
        process.start()
    finally:
        os.environ.update(kept)
    theirs.close()
    try:
        yield RemoteTimer(ours)
    finally:
        ours.close()
        process.join()


def _serve(connection: Any, sizes: dict[str, int]) -> None:
    """Answers each number of steps with the images a second, until the other end closes."""
    from layered_segmentation import quiet

    quiet.import_tensorflow()
    from layered_segmentation.benchmarks import training

    timer = training.Timer(training.Sizes(**sizes), fused=False, precision="float32")
    with contextlib.suppress(EOFError):
        while True:
            connection.send(timer.run(connection.recv()))
