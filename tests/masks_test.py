import io
import os

import flowers
import numpy as np
import pytest
from PIL import Image

from layered_segmentation import images, masks
from layered_segmentation.errors import UserError


def read(path):
    """Reads a mask that leaves nothing open."""
    mask = masks.read(path)
    assert mask.void is None
    return mask.inside


MASK = np.zeros((6, 8), bool)
MASK[2:5, 1:7] = True


@pytest.mark.parametrize(
    "values",
    [
        MASK,  # one bit
        MASK.astype(np.uint8),  # 0 and 1
        MASK.astype(np.uint8) * 255,
        np.where(MASK, 128, 60).astype(np.uint8),
        MASK.astype(np.uint16) * 65535,
        np.where(MASK, 40000, 20000).astype(np.uint16),
        MASK.astype(np.int32) * 255,
    ],
)
def test_masks_of_any_depth(tmp_path, values):
    path = str(tmp_path / ("mask.tiff" if values.dtype == np.int32 else "mask.png"))
    Image.fromarray(values).save(path)
    mask = read(path)
    assert mask.dtype == bool and np.array_equal(mask, MASK)


@pytest.mark.parametrize("palette", [[0, 0, 0, 128, 0, 0], [0, 0, 0, 255, 255, 255]])
def test_masks_with_a_palette(tmp_path, palette):
    image = Image.fromarray(MASK.astype(np.uint8)).convert("P")
    image.putpalette(palette)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read(str(tmp_path / "mask.png")), MASK)


def test_a_palette_in_the_reverse_order(tmp_path):
    image = Image.fromarray((~MASK).astype(np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read(str(tmp_path / "mask.png")), MASK)


def test_masks_as_colours_and_in_alpha(tmp_path):
    colours = np.repeat(MASK[..., None] * np.uint8(255), 3, axis=2)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    assert np.array_equal(read(str(tmp_path / "rgb.png")), MASK)
    white_on_nothing = np.dstack([np.full((6, 8, 3), 255, np.uint8), MASK * np.uint8(255)])
    Image.fromarray(white_on_nothing).save(tmp_path / "alpha.png")
    assert np.array_equal(read(str(tmp_path / "alpha.png")), MASK)


def test_empty_and_full_masks(tmp_path):
    for value, expected in ((0, False), (255, True), (1, True)):
        Image.new("L", (5, 4), value).save(tmp_path / "mask.png")
        assert np.all(read(str(tmp_path / "mask.png")) == expected)


def test_a_label_map_is_not_a_mask(tmp_path):
    Image.fromarray((MASK * 3).astype(np.uint8)).save(tmp_path / "labels.png")
    with pytest.raises(UserError, match=r"labels\.png: is not a mask: .* 3 \(37\.5%\)\."):
        read(str(tmp_path / "labels.png"))


def test_masks_round_trip(tmp_path):
    soft = np.linspace(0, 1, 24 * 40, dtype=np.float32).reshape(24, 40)
    images.write_mask(str(tmp_path / "mask.png"), soft)
    written = np.asarray(Image.open(tmp_path / "mask.png"))
    assert written.dtype == np.uint8 and np.abs(written / 255 - soft).max() < 0.002
    images.write_mask(str(tmp_path / "hard.png"), soft > 0.3)
    assert np.array_equal(read(str(tmp_path / "hard.png")), soft > 0.3)
    assert sorted(os.listdir(tmp_path)) == ["hard.png", "mask.png"]


def iou(one, other, ignore):
    return (one & other & ~ignore).sum() / ((one | other) & ~ignore).sum()


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    out = tmp_path_factory.mktemp("forms")
    flowers.write_masks(out)
    return out


@pytest.mark.parametrize("form", ["true", *flowers.FORMS])
@pytest.mark.parametrize("number", range(3))
def test_the_forms_of_data_sets_are_the_same_mask_within_the_border(forms, form, number):
    truth = np.asarray(Image.open(forms / "true" / f"{number}.png")) > 127
    mask = masks.read(str(forms / form / f"{number}.png"))
    has_border = form in ("label_map", "palette")
    assert (mask.void is not None) == has_border
    if has_border:
        assert np.array_equal(mask.void, flowers.border(truth))
    assert iou(mask.inside, truth, np.zeros_like(truth) if mask.void is None else mask.void) == 1


def refused(path, *values):
    """Whether a mask is refused with these values shown, and with the way out."""
    with pytest.raises(UserError) as error:
        masks.read(str(path))
    message = str(error.value)
    assert message.startswith(f"{path}: is not a mask: ") and "--mask_value" in message
    assert all(f"{value} (" in message for value in values), message
    return message


@pytest.mark.parametrize("label", [2, 15, 32])
@pytest.mark.parametrize("has_palette", [False, True])
def test_other_labels_are_refused_until_they_are_named(tmp_path, label, has_palette):
    truth = flowers.flower()[1]
    values = flowers.labels(truth, label)
    image = flowers.voc_palette(values) if has_palette else Image.fromarray(values)
    image.save(tmp_path / "a.png")
    refused(tmp_path / "a.png", 0, label, 255)
    mask = masks.read(str(tmp_path / "a.png"), [label])
    assert iou(mask.inside, truth, mask.void) == 1
    assert np.array_equal(mask.void, flowers.border(truth))


@pytest.mark.parametrize("has_palette", [False, True])
def test_two_objects_are_refused_until_they_are_named(tmp_path, has_palette):
    values = np.zeros((60, 80), np.uint8)
    values[5:30, 5:30], values[35:50, 40:70] = 1, 2
    image = flowers.voc_palette(values) if has_palette else Image.fromarray(values)
    image.save(tmp_path / "a.png")
    refused(tmp_path / "a.png", 0, 1, 2)
    for chosen in ([1], [2], [1, 2]):
        mask = masks.read(str(tmp_path / "a.png"), chosen)
        assert np.array_equal(mask.inside, np.isin(values, chosen)) and mask.void is None
    assert not masks.read(str(tmp_path / "a.png"), [9]).inside.any()  # a photo without that class


@pytest.mark.parametrize(
    "levels", [(0, 128, 255), (0, 85, 170, 250), (127, 128), (1, 255), (3, 9), (200,), (90,)]
)
def test_levels_that_do_not_tell_the_object_are_refused(tmp_path, levels):
    image = np.repeat(np.array(levels, np.uint8), 12)[None].repeat(9, 0)
    Image.fromarray(image).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", *levels)


def test_photos_are_not_masks(tmp_path):
    image, inside = flowers.flower()
    Image.fromarray(image).save(tmp_path / "photo.jpg")
    assert "it holds colours" in refused(tmp_path / "photo.jpg")
    Image.fromarray(image).convert("L").save(tmp_path / "grey.png")
    refused(tmp_path / "grey.png")
    Image.fromarray(image).quantize(64).save(tmp_path / "palette.png")
    assert "it holds colours" in refused(tmp_path / "palette.png")
    # A cut-out of everything has no transparency.
    Image.fromarray(np.dstack([image, np.full(inside.shape, 255, np.uint8)])).save(
        tmp_path / "all.png"
    )
    assert "it holds colours" in refused(tmp_path / "all.png")
    Image.fromarray(np.dstack([image, np.zeros(inside.shape, np.uint8)])).save(
        tmp_path / "nothing.png"
    )
    assert not read(str(tmp_path / "nothing.png")).any()


def test_soft_masks_and_votes_of_annotators_are_halved(tmp_path):
    inside = flowers.flower(320, 240)[1]
    soft = Image.fromarray(inside).convert("L").resize((160, 120), Image.Resampling.BILINEAR)
    for name in ("soft.png", "soft.jpg"):
        soft.save(tmp_path / name, quality=75)
        mask = read(str(tmp_path / name))
        assert (mask != (np.asarray(soft) >= 127.5)).mean() < 0.003
    soft.convert("RGB").save(tmp_path / "rgb.jpg", quality=75)
    assert (read(str(tmp_path / "rgb.jpg")) != (np.asarray(soft) >= 127.5)).mean() < 0.003
    votes = np.repeat(np.arange(0, 256, 51, dtype=np.uint8), [50, 2, 2, 2, 2, 40])[None].repeat(
        9, 0
    )
    Image.fromarray(votes).save(tmp_path / "votes.png")
    assert np.array_equal(read(str(tmp_path / "votes.png")), votes > 127)


def test_noise_at_the_foot_of_a_mask_is_not_a_label(tmp_path):
    values = flowers.flower()[1] * np.uint8(255)
    values[0, 0] = 1
    Image.fromarray(values).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", 0, 1, 255)


def test_two_colours_are_a_mask_of_the_brighter(tmp_path):
    image = np.zeros((*MASK.shape, 3), np.uint8)
    image[MASK] = (128, 0, 0)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert np.array_equal(read(str(tmp_path / "a.png")), MASK)
    image[~MASK] = (0, 70, 0)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert "two colours of like brightness" in refused(tmp_path / "a.png")


def test_a_transparent_palette_with_labels_is_read_by_its_labels(tmp_path):
    truth = flowers.flower()[1]
    flowers.voc_palette(flowers.labels(truth)).save(tmp_path / "a.png", transparency=0)
    mask = masks.read(str(tmp_path / "a.png"))
    assert (
        np.array_equal(mask.void, flowers.border(truth)) and iou(mask.inside, truth, mask.void) == 1
    )


def test_labels_cannot_be_named_in_colours(tmp_path):
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: is not a mask: it holds RGB colours"):
        masks.read(str(tmp_path / "a.png"), [1])


def test_masks_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(MASK * np.uint8(255))).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read(str(tmp_path / "a.png")), MASK)


def test_any_values_give_a_mask_or_a_message(tmp_path):
    """No mixture of modes, levels and sizes ends in anything else."""
    generator = np.random.default_rng(0)
    outcomes = {"mask": 0, "refused": 0}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK") * 30:
        shape = tuple(generator.integers(1, 9, 2))
        levels = generator.integers(0, 256, generator.integers(1, 5))
        values = generator.choice(levels, (*shape, 4)).astype(np.uint8)
        bands = len(Image.new(mode, (1, 1)).getbands())
        if mode in ("I;16", "I", "F"):
            image = Image.fromarray(values[..., 0].astype({"I": "i4", "F": "f4"}.get(mode, "u2")))
        elif mode == "1":
            image = Image.fromarray(values[..., 0] > 99)
        else:
            image = Image.fromarray(np.squeeze(values[..., :bands], -1) if bands == 1 else
                                    np.ascontiguousarray(values[..., :bands]), mode)  # fmt: skip
            if mode == "P":
                image.putpalette(generator.integers(0, 256, 768).astype(np.uint8).tolist())
        file = io.BytesIO()
        image.save(file, "TIFF")
        path = tmp_path / "a.tiff"
        path.write_bytes(file.getvalue())
        try:
            mask = masks.read(str(path))
            assert mask.inside.shape == shape and mask.inside.dtype == bool
            outcomes["mask"] += 1
        except UserError as error:
            assert "is not a mask" in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 30, outcomes
