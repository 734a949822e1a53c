import keras
import numpy as np
import pytest

from layered_segmentation.choices import Variant
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.gan.layers import upsample
from layered_segmentation.gan.synthesis import block_channels


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tiny(variant="two_generators", resolution=16, **kwargs):
    return LayeredGenerator(
        variant, resolution, latent_dim=8, mapping_layers=2, max_channels=8, **kwargs
    )


def noise_for(resolution, first=0, batch=3):
    sides = [4 * 2**index for index in range(resolution.bit_length() - 2)]
    return [normal(batch, side, side, 1, seed=first + side) for side in sides]


def arrays(layers):
    return [np.array(layer) for layer in layers]


def test_stylegans_widths():
    sides = (4, 8, 16, 32, 64, 128, 256)
    assert [block_channels(side, 512) for side in sides] == [512, 512, 512, 512, 256, 128, 64]
    assert [block_channels(side, 96) for side in sides] == [96, 96, 96, 96, 96, 96, 64]


@pytest.mark.parametrize("variant", Variant)
def test_shapes_and_ranges_of_every_variant_and_stage(variant):
    generator = tiny(variant, resolution=32)
    for resolution in (8, 16, 32):
        layers = generator(
            normal(3, 2, 8),
            noise=noise_for(resolution),
            crossover=np.array([1, 2, 5]),
            alpha=0.5,
            resolution=resolution,
        )
        shape = (3, resolution, resolution)
        assert [x.shape for x in arrays(layers)] == [(*shape, 3), (*shape, 3), (*shape, 1)]
        mask = np.array(layers.mask)
        assert mask.min() >= 0 and mask.max() <= 1
    assert tiny(variant).has_mask == (variant != "single_output") == (mask.std() > 0)
    assert mask.any() == (variant != "single_output")


def test_variants_have_the_networks_they_are_named_for():
    counts = {v: (len(tiny(v).mappings), len(tiny(v).syntheses)) for v in Variant}
    assert counts == {
        "two_generators": (2, 2),
        "one_generator": (1, 1),
        "shared_mapping": (1, 2),
        "single_output": (1, 1),
    }


def test_alpha_fades_from_the_stage_before():
    generator = tiny(resolution=16)
    latents = normal(2, 8)
    coarse = generator(latents, resolution=8)
    at_zero = generator(latents, resolution=16, alpha=0.0)
    np.testing.assert_allclose(
        np.array(at_zero.background), np.array(upsample(coarse.background)), atol=1e-5
    )
    own = np.array(generator(latents, resolution=16, alpha=1.0).background)
    half = np.array(generator(latents, resolution=16, alpha=np.float32(0.5)).background)
    np.testing.assert_allclose(half, (own + np.array(at_zero.background)) / 2, atol=1e-5)


def test_crossover_mixes_styles_per_sample_and_at_the_block():
    generator = tiny(resolution=16)
    pairs = normal(3, 2, 8)
    mixed = generator(pairs, crossover=np.array([0, 1, 3]))
    first, second = generator(pairs[:, 0]), generator(pairs[:, 1])
    # Crossover 0 uses the second latent throughout, 3 (past the last block) the first.
    np.testing.assert_allclose(np.array(mixed.mask)[0], np.array(second.mask)[0], atol=1e-5)
    np.testing.assert_allclose(np.array(mixed.mask)[2], np.array(first.mask)[2], atol=1e-5)
    for pure in (first, second):
        assert np.abs(np.array(mixed.background)[1] - np.array(pure.background)[1]).max() > 1e-2


def test_truncation_draws_to_the_mean_style():
    generator = tiny()
    generator.update_mean_styles(normal(1000, 8, seed=5))
    latents = normal(4, 8)
    none = generator(latents)
    one = generator(latents, truncation=1.0)
    np.testing.assert_allclose(np.array(one.background), np.array(none.background), atol=1e-4)
    zero = np.array(generator(latents, truncation=0.0).background)
    np.testing.assert_allclose(zero, np.broadcast_to(zero[:1], zero.shape), atol=1e-5)
    half = np.array(generator(latents, truncation=0.5).background)
    assert half.std(axis=0).mean() < np.array(none.background).std(axis=0).mean()


def with_noise(*args, **kwargs):
    """A generator whose noise strengths are 1."""
    generator = tiny(*args, **kwargs)
    for synthesis in generator.syntheses:
        for block in synthesis.blocks:
            for noise in block.noises:
                noise.strength.assign(np.ones(8, np.float32))
    return generator


def test_noise_images_reach_their_own_generator():
    generator, latents = with_noise(), normal(3, 8)
    assert generator.noise_images == 2
    first, second = (noise_for(16, seed) for seed in (0, 7))

    def drawn(*of_networks):
        noise = [np.concatenate(images, -1) for images in zip(*of_networks, strict=True)]
        return arrays(generator(latents, noise=noise))

    both, other_background, other_foreground = (
        drawn(first, second),
        drawn(second, second),
        drawn(first, first),
    )
    for layer, changes in zip(range(3), (True, False, False), strict=True):
        change = np.abs(both[layer] - other_background[layer]).max()
        assert change > 1e-2 if changes else change == 0
        change = np.abs(both[layer] - other_foreground[layer]).max()
        assert change == 0 if changes else change > 1e-2
    # One image for all is the same as two that are alike.
    for one, two in zip(arrays(generator(latents, noise=first)), other_foreground, strict=True):
        np.testing.assert_array_equal(one, two)


def test_one_noise_image_where_networks_share_it_or_there_is_one():
    counts = {v: tiny(v).noise_images for v in Variant}
    assert counts == {
        "two_generators": 2,
        "one_generator": 1,
        "shared_mapping": 1,
        "single_output": 1,
    }
    assert tiny(shared_noise=True).noise_images == 1


def test_a_generator_saved_before_noise_was_a_choice_shares_it():
    settings = tiny().get_config()
    assert not LayeredGenerator.from_config(settings).shared_noise
    del settings["shared_noise"]
    assert LayeredGenerator.from_config(settings).shared_noise


def test_both_generators_can_share_noise():
    generator = with_noise()
    latents = normal(3, 8)
    quiet, loud = generator(latents), generator(latents, noise=noise_for(16))
    for before, after in zip(arrays(quiet), arrays(loud), strict=True):
        assert np.abs(before - after).max() > 1e-2


def test_fused_is_the_unfused_generator():
    fused, plain = tiny(resolution=32), tiny(resolution=32, fused=False)
    plain.set_weights(fused.get_weights())
    latents = normal(2, 8)
    for one, other in zip(arrays(fused(latents)), arrays(plain(latents)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("variant", Variant)
def test_cut_to_a_stage_it_draws_the_stages_images(variant):
    generator, latents = tiny(variant, resolution=32), normal(3, 2, 8)
    generator.update_mean_styles(normal(100, 8))
    draws = {"crossover": np.array([1, 2, 3]), "truncation": 0.7}
    for resolution in (8, 16, 32):
        cut = generator.at_resolution(resolution)
        assert cut.resolution == resolution and cut.shared_noise == generator.shared_noise
        draws["noise"] = noise_for(resolution)
        expected = generator(latents, resolution=resolution, **draws)
        for one, other in zip(arrays(cut(latents, **draws)), arrays(expected), strict=True):
            np.testing.assert_array_equal(one, other)


def test_stage_variables_grow_and_cover_all():
    generator = tiny(resolution=32)
    counts = [len(generator.stage_variables(side)) for side in (8, 16, 32)]
    assert counts[0] < counts[1] < counts[2]
    used = {id(v) for side in (8, 16, 32) for v in generator.stage_variables(side)}
    assert used == {id(v) for v in generator.trainable_variables}


@pytest.mark.parametrize("variant", Variant)
def test_codes_that_are_styles_draw_what_the_latents_draw(variant):
    generator = tiny(variant, resolution=16)
    latents = normal(3, 8)
    styles = [np.array(mapping(latents)) for mapping in generator.mappings]
    styles += styles[-1:] * (len(generator.syntheses) - len(styles))
    codes = np.broadcast_to(
        np.stack(styles, axis=1)[:, :, None, None], (3, *generator.codes_shape)
    ).astype(np.float32)
    for resolution in (8, 16):
        decoded = generator.from_codes(codes, resolution)
        drawn = generator(latents, resolution=resolution)
        for one, other in zip(arrays(decoded), arrays(drawn), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_each_adain_hears_its_own_code():
    generator = tiny(resolution=16)
    assert generator.codes_shape == (2, 3, 2, 8)
    codes = normal(1, *generator.codes_shape)
    before = arrays(generator.from_codes(codes))
    changes = []
    for position in np.ndindex(2, 3, 2):
        changed = codes.copy()
        changed[(0, *position)] += 1
        after = arrays(generator.from_codes(changed))
        background, foreground, mask = (
            np.abs(a - b).max() for a, b in zip(after, before, strict=True)
        )
        # The first generator's codes change the background alone, the second's the rest.
        if position[0] == 0:
            assert background > 1e-3 and foreground == mask == 0
        else:
            assert foreground > 1e-3 and mask > 1e-4 and background == 0
        changes.append(np.concatenate(after, axis=-1))
    assert len(np.unique(np.round(np.stack(changes), 6).reshape(12, -1), axis=0)) == 12


def test_the_mean_codes_are_the_centre_of_truncation():
    for variant in ("two_generators", "shared_mapping"):
        generator = tiny(variant)
        generator.update_mean_styles(normal(50, 8, seed=5))
        codes = np.array(generator.mean_codes())
        assert codes.shape == generator.codes_shape
        mean = arrays(generator.from_codes(codes[None]))
        centre = arrays(generator(normal(1, 8), truncation=0.0))
        for one, other in zip(mean, centre, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_save_and_load(tmp_path):
    generator = tiny(variant="shared_mapping")
    generator.update_mean_styles(normal(10, 8))
    generator.save(tmp_path / "generator.keras")
    loaded = keras.models.load_model(tmp_path / "generator.keras", compile=False)
    latents = normal(2, 8)
    for one, other in zip(
        arrays(generator(latents, truncation=0.7)),
        arrays(loaded(latents, truncation=0.7)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("field, value", [("variant", "three"), ("resolution", 24)])
def test_impossible_settings(field, value):
    with pytest.raises(ValueError, match=str(value)):
        LayeredGenerator(**{field: value})
