import numpy as np
import pytest
from PIL import Image, ImageSequence

from layered_segmentation import photo, sheets
from layered_segmentation.gan.composite import Layers


def grey_layers(count, side=8):
    background = np.full((count, side, side, 3), -1.0)
    foreground = np.full((count, side, side, 3), 1.0)
    mask = np.zeros((count, side, side, 1))
    mask[:, : side // 2] = 1.0
    return Layers(background, foreground, mask)


def cell(sheet, row, column, side=96):
    """Cuts one picture out, from the right: the label's width does not matter."""
    left = sheet.shape[1] - 3 - (side + 3) * column - side
    top = 3 + row * (side + 3)
    return sheet[top : top + side, left : left + side]


def test_rows_show_the_layers_enlarged_without_blur():
    sheet = sheets.layers_sheet(grey_layers(2), columns=2)
    assert sheet.dtype == np.uint8
    assert (cell(sheet, 0, 0) == 0).all()
    assert (cell(sheet, 1, 1) == 255).all()
    half = np.zeros((96, 96, 3), np.uint8)
    half[:48] = 255
    np.testing.assert_array_equal(cell(sheet, 2, 0), half)
    np.testing.assert_array_equal(cell(sheet, 4, 0), half)
    cut_out = cell(sheet, 3, 0)
    assert (cut_out[:48] == 255).all()
    assert set(np.unique(cut_out[48:])) == {200, 232}  # the board shows where the mask is 0


def test_more_scenes_than_columns_go_below():
    two, five = (sheets.layers_sheet(grey_layers(count), columns=2) for count in (2, 5))
    assert five.shape == (3 * two.shape[0], *two.shape[1:])


def test_the_sheets_composite_is_equation_1():
    from layered_segmentation.gan.composite import compose

    random = np.random.default_rng(0)
    layers = Layers(*(random.uniform(-1, 1, (1, 8, 8, 3)) for _ in range(2)),
                    random.uniform(0, 1, (1, 8, 8, 1)))  # fmt: skip
    sheet = sheets.layers_sheet(layers)
    shown = cell(sheet, 4, 0)[6::12, 6::12].astype(int)
    expected = sheets.to_uint8(np.asarray(compose(layers)))[0].astype(int)
    assert np.abs(shown - expected).max() <= 1


def test_a_reconstruction_sheet_shows_photo_and_mask():
    photos = np.full((3, 32, 32, 3), 200, np.uint8)
    layers = compose_layers(mask=np.ones((3, 32, 32, 1), np.float32))
    sheet = sheets.reconstruction_sheet(photos, layers, columns=2)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    one = sheets.reconstruction_sheet(
        photos[:2], compose_layers(np.ones((2, 32, 32, 1))), columns=2
    )
    assert sheet.shape[0] == 2 * one.shape[0]  # the third photo goes below
    assert (one == 200).all(-1).sum() >= 2 * 2 * 96 * 96  # photo and cut-out of both


def compose_layers(mask):
    shape = (*mask.shape[:-1], 3)
    return Layers(np.zeros(shape, np.float32), np.full(shape, -0.5, np.float32), mask)


@pytest.mark.parametrize("truth", [True, False])
def test_photos_of_any_sizes_and_shapes(truth):
    shapes = [(16, 16), (200, 300), (500, 120)]
    images = [np.full((*shape, 3), 100, np.uint8) for shape in shapes]
    masks = [np.ones(shape) for shape in shapes]
    sheet = sheets.segmentation_sheet(
        images, masks if truth else None, masks, [0.5, 0.6, 0.7] if truth else None
    )
    rows = 4 if truth else 3
    assert rows * 144 < sheet.shape[0] < (rows + 1) * 144
    assert sheet.shape[1] > 3 * 144


def test_a_photo_next_to_its_cut_out():
    mask = np.zeros((500, 1000), bool)
    mask[:, 250:750] = True
    sheet = sheets.before_after(np.full((500, 1000, 3), 90, np.uint8), mask)
    assert sheet.shape == (240, 2 * 480, 3)
    assert (sheet[:, :480] == 90).all() and (sheet[:, 480 + 130 : 480 + 350] == 90).all()
    assert (sheet[:, 480 : 480 + 110] > 190).all() and (sheet[:, -110:] > 190).all()
    assert sheets.before_after(np.zeros((8, 6, 3), np.uint8), np.ones((8, 6))).shape == (8, 12, 3)


def test_fit_keeps_the_aspect_ratio():
    wide = sheets.fit(np.zeros((10, 40, 3), np.uint8), 80)
    assert wide.shape == (80, 80, 3)
    assert (wide[30:50] == 0).all()
    assert (wide[:30] == 255).all() and (wide[50:] == 255).all()


@pytest.mark.parametrize(("value", "level"), [(-1, 0), (1, 255), (0, 128), (-3, 0), (2, 255)])
def test_to_uint8(value, level):
    assert sheets.to_uint8(np.array([float(value)]))[0] == level


def test_a_png_is_written_whole(tmp_path):
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 255, (9, 7, 3)).astype(np.uint8)
    sheets.save_png(image, str(tmp_path / "a.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with Image.open(tmp_path / "a.png") as read:
        np.testing.assert_array_equal(np.asarray(read), image)


def test_every_layer_and_mask_has_its_row():
    mask = np.zeros((1, 8, 8, 2))
    mask[:, :4, :, 0] = 1.0
    mask[:, :, :4, 1] = 1.0
    grounds = (
        np.full((1, 8, 8, 3), -1.0),
        np.repeat([[0.0, 1.0]], 3, axis=-1) * np.ones((1, 8, 8, 1)),
    )
    sheet = sheets.layers_sheet(Layers(*grounds, mask))
    levels = [cell(sheet, row, 0)[[10, 10, 80, 80], [10, 80, 10, 80], 0] for row in range(8)]
    # Corners from the upper left; a layer is seen where its mask is 1 and no later one's is.
    assert [tuple(levels[row]) for row in (0, 1, 2, 4, 5, 7)] == [
        (0, 0, 0, 0),
        (128, 128, 128, 128),
        (255, 255, 0, 0),
        (255, 255, 255, 255),
        (255, 0, 255, 0),
        (255, 128, 255, 0),
    ]
    assert sheet.shape[0] == 3 + 8 * (96 + 3)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animation_has_its_frames_and_repeats(tmp_path, kind):
    frames = np.zeros((3, 40, 60, 3), np.uint8)
    frames[:, :, 30:] = np.random.default_rng(0).integers(0, 256, (40, 30, 3))  # stands still
    for number, frame in enumerate(frames):
        frame[10 * number : 10 * number + 10, :30] = (250, 30, 30)
    path = str(tmp_path / f"frames.{kind}")
    sheets.save_animation(list(frames), path, milliseconds=120)
    with Image.open(path) as animation:
        assert (animation.format, animation.n_frames) == (kind.upper(), 3)
        assert animation.info["loop"] == 0
        shown = [
            np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(animation)
        ]
        assert animation.info["duration"] == 120
    assert np.abs(np.stack(shown)[:, :, :30] - frames[:, :, :30]).max() <= 8
    assert (np.stack(shown)[:, :, 30:] == shown[0][:, 30:]).all()
    if kind == "webp":
        np.testing.assert_array_equal(shown, frames)
    assert photo.is_result(path)
    unmarked = str(tmp_path / f"unmarked.{kind}")
    Image.fromarray(frames[0]).save(unmarked)
    assert not photo.is_result(unmarked)


def test_a_sheet_of_composites_has_a_row_for_each_label():
    layers = grey_layers(3)
    sheet = sheets.composites_sheet([("a", layers), ("b", layers._replace(mask=0 * layers.mask))])
    assert sheet.shape[0] == 2 * (96 + 3) + 3
    expected = sheets.to_uint8(layers.background[1])[0, 0]
    np.testing.assert_array_equal(cell(sheet, 1, 1)[0, 0], expected)
    assert (cell(sheet, 0, 1) != cell(sheet, 1, 1)).any()


def random_images(count, side=24):
    return list(np.random.default_rng(0).integers(0, 250, (count, side, side, 3), np.uint8))


@pytest.mark.parametrize(("count", "each"), [(10, 4), (8, 4), (5, 3)])
def test_a_wide_sheet_is_cut_into_parts_with_all_labels(count, each):
    images, labels = random_images(count), ["background", "mask"]
    sheet = sheets.grid([images, images[::-1]], labels, count)
    rows = ([images[i : i + each], images[::-1][i : i + each]] for i in range(0, count, each))
    parts = np.concatenate([sheets.grid(part, labels, each) for part in rows])
    np.testing.assert_array_equal(sheets.stacked(sheet), parts)


@pytest.mark.parametrize("column", [None, 0, 3, 7])
def test_sheets_that_are_not_cut(column):
    """Narrow ones, and those with a photo in portrait format, whose white edges look like gaps."""
    images = random_images(4 if column is None else 8)
    if column is not None:
        images[column][:, :5] = images[column][:, -5:] = 255
    sheet = sheets.grid([images], ["photo"], len(images))
    assert sheets.stacked(sheet) is sheet
