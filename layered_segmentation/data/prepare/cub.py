"""TensorFlow Datasets builder of Caltech-UCSD Birds 200-2011 with its segmentations.

Two archives are published; `checksums.tsv` has their sizes and SHA-256, as TFDS's
`caltech_birds2011`. CUB_200_2011.tgz has the photos under `CUB_200_2011/images/CLASS/` and tables:
images.txt, image_class_labels.txt, bounding_boxes.txt and train_test_split.txt, with a line per
image that begins with its number, and classes.txt, with a line per class. segmentations.tgz has
`segmentations/CLASS/NAME.png`, grey levels from 0 to 255.
"""

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from layered_segmentation import files, images
from layered_segmentation.data.prepare import archives
from layered_segmentation.data.prepare.builder import Entries, PhotoBuilder, Unusable, damage
from layered_segmentation.errors import UserError

IMAGES = 11_788
_DECODED = ("JPEG", "PNG", "BMP")
CLASSES_FILE = epath.Path(__file__).parent / "cub_classes.txt"

REDO_FILE = "train_val_test_split.txt"
REDO_URL = f"https://github.com/mickaelChen/ReDO/blob/master/datasplits/cub/{REDO_FILE}"
_REDO_SHA256 = "7620961c0d472a9721d9f2e5541a6dba2a6009e21caadb3861c5c7b64270764c"

_TABLES = ("classes.txt", "images.txt", "image_class_labels.txt", "bounding_boxes.txt")
_ROOTS = ("CUB_200_2011", "", "CUB_200_2011/CUB_200_2011")  # with images.txt in it
_DESCRIPTION = """\
11,788 photos of 200 species of birds with class, bounding box and segmentation.
"""
_CITATION = """\
@techreport{WahCUB_200_2011,
  title = {{The Caltech-UCSD Birds-200-2011 Dataset}},
  author = {Wah, C. and Branson, S. and Welinder, P. and Perona, P. and Belongie, S.},
  year = {2011},
  institution = {California Institute of Technology},
  number = {CNS-TR-2011-001}
}
"""


class CubConfig(tfds.core.BuilderConfig):
    """A way to split CUB.

    Attributes:
        table: File that has a number for each image.
        numbers: The number of each split's images.
    """

    def __init__(self, *, table: str, numbers: dict[str, int], **options: Any):
        """Describes a split; see the attributes and `tfds.core.BuilderConfig`."""
        super().__init__(**options)
        self.table = table
        self.numbers = numbers


class Cub200Segmentation(PhotoBuilder):
    """`cub200_segmentation`, with the published split, or `cub200_segmentation/redo`.

    `redo` has 10,000 images to train on, 788 and 1,000 to test, as ReDO (Chen, Artières and
    Denoyer, NeurIPS 2019) and later work. The authors' file that defines the split may not be
    redistributed: it is read from next to images.txt, and refused if it differs.

    Features: `image`, the photo's file (some are grey); `segmentation`, the annotators' mask as
    published; `mask`, 1 where that is above one half, else 0; `bbox`; `label`; `id`, the
    image's number, and `file`, its name under `images/`.

    A photo without a segmentation, or with one of another size, is left out and counted.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012
    BUILDER_CONFIGS = [  # noqa: RUF012
        CubConfig(
            name="official",
            description="The published split: 5,994 images to train on and 5,794 to test.",
            table="train_test_split.txt",
            numbers={"train": 1, "test": 0},
        ),
        CubConfig(
            name="redo",
            description=f"10,000 images to train on, 788 to validate and 1,000 to test: {REDO_URL}",
            table=REDO_FILE,
            numbers={"train": 0, "validation": 1, "test": 2},
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""\
    manual_dir holds CUB_200_2011.tgz (https://data.caltech.edu/records/65de6-vp158) and
    segmentations.tgz (https://data.caltech.edu/records/w9d68-gec53), as they are or unpacked:
    CUB_200_2011/images.txt and segmentations/. The config `redo` needs {REDO_FILE} there too
    ({REDO_URL}).
    """

    def _info(self) -> tfds.core.DatasetInfo:
        mask = functools.partial(tfds.features.Image, shape=(None, None, 1), encoding_format="png")
        return self._photo_info(
            {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "segmentation": mask(doc="The annotators' mask as published, 0 to 255."),
                "mask": mask(use_colormap=True, doc="1 where that is above one half, else 0."),
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(names_file=CLASSES_FILE),
                "id": tfds.features.Scalar(np.int64),
                "file": tfds.features.Text(),
            },
            description=_DESCRIPTION,
            homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
            supervised_keys=("image", "mask"),
            citation=_CITATION,
        )

    def fingerprint(self, source: str) -> str:
        """Returns a digest of the files' names, sizes and times, or the archives' bytes.

        Empty where one of them is unpacked and the other is not.
        """
        directory = _directory(source)
        root, masks = self._locate_photos(directory), self._locate_masks(directory)
        if root.is_dir() and masks.is_dir():
            split = _find_table(self.builder_config.table, root, directory)
            tables = [str(split), *(str(root / name) for name in _TABLES)]
            names = [words[0] for words in _table(root / "images.txt", 1).values()]
            photos = [str(root / "images" / name) for name in names]
            drawn = [str(_mask_path(masks / "segmentations", name)) for name in names]
            return files.fingerprint("", [*tables, *photos, *drawn])
        if root.is_dir() or masks.is_dir():
            return ""
        return archives.fingerprint_of_archives(str(root), str(masks))

    def _open(self, source: str, unpacked: str) -> dict[str, Entries]:
        directory = _directory(source)
        root = self._locate_photos(directory)
        if not root.is_dir():
            root = self._unpack(root, "images.txt", unpacked)
        masks = self._locate_masks(directory, root)
        if not masks.is_dir():
            masks = self._unpack(masks, "segmentations", unpacked)
        birds = _read_birds(root, _find_table(self.builder_config.table, root, directory))
        splits = {}
        for name, number in self.builder_config.numbers.items():
            chosen = [bird for bird in birds if bird.split == number]
            splits[name] = Entries(
                len(chosen),
                _bytes(root / "images", chosen),
                functools.partial(itertools.islice, chosen),
                functools.partial(_example, root / "images", masks / "segmentations"),
            )
        return splits

    def _locate_photos(self, directory: epath.Path) -> epath.Path:
        return self._locate(directory, "CUB_200_2011", _ROOTS, "images.txt")

    def _locate_masks(self, directory: epath.Path, root: epath.Path | None = None) -> epath.Path:
        root = root or self._locate_photos(directory)
        places = tuple(str(path) for path in ("", root, root / "segmentations"))
        return self._locate(directory, "segmentations", places, "segmentations")

    def _locate(
        self, source: epath.Path, archive: str, places: tuple[str, ...], entry: str
    ) -> epath.Path:
        """Returns the directory that has an entry, or the archive."""
        for place in places:
            if (source / place / entry).exists():
                return source / place
        path = source / f"{archive}.tgz"
        if not path.exists():
            raise UserError(
                f"{source}: there is neither {archive}/ nor {archive}.tgz in it; download the "
                f"archive from {_urls(self)[path.name]}"
            )
        return path

    def _unpack(self, archive: epath.Path, entry: str, unpacked: str) -> epath.Path:
        """Returns the directory that has an entry, after unpacking it if it is not yet."""
        published = self.url_infos[_urls(self)[archive.name]]
        target = epath.Path(unpacked) / archive.stem
        archives.unpack(
            str(archive), str(target), self._show_progress, published.size, published.checksum
        )
        for place in _ROOTS:
            if (target / place / entry).exists():
                return target / place
        raise UserError(f"{archive}: there is no {entry} in it; it is not the published archive")


class _Bird(NamedTuple):
    id: int
    file: str
    label: int
    box: tuple[float, float, float, float]  # left, top, width, height in pixels
    split: int


def _directory(source: str) -> epath.Path:
    given = epath.Path(source)
    return given if given.is_dir() else given.parent


def _mask_path(masks: epath.Path, file: str) -> epath.Path:
    return masks / epath.Path(file).with_suffix(".png")


def _urls(builder: Cub200Segmentation) -> dict[str, str]:
    """Returns the archives' addresses by file name."""
    return {info.filename: url for url, info in builder.url_infos.items() if "caltech" in url}


def _find_table(name: str, *directories: epath.Path) -> epath.Path:
    for directory in directories:
        if (directory / name).exists():
            return directory / name
    hint = f"; download it from {REDO_URL}" if name == REDO_FILE else ""
    raise UserError(f"{directories[0] / name}: there is no such file{hint}")


def _read_birds(root: epath.Path, split_table: epath.Path) -> list[_Bird]:
    """Reads the tables, in the order of images.txt."""
    classes = [name for (name,) in _table(root / "classes.txt", 1).values()]
    if classes != CLASSES_FILE.read_text().split():
        raise UserError(f"{root / 'classes.txt'}: the classes are not those of CUB-200-2011")
    names = _table(root / "images.txt", 1)
    labels = _table(root / "image_class_labels.txt", 1, names)
    boxes = _table(root / "bounding_boxes.txt", 4, names)
    splits = _table(split_table, 1, names)
    if split_table.name == REDO_FILE and len(names) == IMAGES:
        _require_redo(split_table, splits)
    birds = []
    for id, (file,) in names.items():
        try:
            left, top, width, height = map(float, boxes[id])
            label, split = int(labels[id][0]), int(splits[id][0])
        except ValueError as error:
            raise UserError(f"{root}: the tables are damaged at image {id}: {error}") from error
        if not 1 <= label <= len(classes):
            raise UserError(f"{root / 'image_class_labels.txt'}: image {id} has class {label}")
        birds.append(_Bird(id, file, label - 1, (left, top, width, height), split))
    return birds


def _table(
    path: epath.Path, columns: int, like: dict[int, list[str]] | None = None
) -> dict[int, list[str]]:
    """Reads a table of the dataset: the words of each line, by the number that it begins with.

    Args:
        path: A text file.
        columns: How many words follow the number.
        like: A table that must have the same numbers.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file; unpack or download the archive again")
    rows: dict[int, list[str]] = {}
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        number, *words = text.split() or [""]
        if not number.isdecimal() or len(words) != columns or int(number) in rows:
            raise UserError(f"{path}: line {line} is damaged: {text!r}")
        rows[int(number)] = words
    if like is not None and rows.keys() != like.keys():
        raise UserError(
            f"{path}: has {len(rows):,} images, or others than the {len(like):,} of images.txt; "
            "unpack or download the archive again"
        )
    return rows


def _require_redo(path: epath.Path, splits: dict[int, list[str]]) -> None:
    text = "".join(f"{id} {word}\n" for id, (word,) in sorted(splits.items()))
    if files.digest(text) != _REDO_SHA256:
        raise UserError(f"{path}: is not the published split; download it from {REDO_URL}")


def _bytes(photos: epath.Path, birds: list[_Bird]) -> int:
    paths = [photos / bird.file for bird in birds]
    return sum(path.stat().length for path in paths if path.exists())


def _example(photos: epath.Path, masks: epath.Path, bird: _Bird) -> dict[str, Any] | Unusable:
    mask_path = _mask_path(masks, bird.file)
    for path, what in ((photos / bird.file, "photo"), (mask_path, "segmentation")):
        if not path.exists():
            return Unusable(bird.file, f"there is no {what} {path}")
        if reason := damage(path.read_bytes()):
            return Unusable(bird.file, f"{what}: {reason}")
    photo, segmentation = (photos / bird.file).read_bytes(), mask_path.read_bytes()
    image, drawn = images.header(photo), images.header(segmentation)
    if image.format not in _DECODED:  # by TensorFlow, when the feature is read
        return Unusable(bird.file, f"photo: is {image.format}, not {' or '.join(_DECODED)}")
    if drawn.format != "PNG" or drawn.mode.startswith(("I", "F")):
        return Unusable(bird.file, f"segmentation: is {drawn.format} {drawn.mode}, not 8 bits PNG")
    if drawn.size != image.size:
        sizes = [f"{width} × {height}" for width, height in (drawn.size, image.size)]
        return Unusable(bird.file, f"its segmentation is {sizes[0]}, the photo {sizes[1]}")
    box = _relative(bird.box, image.size)
    if box.xmin >= box.xmax or box.ymin >= box.ymax:
        return Unusable(bird.file, f"its bounding box is {bird.box}, the photo {image.size}")
    levels = images.read_values(segmentation, "", luminance=True)
    return {
        "image": photo,
        "segmentation": segmentation,
        "mask": images.encode_png((levels > 127).astype(np.uint8)),
        "bbox": box,
        "label": bird.label,
        "id": bird.id,
        "file": bird.file,
    }


def _relative(box: tuple[float, float, float, float], size: tuple[int, int]) -> tfds.features.BBox:
    """Returns a box as fractions of the photo's sides, clipped to the photo."""
    left, top, width, height = box
    xs, ys = (np.clip(np.divide(ends, side), 0, 1) for ends, side in zip(
        ((left, left + width), (top, top + height)), size, strict=True
    ))  # fmt: skip
    return tfds.features.BBox(ymin=ys[0], xmin=xs[0], ymax=ys[1], xmax=xs[1])
