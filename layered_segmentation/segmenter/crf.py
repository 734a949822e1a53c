"""A conditional random field of a photo's pixels, solved exactly by a graph cut; no labels.

As in interactive segmentation (Boykov & Jolly 2001), a pixel is object or background by what is
believed of its place and of its colour, and pixels of a similar colour stay together. The belief
is not a user's strokes but a soft mask.
"""

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

_SMOOTHNESS = 8.0  # log-odds that a cut between two pixels of the same colour costs
_BLUR = 1 / 64  # of the longer side, σ of the belief: its edge is not where the object's is
_CERTAIN = 0.02  # beliefs are limited to [this, 1 - this], since all may be wrong
_MOST = 6.0  # log-odds, what a colour says at most
_BINS = 24  # of the colours, by channel of CIELAB
# The range of the bins; colours outside it, which are rare in photos, fall into the outermost bins.
_LOWEST, _HIGHEST = np.array([0, -0.6, -0.6], np.float32), np.array([1, 0.6, 0.6], np.float32)
_SPREAD = 0.6  # bins, σ
_FLAT = 1e-5  # probability of a colour that was not seen
_SCALE = 100  # log-odds as whole numbers, which the solver takes
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # the other four are their mirror images


def segment(image: np.ndarray, belief: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Finds the mask that fits a belief, the object's and background's colours, and the edges.

    Args:
        image: uint8 [H, W, 3].
        belief: Float [H, W] in [0, 1], the probability that a pixel is the object.
        background: Bool [H, W], pixels that are background for certain.

    Returns:
        Bool [H, W]; empty or full if nothing else fits better.
    """
    belief = np.asarray(belief, np.float32)
    # OpenCV's CIELAB of float images: lightness in [0, 100], the others about as wide.
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) / 100
    place = cv2.GaussianBlur(belief, (0, 0), _BLUR * max(belief.shape))
    place = np.clip(place, _CERTAIN, 1 - _CERTAIN)
    odds = np.log(place / (1 - place)) + _colour_odds(lab, belief)
    return _cut(np.where(background, -np.inf, odds), lab)


def _colour_odds(lab: np.ndarray, belief: np.ndarray) -> np.ndarray:
    """Returns how much likelier each pixel's colour is in the object, log-odds [H, W].

    Args:
        lab: Float [H, W, 3], lightness in [0, 1], a and b in about [-1, 1].
        belief: Float [H, W] in [0, 1].
    """
    scaled = (lab - _LOWEST) / (_HIGHEST - _LOWEST)
    places = np.clip(scaled * _BINS, 0, _BINS - 1).astype(np.int32)
    bins = np.ravel_multi_index(tuple(np.moveaxis(places, -1, 0)), (_BINS,) * 3)
    logs = []
    for weights in (belief, 1 - belief):
        counts = np.bincount(bins.ravel(), weights.ravel(), _BINS**3).reshape((_BINS,) * 3)
        share = gaussian_filter(counts, _SPREAD, mode="nearest") / max(weights.sum(), 1.0)
        logs.append(np.log(share + _FLAT).ravel()[bins])
    odds: np.ndarray = np.clip(logs[0] - logs[1], -_MOST, _MOST)
    return odds


def _cut(odds: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Returns the mask of least energy: the minimum cut between a source and a sink.

    Args:
        odds: Log-odds [H, W] that a pixel is the object; -inf is certain background.
        pixels: Float [H, W, C]. A cut costs less where neighbours differ.

    Returns:
        Bool [H, W].
    """
    height, width = odds.shape
    nodes = np.arange(odds.size).reshape(odds.shape)
    pairs = []
    for down, right in _NEIGHBOURS:
        first = np.s_[: height - down, max(0, -right) : width - max(0, right)]
        second = np.s_[down:, max(0, right) : width + min(0, right)]
        difference = np.square(pixels[first] - pixels[second]).sum(axis=-1)
        pairs.append((nodes[first].ravel(), nodes[second].ravel(), difference.ravel(), down, right))
    mean = np.concatenate([difference for _, _, difference, _, _ in pairs]).mean()
    source, sink = odds.size, odds.size + 1
    whole = np.rint(_SCALE * np.clip(odds, -1e3, 1e3)).astype(np.int32).ravel()
    is_object = whole > 0
    sources, sinks = nodes.ravel()[is_object], nodes.ravel()[~is_object]
    edges = [
        (np.full_like(sources, source), sources, whole[is_object]),
        (sinks, np.full_like(sinks, sink), -whole[~is_object]),
    ]
    for one, other, difference, down, right in pairs:
        # As GrabCut's, relative to the photo's mean contrast.
        cost = _SMOOTHNESS * np.exp(-difference / (2 * mean + 1e-9)) / np.hypot(down, right)
        cost = np.rint(_SCALE * cost).astype(np.int32)
        edges += [(one, other, cost), (other, one, cost)]
    starts, ends, costs = map(np.concatenate, zip(*edges, strict=True))
    shape = odds.size + 2, odds.size + 2
    capacity = coo_matrix((costs, (starts, ends)), shape).tocsr()
    # What the source still reaches when the flow is at its maximum is the object.
    rest = capacity - maximum_flow(capacity, source, sink).flow
    rest.data = np.asarray(rest.data > 0, np.int32)
    rest.eliminate_zeros()
    mask = np.zeros(odds.size + 2, bool)
    mask[breadth_first_order(rest, source, return_predecessors=False)] = True
    return mask[: odds.size].reshape(odds.shape)
