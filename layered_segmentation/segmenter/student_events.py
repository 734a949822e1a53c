"""What a student learns, for TensorBoard and the report: its curves, and its masks as they change.

Training on generated pairs and every round of self-training is a phase with a name of its own. In
TensorBoard each phase is a run, so that the curves of rounds lie over each other.
"""

import os
from typing import Any

import numpy as np

from layered_segmentation import images, sheets
from layered_segmentation.gan.callbacks import Events

FIRST = "generated pairs"  # the phase before self-training
EVERY = 20  # steps between points of a curve
SHOWN = 8  # images whose masks are shown


def round_name(number: int) -> str:
    """Returns the name of a round of self-training; the first has the number 1."""
    return f"round {number}"


class StudentEvents:
    """Writes scalars and masks of the phases of one student.

    Args:
        directory: Created with the first record; if empty, no records are written.
    """

    def __init__(self, directory: str = ""):
        self.directory = directory
        self.shown = np.zeros((0, 1, 1, 3), np.uint8)  # images whose masks are shown, [N, R, R, 3]
        self.masks: dict[str, np.ndarray] = {}  # of the shown images by phase, float [N, R, R, 1]
        self.phase, self._phases = "", 0
        self._events: Events | None = None

    def show(self, photos: np.ndarray, side: int) -> None:
        """Chooses the first of some images, uint8 [N, S, S, 3], to be shown at a side."""
        self.shown = np.stack([images.to_square(photo, side) for photo in photos[:SHOWN]])

    def begin(self, phase: str) -> None:
        """Begins a phase; what is written next belongs to it."""
        self.phase = phase
        if self.directory:
            folder = f"{self._phases}_{phase.replace(' ', '_')}"  # TensorBoard sorts by name
            self._events = Events(os.path.join(self.directory, folder))
        self._phases += 1

    def end(self, segmenter: Any) -> None:
        """Is called with the student, which must not be changed, at the end of each phase."""

    def write(self, step: int, **values: float) -> None:
        """Writes scalars of the phase by name."""
        if self._events is not None:
            self._events.write_scalars(step, values)

    def write_masks(self, step: int, masks: np.ndarray) -> None:
        """Writes the masks of the shown images, float [N, R, R] in [0, 1], at the phase's end."""
        if not len(self.shown):
            return
        self.masks[self.phase] = masks[..., None]
        if self._events is not None:
            self._events.write_image(step, "masks", _sheet(self.shown, {"mask": masks[..., None]}))

    def sheet(self) -> np.ndarray | None:
        """Shows the images with their masks after each phase, a row each; None without masks."""
        return _sheet(self.shown, self.masks) if self.masks else None


def _sheet(shown: np.ndarray, masks: dict[str, np.ndarray]) -> np.ndarray:
    scale = max(1, 96 // shown.shape[1])
    rows = {"image": shown, **{name: sheets.grey(one) for name, one in masks.items()}}
    enlarged = [list(sheets.enlarge(row, scale)) for row in rows.values()]
    return sheets.grid(enlarged, list(rows), len(shown))
