"""Grids of related scenes: between two scenes, more and less typical, of mixed styles, shifted.

A grid has scenes as columns. Its rows change one thing step by step, so they are the frames of an
animation too. Scene k is scene k of `sampling.sample_layers` with the same seed and truncation.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from layered_segmentation import sheets
from layered_segmentation.choices import Grid
from layered_segmentation.gan.composite import Layers, perturb
from layered_segmentation.gan.draws import GeneratorDraws, Purpose, generator_draws
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.gan.sampling import BATCH

MOST = BATCH  # scenes
_SHIFTED_SIDE = 96  # pixels; smaller scenes are enlarged, so that they move smoothly


class Row(NamedTuple):
    """A row of a grid."""

    label: str  # what it changes
    layers: Layers  # of its scenes, float32 [count, R, R, C]


def rows_of(
    grid: str,
    generator: LayeredGenerator,
    seed: int,
    count: int,
    rows: int,
    truncation: float = 1.0,
    shift: float = 0.125,
) -> list[Row]:
    """Draws a grid.

    Args:
        grid: One of `Grid`.
        generator: Usually the averaged one.
        seed: Seed of the scenes.
        count: Number of scenes, the columns, at most `MOST`.
        rows: Number of rows, at least 2; `mixing` has at most `count`.
        truncation: ψ in [0, 1]; 1 draws from the whole distribution.
        shift: δ of eq. 2, fraction of the image side, for `shift`.
    """
    draws = generator_draws(
        seed,
        0,
        Purpose.SAMPLE,
        BATCH,
        generator.resolution,
        generator.latent_dim,
        mixing=0.0,
        noise_images=generator.noise_images,
    )
    scenes: GeneratorDraws = tf.nest.map_structure(lambda draw: draw[:count], draws)
    match Grid(grid):
        case Grid.interpolation:
            return _interpolation(generator, scenes, rows, truncation)
        case Grid.truncation:
            return _truncation(generator, scenes, rows, truncation)
        case Grid.mixing:
            return _mixing(generator, scenes, min(rows, count), truncation)
        case Grid.shift:
            return _shift(generator, scenes, rows, truncation, shift)


def _interpolation(
    generator: LayeredGenerator, scenes: GeneratorDraws, rows: int, truncation: float
) -> list[Row]:
    """Moves from each scene to the next one, from the last to the first.

    Latents and noise are normally distributed, and so is a sum of two with the weights cos and sin.
    """
    latents = scenes.latents[:, 0]
    found = []
    for share in np.linspace(0.0, 1.0, rows):
        here, there = math.cos(share * math.pi / 2), math.sin(share * math.pi / 2)

        def between(draw: Any, here: float = here, there: float = there) -> Any:
            return here * draw + there * tf.roll(draw, -1, axis=0)

        noise = [between(image) for image in scenes.noise]
        layers = _draw(generator, between(latents), noise, truncation)
        found.append(Row(f"{share:.0%}", layers))
    return found


def _truncation(
    generator: LayeredGenerator, scenes: GeneratorDraws, rows: int, truncation: float
) -> list[Row]:
    """Moves all scenes to the mean style, with the noise of the first, so that they become one."""
    count = scenes.latents.shape[0]
    noise = [tf.repeat(image[:1], count, axis=0) for image in scenes.noise]
    return [
        Row(f"ψ = {psi:.2f}", _draw(generator, scenes.latents[:, 0], noise, float(psi)))
        for psi in np.linspace(truncation, 0.0, rows)
    ]


def _mixing(
    generator: LayeredGenerator, scenes: GeneratorDraws, rows: int, truncation: float
) -> list[Row]:
    """Draws scenes with the coarse styles of the row's scene; the diagonal has the scenes."""
    latents = scenes.latents[:, 0]
    crossover = tf.fill([latents.shape[0]], max(1, generator.num_blocks // 2))
    found = []
    for row in range(rows):
        coarse = tf.repeat(latents[row : row + 1], latents.shape[0], axis=0)
        pairs = tf.stack([coarse, latents], axis=1)
        layers = _draw(generator, pairs, scenes.noise, truncation, crossover)
        found.append(Row(f"shape of {row + 1}", layers))
    return found


def _shift(
    generator: LayeredGenerator, scenes: GeneratorDraws, rows: int, truncation: float, delta: float
) -> list[Row]:
    """Moves foreground and mask of each scene once around its background (eq. 2)."""
    layers = _draw(generator, scenes.latents[:, 0], scenes.noise, truncation)
    factor = max(1, _SHIFTED_SIDE // generator.resolution)
    layers = Layers(*(sheets.enlarge(layer, factor) for layer in layers))
    count, side = layers.mask.shape[:2]
    found = []
    for turn in np.arange(rows) / rows:
        angle = 2 * math.pi * turn
        dx, dy = (round(delta * side * part) for part in (math.cos(angle), math.sin(angle)))
        moved = perturb(layers, tf.constant([[dx, dy]] * count))
        found.append(Row(f"{dx:+d}, {dy:+d} px", Layers(*map(np.asarray, moved))))
    return found


def _draw(
    generator: LayeredGenerator, latents: Any, noise: Any, truncation: float, crossover: Any = None
) -> Layers:
    layers = generator(latents, noise=noise, crossover=crossover, truncation=truncation)
    return Layers(*(np.asarray(layer) for layer in layers))
