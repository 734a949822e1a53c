"""Writes datasets of photos as others make them: without a key, of labels, with odd paths."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def encode(values, format="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(file, format=format, **options)
    return file.getvalue()


def labelled(number):
    """A photo of 4 × 6 and its mask of labels 1, 2, 3."""
    return encode(np.full((4, 6, 3), number)), encode(
        np.arange(24).reshape(4, 6, 1)[..., 0] % 3 + 1
    )


class OtherPhotos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """As any builder of photos: `examples` by the config's name."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name) for name in ("numbers", "labels", "paths", "misfits")
    ]

    def _info(self):
        mask = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        more = {
            "numbers": {},
            "labels": {"segmentation_mask": mask},
            "paths": {"file": tfds.features.Text(), "mask": mask},
            "misfits": {"mask": mask},
        }
        features = {"image": tfds.features.Image(), **more[self.builder_config.name]}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": getattr(self, f"_{self.builder_config.name}")()}

    def _generate_examples(self):
        raise NotImplementedError

    def _numbers(self):
        for number in range(60):
            yield number, {"image": io.BytesIO(labelled(number)[0])}

    def _labels(self):
        for number in range(3):
            photo, mask = labelled(number)
            yield number, {"image": io.BytesIO(photo), "segmentation_mask": io.BytesIO(mask)}

    def _paths(self):
        for number, (file, format) in enumerate(PATHS):
            yield (
                number,
                {
                    "image": io.BytesIO(encode(np.full((4, 6, 3), number), format)),
                    "mask": io.BytesIO(encode(np.eye(4, 6) * (1 if number % 2 else 255))),
                    "file": file,
                },
            )

    def _misfits(self):
        lying = Image.Exif()
        lying[0x0112] = 6  # to be turned clockwise
        photo = encode(np.zeros((4, 6, 3)), "JPEG", exif=lying)
        for number in range(40):
            mask = np.zeros((4, 6) if number != 7 else (6, 4))
            mask[0, 0] = 1  # the top left, once upright the top right
            file = encode(mask)[: 30 if number == 9 else None]
            yield number, {"image": io.BytesIO(photo), "mask": io.BytesIO(file)}


# The dataset's own path and the photo's format, in order; behind them, where each must land.
PATHS = {
    ("birds/a.JPG", "JPEG"): "birds/a.JPG",
    ("birds/a.png", "PNG"): "birds/a_000001.png",  # its mask would be that of a.JPG
    ("birds/b.png", "JPEG"): "birds/b.jpg",
    ("001.Crow/x.y", "WEBP"): "001.Crow/x.y.webp",
    ("../../etc/passwd", "PNG"): "etc/passwd.png",
    ("/tmp/abs.png", "PNG"): "tmp/abs.png",
    ("masks/.hidden.png", "PNG"): "masks_/_hidden.png",
    ("BIRDS/A.jpg", "JPEG"): "BIRDS/A_000007.jpg",
    ("..", "PNG"): "000008.png",
    ("d.png/e.png", "PNG"): "d.png_/e.png",
    ("a\nb\\c.png", "PNG"): "a_b_c.png",
    ("é" * 150 + ".png", "PNG"): "é" * 100 + ".png",
}
