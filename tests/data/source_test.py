import io
import threading

import numpy as np
import pytest
from PIL import Image

from layered_segmentation import images
from layered_segmentation.config import DataConfig
from layered_segmentation.data import source as sources
from layered_segmentation.data.source import Encoded, PhotoSource, in_order
from layered_segmentation.errors import UserError

SIDES = [9, 18, 36, 72, 144]


class Stored(PhotoSource):
    """A source of encoded photos in memory."""

    name = "stored"

    def __init__(self, files, **settings):
        super().__init__("here", **settings)
        self.files = files

    @classmethod
    def from_config(cls, config, seed):
        return cls([encode(np.zeros((20, 20, 3), np.uint8), format="PNG")] * config.limit)

    def __len__(self):
        return len(self.files)

    def encoded(self):
        return (Encoded(f"photo {index}", file) for index, file in enumerate(self.files))

    def inventory(self):
        return []

    def identity(self):
        return []


def encode(array, **settings):
    file = io.BytesIO()
    Image.fromarray(array).save(file, **settings)
    return file.getvalue()


def detailed(width, height):
    """Noise, a zone plate and edges, side by side: nothing is harder to resize."""
    y, x = np.indices((height, width))
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.random.default_rng(0).integers(0, 256, (height, width))
    image[..., 1] = 127.5 + 127.5 * np.cos((x**2 + y**2) / (width + height))
    image[..., 2] = 255 * ((x // 5 + y // 7) % 2)
    return image


@pytest.mark.parametrize(
    ("size", "settings", "sides"),
    [
        ((300, 200), {"format": "PNG"}, SIDES),
        ((300, 200), {"format": "JPEG", "quality": 90}, SIDES),
        ((300, 260), {"format": "WEBP"}, SIDES),
        ((1500, 1300), {"format": "JPEG", "quality": 90}, [9, 64]),
    ],
)
@pytest.mark.parametrize("aspect", ["squash", "centre_crop"])
def test_every_side_is_resized_from_the_whole_photo_as_by_pillow(size, settings, sides, aspect):
    data = encode(detailed(*size), **settings)
    (squares,) = Stored([data], aspect=aspect).squares(sides)
    with Image.open(io.BytesIO(data)) as image:
        photo = image.convert("RGB")
    box = (0, 0, *size)
    if aspect == "centre_crop":
        left, top = (size[0] - min(size)) / 2, (size[1] - min(size)) / 2
        box = (left, top, left + min(size), top + min(size))
    for side, square in zip(sides, squares, strict=True):
        expected = np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC, box), int)
        assert np.abs(square - expected).max() <= 2


def test_few_bad_photos_are_left_out_and_many_are_an_error(capsys):
    good, small = (encode(np.full((side, side, 3), 90, np.uint8), format="PNG") for side in (20, 8))
    source = Stored([good] * 38 + [good[:60], small])
    assert source.load(18).shape == (38, 18, 18, 3)
    assert source.skipped == ["photo 38", "photo 39"]
    told = capsys.readouterr().err
    assert "here: left out 2 of 40 photos (1 unreadable, 1 smaller than 16 px)" in told
    with pytest.raises(UserError, match=r"here: more than 5% of the 4 .* read, such as photo 1;"):
        Stored([good, b"", good, good]).load(18)


def test_only_a_few_photos_are_decoded_ahead(monkeypatch):
    """However slowly squares are taken: what is alive does not grow with the source."""
    total = 40 * sources.AHEAD
    data = encode(np.zeros((20, 20, 3), np.uint8), format="PNG")
    lock, read, decoded, taken, most = threading.Lock(), [0], [0], 0, 0

    class Counted(Stored):
        def encoded(self):
            for photo in super().encoded():
                read[0] += 1
                yield photo

    def counting(*arguments):
        with lock:
            decoded[0] += 1
        return to_square(*arguments)

    to_square = images.to_square
    monkeypatch.setattr(images, "to_square", counting)
    for _ in Counted([data] * total).squares([18]):
        taken += 1
        most = max(most, read[0] - taken, decoded[0] - taken)
    assert taken == decoded[0] == total
    assert 0 < most <= sources.AHEAD


def test_a_registered_source_is_opened_by_its_name(monkeypatch):
    monkeypatch.setattr(sources, "_SOURCES", dict(sources._SOURCES))
    sources.register(Stored)
    source = sources.open_source(DataConfig(name="stored", limit=3), seed=0)
    assert isinstance(source, Stored) and len(source) == 3
    with pytest.raises(UserError, match=r"data\.name=other: .*folder, shapes, stored, tfds"):
        sources.open_source(DataConfig(name="other"), seed=0)


def test_squares_are_bicubic_for_a_gan_and_triangle_for_a_segmenter():
    photo = detailed(90, 70)
    source = Stored([encode(photo, format="PNG")])
    ((square,),) = source.squares([16])
    assert np.array_equal(square, images.to_square(photo, 16, filter=images.BICUBIC))
    assert np.array_equal(source.load(16)[0], images.to_square(photo, 16))
    assert not np.array_equal(square, source.load(16)[0])


def test_results_keep_their_order_whichever_is_ready_first():
    first_may_end = threading.Event()

    def work(item):
        if item == 0:
            assert first_may_end.wait(20)
        elif item == 3:
            first_may_end.set()
        return item

    assert list(in_order(work, range(50))) == list(range(50))


@pytest.mark.parametrize(("count", "is_told"), [(299, True), (300, False)])
def test_few_photos_are_told(tmp_path, capsys, count, is_told):
    for number in range(count):
        (tmp_path / f"{number}.png").touch()
    config = DataConfig(name="folder", path=str(tmp_path))
    sources.note_few(sources.open_source(config, 0))
    told = capsys.readouterr().err
    assert told.startswith(f"warning: {count} photos are few") == is_told and bool(told) == is_told
    sources.note_few(sources.open_source(DataConfig(name="shapes"), 0))
    assert not capsys.readouterr().err
