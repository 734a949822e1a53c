"""Collapsed masks, recognised without true masks, and how training begins again.

Whether masks have collapsed is read off the masks of a fixed set of latents. What the next attempt
of a run changes depends only on how the attempts before it collapsed.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from layered_segmentation.config import Config, GANConfig

LOOK_EVERY = 3_000  # images
LOOKS = 3  # that must agree: a collapse is reported within 10,000 images
SCENES = 64
KINDS = ("empty", "full", "background", "edge", "alike")
SEED = 1  # of their latents, which are those of the sheets

# Masks are compared at this side, so that the cost does not grow with the resolution.
_SIDE = 16
# Thresholds, see `kind`. Masks of finished runs on birds, cars, flowers and scenes are far from
# them (docs/photo-experiments.md).
_EMPTY = 0.02
_FULL = 0.98
_LARGE = 0.6
_AT_EDGE = 0.5
_CROSSES_EDGE = 0.25
_ABOVE_LEAST = 0.3
_ALIKE = 0.95
UNDECIDED = 0.1


class Collapsed(Exception):
    """Masks have collapsed, and training is to begin again.

    Args:
        kind: How, as of `kind`.
        warning: What to tell.
    """

    def __init__(self, kind: str, warning: str):
        super().__init__(warning)
        self.kind = kind
        self.warning = warning


@dataclasses.dataclass(frozen=True)
class MaskStatistics:
    """What a batch of generated masks shows about itself, each in [0, 1]."""

    mask_coverage: float  # mean of the masks
    mask_edge: float  # mean of the masks at the edge of the frame, up to 1/16 of the side
    mask_undecided: float  # mean of min(m, 1 - m), eq. 4
    mask_other_scene: float  # mean IoU of each mask with that of the next scene
    # The same after the shift that makes the two most alike: 1 if every scene has the same mask,
    # wherever it is.
    mask_alike: float


def statistics(masks: np.ndarray, shift: float) -> MaskStatistics:
    """Measures masks.

    Args:
        masks: Float [N, R, R, 1] in [0, 1], N at least 2.
        shift: δ as a fraction of the side; two masks may be up to 2 δ apart.
    """
    masks = np.asarray(masks, np.float64)[..., 0]
    small = _reduced(masks)
    side = small.shape[1]
    reach = round(2 * shift * side)
    hard = np.pad(small >= 0.5, ((0, 0), (reach, reach), (reach, reach)))
    others = np.roll(small >= 0.5, -1, axis=0)
    ious = np.stack(
        [
            _ious(hard[:, top : top + side, left : left + side], others)
            for top in range(2 * reach + 1)
            for left in range(2 * reach + 1)
        ]
    )
    edge = np.ones((side, side), bool)
    edge[1:-1, 1:-1] = False
    return MaskStatistics(
        mask_coverage=float(masks.mean()),
        mask_edge=float(small[:, edge].mean()),
        mask_undecided=float(np.minimum(masks, 1 - masks).mean()),
        mask_other_scene=float(ious[len(ious) // 2].mean()),
        mask_alike=float(ious.max(axis=0).mean()),
    )


def kind(masks: MaskStatistics, gan: GANConfig, is_faded_in: bool) -> str:
    """Returns how masks have collapsed.

    Args:
        masks: Of one look.
        gan: Its bounds on coverage. Where objects are large, large masks are no collapse.
        is_faded_in: Whether the resolution is final, or at least 16 px, and faded in. Before that,
            trainings that end well also have one mask for all scenes, across the frame's edge.

    Returns:
        `empty` or `full`: nothing, or everything. `background`: most of the image, or most of the
        frame's edge. `edge`: much of the frame's edge, although an upper bound says that objects
        have room around them. `alike`: the same mask in every scene. `none`: none of these, or
        masks are still grey.
    """
    least = gan.mask_size + _ABOVE_LEAST
    if masks.mask_undecided > UNDECIDED:
        return "none"
    if masks.mask_coverage < _EMPTY:
        return "empty"
    if masks.mask_coverage > _FULL:
        return "full"
    if masks.mask_coverage > max(_LARGE, least) or masks.mask_edge > max(_AT_EDGE, least):
        return "background"
    has_room = gan.mask_size_most < 1
    if has_room and is_faded_in and masks.mask_edge > _CROSSES_EDGE:
        return "edge"
    return "alike" if is_faded_in and masks.mask_alike > _ALIKE else "none"


def advice(found: str, config: Config) -> str:
    """Returns what has happened and what to change, for a warning.

    Args:
        found: The kind of collapse.
        config: The run's config, whose values the advice quotes.
    """
    gan = config.gan
    most = (
        f"set gan.mask_size_most (now {gan.mask_size_most:g}) to about the largest share of the "
        f"image that an object takes, lower gan.mask_size (η, now {gan.mask_size:g}) or raise "
        f"gan.shift (δ, now {gan.shift:g}); photos need room around the object"
    )
    return {
        "empty": (
            "masks are empty: the background paints everything. In a new run raise "
            f"gan.mask_size_weight (γ1, now {gan.mask_size_weight:g}) or gan.mask_size (η, now "
            f"{gan.mask_size:g}, about the share of the image that the object takes)"
        ),
        "full": (
            "masks cover everything: the foreground paints the whole image. In a new run " + most
        ),
        "background": (
            "masks cover the background as well, or only the background. In a new run " + most
        ),
        "edge": (
            "masks reach across the frame's edge, so they follow the ground or the surroundings. "
            f"In a new run change train.seed, gan.mask_size (η, now {gan.mask_size:g}) or "
            f"gan.mask_size_most (now {gan.mask_size_most:g}); if objects reach beyond the "
            "photos, raise gan.mask_size_most to 1"
        ),
        "alike": (
            "all scenes have the same mask, so it follows no object. In a new run change train.seed"
            f" or gan.mask_size (η, now {gan.mask_size:g})"
        ),
    }[found]


def next_attempt(config: Config, kinds: Iterable[str]) -> Config:
    """Returns the config of the attempt after those that collapsed.

    Every attempt has another seed. After masks that were too large it has a smaller upper bound on
    coverage, after empty ones a larger lower bound and twice the weight, after others the same
    bounds.

    Args:
        config: The run's config.
        kinds: How the attempts before have collapsed, in order.
    """
    gan, train = config.gan, config.train
    for found in kinds:
        train = dataclasses.replace(train, seed=(train.seed + 1_000_003) % 2**31)
        if found in ("full", "background"):
            most = 0.45 if gan.mask_size_most > 0.45 else round(0.8 * gan.mask_size_most, 4)
            least = min(gan.mask_size, round(most / 4, 4))
            gan = dataclasses.replace(gan, mask_size=least, mask_size_most=most)
        elif found == "empty":
            least = min(1.5 * gan.mask_size, (gan.mask_size + gan.mask_size_most) / 2)
            weight = 2 * gan.mask_size_weight
            gan = dataclasses.replace(gan, mask_size=round(least, 4), mask_size_weight=weight)
    return dataclasses.replace(config, gan=gan, train=train)


def _reduced(masks: np.ndarray) -> np.ndarray:
    """Returns the means over squares, so that the side is at most `_SIDE`."""
    factor = max(1, masks.shape[1] // _SIDE)
    side = masks.shape[1] // factor
    squares = masks.reshape(len(masks), side, factor, side, factor)
    means: np.ndarray = squares.mean(axis=(2, 4))
    return means


def _ious(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the IoU of each pair of masks, bool [N, R, R]; 1 where both are empty."""
    union = (masks | others).sum(axis=(1, 2))
    overlap = (masks & others).sum(axis=(1, 2))
    ious: np.ndarray = np.where(union > 0, overlap / np.maximum(union, 1), 1.0)
    return ious
