"""Grids of generated scenes; their rows are the frames of animations."""

import itertools

import numpy as np
import pytest
from tiny_networks import tiny_config, tiny_networks

from layered_segmentation.gan import gallery
from layered_segmentation.gan.composite import Layers, compose
from layered_segmentation.gan.sampling import sample_layers

COUNT = 3
TRUNCATION = 0.8


@pytest.fixture(scope="module")
def generator():
    generator, _ = tiny_networks(tiny_config())
    for synthesis in generator.syntheses:
        for block in synthesis.blocks:
            for noise in block.noises:
                noise.strength.assign(0.3 + 0 * noise.strength)
    return generator


@pytest.fixture(scope="module")
def plain(generator):
    """The scenes that `layerseg sample` draws."""
    return sample_layers(generator, 1, COUNT, TRUNCATION)


@pytest.fixture
def grid(generator):
    def draw(name, rows=5):
        return gallery.rows_of(name, generator, 1, COUNT, rows, TRUNCATION)

    return draw


def require_close(layers, expected):
    for name, got, wanted in zip(Layers._fields, layers, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5, err_msg=name)


def differ(layers, others):
    return [bool(np.abs(a - b).max() > 0.01) for a, b in zip(layers, others, strict=True)]


def test_an_interpolation_begins_with_each_scene_and_ends_with_the_next(grid, plain):
    rows = grid("interpolation")
    assert [row.label for row in rows] == ["0%", "25%", "50%", "75%", "100%"]
    require_close(rows[0].layers, plain)
    require_close(rows[-1].layers, [np.roll(layer, -1, axis=0) for layer in plain])
    for row, following in itertools.pairwise(rows):
        assert all(differ(row.layers, following.layers))


def test_truncation_ends_with_the_same_scene_in_all_columns(grid, plain):
    rows = grid("truncation")
    assert [row.label for row in rows] == [f"ψ = {0.8 - 0.2 * step:.2f}" for step in range(5)]
    require_close([layer[:1] for layer in rows[0].layers], [layer[:1] for layer in plain])
    for layer in rows[-1].layers:
        np.testing.assert_allclose(layer, np.broadcast_to(layer[:1], layer.shape), atol=2e-5)
    assert all(differ([layer[1] for layer in rows[-2].layers], [x[0] for x in rows[-2].layers]))


def test_mixing_has_the_scenes_on_its_diagonal(grid, plain):
    rows = grid("mixing", rows=8)
    assert len(rows) == COUNT  # one for each scene
    for index, row in enumerate(rows):
        mine = [layer[index] for layer in plain]
        require_close([layer[index] for layer in row.layers], mine)
        other = (index + 1) % COUNT
        mixed = [layer[other] for layer in row.layers]
        assert all(differ(mixed, mine))
        assert all(differ(mixed, [layer[other] for layer in plain]))


def test_a_shift_moves_foreground_and_mask_over_the_same_background(grid, plain):
    rows = grid("shift", rows=4)
    enlarged = [layer.repeat(6, axis=1).repeat(6, axis=2) for layer in plain]
    for row, (dx, dy) in zip(rows, [(12, 0), (0, 12), (-12, 0), (0, -12)], strict=True):
        assert row.label == f"{dx:+d}, {dy:+d} px"
        np.testing.assert_allclose(row.layers.background, enlarged[0], atol=2e-5)
        inside = np.s_[:, 12:-12, 12:-12]
        for got, layer in zip(row.layers[1:], enlarged[1:], strict=True):
            moved = np.roll(layer, (dy, dx), axis=(1, 2))
            np.testing.assert_allclose(got[inside], moved[inside], atol=2e-5)


def test_outside_the_mask_a_shift_leaves_the_background_as_it_is(grid):
    for row in grid("shift", rows=4):
        free = row.layers.mask[..., 0] == 0  # what the shift uncovers, at least
        assert free.mean() >= 12 / 96
        composite = np.asarray(compose(row.layers))
        np.testing.assert_array_equal(composite[free], row.layers.background[free])
        assert np.abs(composite - row.layers.background)[~free].max() > 0.1
