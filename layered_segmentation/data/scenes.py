"""Procedural scenes with exact masks: textured objects, by default one, over a textured background.

A scene is a pure function of (seed, split, index). It is described in frame coordinates in
[0, 1]², drawn on a canvas several times finer than the image and averaged down. So the same scene
can be drawn at any side, antialiased, and its mask is exact by construction.

Colours alone do not separate the layers: part of every object's surface has the background's
colours, and backgrounds have structure. The layers can be learned nevertheless: objects are more
saturated than backgrounds, compact, and lie anywhere over a background that does not depend on
them, so that a scene with a shifted object is as plausible.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import cv2
import numpy as np
from PIL.Image import Resampling

from layered_segmentation import versions
from layered_segmentation.choices import SourceName
from layered_segmentation.config import DataConfig
from layered_segmentation.data.source import Pair, Source, register
from layered_segmentation.errors import UserError
from layered_segmentation.images import BICUBIC

DEFAULT_COUNT = 20_000
SPLITS = ("train", "test")
KINDS = ("disc", "ellipse", "box", "triangle", "star", "blob")
BACKGROUNDS = ("stripes", "waves", "blotches", "gradient")
SURFACES = ("spots", "bands", "patches")

_CANVAS = 72  # 2 × 36 = 4 × 18 = 8 × 9: whole multiples of 1.125 × a power of two
_FINE = 4  # samples of the object's outline a canvas pixel, along each axis
_LATTICE = 9  # cells of the coarse noise across the frame
_OUTLINE = 72  # vertices of round outlines
_SLACK = 0.03  # how far an object may reach out of the frame, in frame sides

_Uniform = Callable[..., Any]  # numpy.random.Generator.random
_LEVELS = np.arange(256, dtype=np.float32) / 255
_TURN = np.linspace(0, 2 * np.pi, _OUTLINE, endpoint=False)
_ROUND = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object's description, before any pixel is drawn."""

    kind: str  # outline of the object, one of `KINDS`
    outline: np.ndarray  # float64 [V, 2], the object's vertices (x, y) in frame coordinates
    surface: str  # texture of the object, one of `SURFACES`
    # float [4]: frequency x and y (cycles a frame), phase, threshold in [0, 1]
    surface_wave: np.ndarray
    # uint8 [2, 3] RGB: body, and the colour borrowed from the background
    surface_colours: np.ndarray
    light: np.ndarray  # float [2], change of brightness across the object, in levels a frame side
    surface_noise: np.ndarray  # float32 [L, L] in [0, 1], coarse noise


@dataclasses.dataclass(frozen=True)
class Scene(Thing):
    """One scene's description: its first object, the background, and further objects."""

    background: str  # texture of the background, one of `BACKGROUNDS`
    # float [5]: frequency x and y (cycles a frame), phase, warp, sharpness
    background_wave: np.ndarray
    background_colours: np.ndarray  # uint8 [2, 3] RGB
    background_noise: np.ndarray  # float32 [L, L] in [0, 1], coarse noise
    others: tuple[Thing, ...] = ()  # each lies over those before it


@register
class Scenes(Source):
    """A source of procedural scenes.

    Attributes:
        seed: Seed of all scenes.
        split: `train` or `test`; the two never share a scene.
        objects: Objects in each scene.
    """

    name = SourceName.shapes

    def __init__(
        self, seed: int, count: int = DEFAULT_COUNT, split: str = "train", objects: int = 1
    ):
        """Describes the source of scenes with `objects` objects; nothing is drawn yet.

        Raises:
            UserError: `count` or `objects` is not positive or `split` is unknown.
        """
        if count < 1:
            raise UserError(f"shapes: count={count!r} is not possible; it must be at least 1")
        if objects < 1:
            raise UserError(f"shapes: objects={objects!r} is not possible; it must be at least 1")
        if split not in SPLITS:
            raise UserError(f"shapes: split={split!r} is unknown; one of {', '.join(SPLITS)}")
        self.seed = seed
        self.split = split
        self.objects = objects
        self.skipped = []
        self._count = count

    @classmethod
    def from_config(cls, config: DataConfig, seed: int) -> Self:
        """Opens `data.limit` scenes of a seed."""
        return cls(seed, config.limit or DEFAULT_COUNT, objects=config.objects)

    def __len__(self) -> int:
        """Returns how many scenes there are."""
        return self._count

    def squares(
        self, sides: Sequence[int], filter: Resampling = BICUBIC
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields each scene at every side, averaged down from the largest; ignores `filter`."""
        largest = max(sides)
        for index in range(len(self)):
            image, _ = render(self.scene(index), largest)
            yield tuple(image if side == largest else _shrink(image, side) for side in sides)

    def inventory(self) -> list[str]:
        """Returns nothing: seed and count determine the scenes."""
        return []

    def identity(self) -> list[str]:
        """Returns what the scenes depend on."""
        version = versions.of("layered-segmentation")
        several = f" objects {self.objects}" if self.objects > 1 else ""
        scenes = f"shapes {self.seed} {self.split} {len(self)}{several}"
        return [f"{scenes}, layered-segmentation {version}"]

    def load_pairs(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns scenes and masks: uint8 [N, side, side, 3] and uint8 {0, 1} [N, side, side]."""
        images = np.empty((len(self), side, side, 3), np.uint8)
        masks = np.empty((len(self), side, side), np.uint8)
        for index in range(len(self)):
            images[index], masks[index] = render(self.scene(index), side)
        return images, masks

    def pairs(self, side: int) -> Iterator[Pair]:
        """Yields scene and mask one at a time, with the masks of several objects."""
        for index in range(len(self)):
            scene = self.scene(index)
            image, mask = render(scene, side)
            objects = object_masks(scene, side).astype(bool) if self.objects > 1 else None
            yield Pair(f"{self.split}_{index:05d}", image, mask.astype(bool), None, objects)

    def scene(self, index: int) -> Scene:
        """Draws the description of scene `index`, a pure function of (seed, split, index)."""
        stream = (SPLITS.index(self.split) << 48) + index
        generator = np.random.Generator(np.random.Philox(key=[self.seed, stream]))
        return _draw(generator, self.objects)


def render(scene: Scene, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a scene.

    Returns:
        The image, uint8 [side, side, 3] RGB, and its mask, uint8 {0, 1} [side, side]: 1 where
        objects cover at least half of a pixel.
    """
    canvas = _canvas(side)
    image = _draw_background(scene, canvas)
    inside = np.zeros((_FINE * canvas, _FINE * canvas), np.uint8)
    for thing in (scene, *scene.others):
        covered = _inside(thing, canvas)
        cover = _shrink(covered, canvas).astype(np.float32) / 255
        image = cv2.blendLinear(_draw_surface(thing, canvas), image, cover, 1 - cover)
        inside |= covered
    return _shrink(image, side), _at_least_half(inside, side)


def object_masks(scene: Scene, side: int) -> np.ndarray:
    """Draws the mask of what is visible of each object, uint8 {0, 1} [objects, side, side]."""
    masks: list[np.ndarray] = []
    later = np.zeros((1, 1), np.uint8)
    for thing in reversed((scene, *scene.others)):
        inside = _inside(thing, _canvas(side))
        masks.insert(0, _at_least_half(inside & ~later, side))
        later = later | inside
    return np.stack(masks)


def _canvas(side: int) -> int:
    """Returns the side of the canvas: at least two samples a pixel along each axis."""
    return _CANVAS * -(-2 * side // _CANVAS)


def _inside(thing: Thing, canvas: int) -> np.ndarray:
    """Draws an object's outline, uint8 [_FINE · canvas, _FINE · canvas] of 0 and 255."""
    inside = np.zeros((_FINE * canvas, _FINE * canvas), np.uint8)
    bits = 8  # sub-pixel vertices; pixel centres lie at whole numbers
    vertices = np.rint((thing.outline * len(inside) - 0.5) * (1 << bits)).astype(np.int32)
    cv2.fillPoly(inside, [vertices], 255, lineType=cv2.LINE_8, shift=bits)
    return inside


def _at_least_half(inside: np.ndarray, side: int) -> np.ndarray:
    half: np.ndarray = (_shrink(inside, side) >= 128).astype(np.uint8)
    return half


def _draw(generator: np.random.Generator, objects: int) -> Scene:
    uniform = generator.random
    background_colours = np.stack([_muted(uniform(3)), _muted(uniform(3))])
    surface_colours = _surface_colours(background_colours, uniform)
    background, angle = BACKGROUNDS[int(uniform() * len(BACKGROUNDS))], 2 * np.pi * uniform()
    cycles = {"stripes": (2.5, 5.0), "waves": (2.0, 3.5), "blotches": (0.0, 0.0)}
    low, high = cycles.get(background, (0.3, 0.6))
    frequency = low + (high - low) * uniform()
    warp = {"stripes": 0.3, "waves": 0.9, "blotches": 0.0}.get(background, 0.3)
    background_wave = np.array(
        [frequency * np.cos(angle), frequency * np.sin(angle), uniform(), warp, 1 + 2 * uniform()]
    )
    first = _draw_object(uniform, objects)
    background_noise, surface_noise = uniform((2, _LATTICE, _LATTICE), dtype=np.float32)
    others = [
        Thing(
            surface_colours=_surface_colours(background_colours, uniform),
            **_draw_object(uniform, objects),
            surface_noise=uniform((_LATTICE, _LATTICE), dtype=np.float32),
        )
        for _ in range(objects - 1)
    ]
    return Scene(
        **first,
        surface_colours=surface_colours,
        surface_noise=surface_noise,
        background=background,
        background_wave=background_wave,
        background_colours=background_colours,
        background_noise=background_noise,
        others=tuple(others),
    )


def _draw_object(uniform: _Uniform, objects: int) -> dict[str, Any]:
    """Draws the fields of an object that depend neither on the background nor on noise."""
    surface, angle = SURFACES[int(uniform() * len(SURFACES))], 2 * np.pi * uniform()
    frequency = 3.5 + 2.5 * uniform()
    surface_wave = np.array(
        [frequency * np.cos(angle), frequency * np.sin(angle), uniform(), 0.50 + 0.1 * uniform()]
    )
    angle = 2 * np.pi * uniform()
    light = (20 + 50 * uniform()) * np.array([np.cos(angle), np.sin(angle)])
    kind = KINDS[int(uniform() * len(KINDS))]
    outline = _place(_unit_outline(kind, uniform), uniform, objects)
    return {
        "kind": kind,
        "outline": outline,
        "surface": surface,
        "surface_wave": surface_wave,
        "light": light,
    }


def _surface_colours(background_colours: np.ndarray, uniform: _Uniform) -> np.ndarray:
    """Draws an object's body, and one of the background's two colours, slightly tinted with it."""
    body = _vivid(uniform(3))
    borrowed = 0.82 * background_colours[int(uniform() * 2)] + 0.18 * body
    return np.stack([body, borrowed])


def _muted(uniform: np.ndarray) -> np.ndarray:
    return _rgb(uniform[0], 0.05 + 0.40 * uniform[1], 0.25 + 0.65 * uniform[2])


def _vivid(uniform: np.ndarray) -> np.ndarray:
    return _rgb(uniform[0], 0.60 + 0.40 * uniform[1], 0.45 + 0.55 * uniform[2])


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Returns the RGB of an HSV colour (all in [0, 1]), float [3] in [0, 255]."""
    sector = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    return 255 * value * (1 - saturation * np.clip(np.minimum(sector, 4 - sector), 0, 1))


def _unit_outline(kind: str, uniform: _Uniform) -> np.ndarray:
    """Returns the outline of an object around the origin, float [V, 2], any scale."""
    if kind == "box":
        aspect = 0.6 + 0.4 * uniform()
        return np.array([[-1, -aspect], [1, -aspect], [1, aspect], [-1, aspect]])
    if kind == "triangle":
        corners = 2 * np.pi * (np.arange(3) + 0.2 * (uniform(3) - 0.5)) / 3
        return np.stack([np.cos(corners), np.sin(corners)], axis=1)
    if kind == "star":
        points = 5 + int(2 * uniform())
        corners = np.pi * np.arange(2 * points) / points
        radius = np.where(np.arange(2 * points) % 2, 0.55 + 0.15 * uniform(), 1.0)
        return np.asarray(radius[:, None] * np.stack([np.cos(corners), np.sin(corners)], axis=1))
    if kind == "ellipse":
        return np.asarray(_ROUND * [1.0, 0.5 + 0.35 * uniform()])
    if kind == "blob":
        radius = np.ones(_OUTLINE)
        for harmonic in (2, 3, 4):
            radius += 0.15 * uniform() * np.cos(harmonic * _TURN + 2 * np.pi * uniform())
        return np.asarray(radius[:, None] * _ROUND)
    return _ROUND


def _place(outline: np.ndarray, uniform: _Uniform, objects: int) -> np.ndarray:
    """Turns, sizes and places an outline in the frame, mostly inside it.

    Its area is 15 to 40 % of the frame, divided by the number of objects.
    """
    angle, area = 2 * np.pi * uniform(), (0.15 + 0.25 * uniform()) / objects
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline = outline @ turn
    outline = outline * np.sqrt(area / cv2.contourArea(outline.astype(np.float32)))
    low, high = outline.min(axis=0), outline.max(axis=0)
    first, last = -_SLACK - low, 1 + _SLACK - high  # centres that keep the object in the frame
    middle, half = (first + last) / 2, np.maximum((last - first) / 2, 0.0)
    return np.asarray(outline + middle + half * (2 * uniform(2) - 1))


def _draw_background(scene: Scene, canvas: int) -> np.ndarray:
    """Draws the background, uint8 [canvas, canvas, 3]."""
    x, y = _axes(canvas)
    kx, ky, phase, warp, sharpness = scene.background_wave.astype(np.float32)
    noise = _noise(scene.background_noise, canvas)
    if scene.background == "blotches":
        wave = 2.5 * (noise - 0.5)
    else:
        wave = np.sin(2 * np.pi * (kx * x + ky * y + phase + warp * (noise - 0.5)))
    if scene.background == "gradient":
        wave += 1.2 * (noise - 0.5)
    level = np.clip(wave * 127.5 + 127.5, 0, 255).astype(np.uint8)
    ramp = 0.5 + 0.5 * np.tanh(sharpness * (2 * _LEVELS - 1)) / np.tanh(sharpness)
    low, high = scene.background_colours
    return _colour(level, low + ramp[:, None] * (high - low))


def _draw_surface(thing: Thing, canvas: int) -> np.ndarray:
    """Draws the object's surface over the whole canvas, uint8 [canvas, canvas, 3]."""
    x, y = _axes(canvas)
    kx, ky, phase, threshold = thing.surface_wave.astype(np.float32)
    turn = 2 * np.pi
    if thing.surface == "patches":
        wave = 0.42 + 1.2 * (_noise(thing.surface_noise, canvas) - 0.5)
    elif thing.surface == "bands":
        wave = 0.5 + 0.5 * np.sin(turn * (kx * x + ky * y + phase))
    else:
        along = np.cos(turn * (kx * x + ky * y + phase))
        wave = 0.5 + 0.25 * (along + np.cos(turn * (kx * y - ky * x - phase)))
    level = np.clip(wave * 255, 0, 255).astype(np.uint8)
    ramp = 1 / (1 + np.exp(-(_LEVELS - threshold) * 25))
    body, borrowed = thing.surface_colours
    surface = _colour(level, body + ramp[:, None] * (borrowed - body))
    centre = thing.outline.mean(axis=0)
    light = thing.light[0] * (x - centre[0]) + thing.light[1] * (y - centre[1])
    shade = light.astype(np.float32)
    return np.asarray(cv2.add(surface, cv2.merge([shade] * 3), dtype=cv2.CV_8U))


@functools.lru_cache(maxsize=4)
def _axes(canvas: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixel centres in frame coordinates: x float32 [1, canvas], y [canvas, 1]."""
    centres = (np.arange(canvas, dtype=np.float32) + 0.5) / canvas
    return centres[None, :], centres[:, None]


def _noise(lattice: np.ndarray, canvas: int) -> np.ndarray:
    """Returns smooth noise about [0, 1], float32 [canvas, canvas], the same at any canvas."""
    return np.asarray(cv2.resize(lattice, (canvas, canvas), interpolation=cv2.INTER_CUBIC))


def _colour(level: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Maps levels, uint8 [h, w], to colours through a table, float [256, 3] in [0, 255]."""
    rounded = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(cv2.merge([level] * 3), rounded[None]))


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA))
