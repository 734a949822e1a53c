"""TensorFlow Datasets builder of LSUN's object categories, from the published LMDB archives.

An archive is published at http://dl.yf.io/lsun/objects/CATEGORY.zip and holds the directory
CATEGORY with `data.mdb` and `lock.mdb`. A key is 40 hexadecimal digits, a value the bytes of a WebP
file (JPEG, by the description at github.com/fyu/lsun, is read too). LMDB keeps keys sorted, so "the
first 100,000 images" (the paper's data) are those with the smallest keys. A validation archive was
published for scenes only; objects have just the split `train`.
"""

import functools
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from layered_segmentation.data.prepare import archives, lmdb_reader
from layered_segmentation.data.prepare.builder import (
    Entries,
    Photo,
    PhotoBuilder,
    Unusable,
    damage,
)
from layered_segmentation.errors import UserError

CATEGORIES = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining_table", "dog", "horse", "motorbike", "person", "potted_plant", "sheep", "sofa",
    "train", "tv-monitor",
)  # fmt: skip

URL = "http://dl.yf.io/lsun/objects/{category}.zip"

_DESCRIPTION = """\
Photos of one of LSUN's 20 object categories, in the published archive's order and as its bytes.
"""
_CITATION = """\
@article{yu15lsun,
  author = {Yu, Fisher and Zhang, Yinda and Song, Shuran and Seff, Ari and Xiao, Jianxiong},
  title = {LSUN: Construction of a Large-scale Image Dataset using Deep Learning with Humans in
           the Loop},
  journal = {arXiv preprint arXiv:1506.03365},
  year = {2015}
}
"""


class LsunObjects(PhotoBuilder):
    """`lsun_objects/CATEGORY`: features `image` and `key`, split `train`.

    TFDS has a builder `lsun` of the same archives. It needs tensorflow-io, whose last release does
    not work with this TensorFlow. It shuffles, so that no slice is the archive's first 100,000. It
    writes the whole archive (186 GB for cars) before any of it can be read. It declares JPEG, so
    that WebP is decoded with an extra axis. `checksums.tsv` is its list of the archives' sizes and
    SHA-256.

    The first 100,000, reading no further in the database:

        layerseg prepare --dataset=lsun_objects/car --source=car.zip --data_dir=DIR --limit=100000

    A zip is first unpacked to DIR/downloads/unpacked, because a database is read by its pages, in
    any order. That takes as much disk again as data.mdb. A directory is read in place.

    `tfds build --imports=layered_segmentation.data lsun_objects/car` does the same, with
    `--data_dir=DIR`, `--manual_dir=DIRECTORY_WITH_CAR_ZIP` and `--max_examples_per_split=100000`.
    (The program `tfds` of TFDS 4.9.10 starts only where `apache-beam` and `mlcroissant` are
    installed; nothing else here needs them.)
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=category, description=f"Photos of the category {category}.")
        for category in CATEGORIES
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    manual_dir holds CATEGORY.zip from http://dl.yf.io/lsun/objects/, as it is, or unpacked:
    CATEGORY/data.mdb.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self._photo_info(
            {
                "image": Photo(doc="The file as the archive holds it."),
                "key": tfds.features.Text(doc="The archive's key."),
            },
            description=_DESCRIPTION,
            homepage="https://www.yf.io/p/lsun",
            citation=_CITATION,
        )

    def fingerprint(self, source: str) -> str:
        """Returns the database's entries and bytes, or the archive's bytes."""
        path = self._locate(epath.Path(source))
        if path.is_dir():
            summary = lmdb_reader.summary(str(path))
            return f"lmdb:{summary.entries} {summary.size}"
        return archives.fingerprint_of_archives(str(path))

    def _open(self, source: str, unpacked: str) -> dict[str, Entries]:
        category = self.builder_config.name
        directory = self._locate(epath.Path(source))
        if not directory.is_dir():
            directory = self._unpack(directory, epath.Path(unpacked) / category)
        summary = lmdb_reader.summary(str(directory))
        read = functools.partial(lmdb_reader.entries, str(directory))
        return {
            "train": Entries(summary.entries, summary.size, read, lambda entry: _example(*entry))
        }

    def _locate(self, source: epath.Path) -> epath.Path:
        """Returns the directory that is the database, or its archive."""
        category = self.builder_config.name
        names = (category, f"{category}_train_lmdb", f"{category}_lmdb", "")
        if source.is_dir():
            for name in names:
                if (source / name / lmdb_reader.FILE).exists():
                    return self._require_category(source / name)
            source /= f"{category}.zip"
        if source.name == lmdb_reader.FILE and source.exists():
            return self._require_category(source.parent)
        if not source.exists() or not archives.is_archive(source.name):
            raise UserError(
                f"{source}: there is no LMDB ({category}/{lmdb_reader.FILE}) and no archive "
                f"{category}.zip; download {URL.format(category=category)}"
            )
        return source

    def _unpack(self, archive: epath.Path, unpacked: epath.Path) -> epath.Path:
        """Returns the directory that is the database, after unpacking it if it is not yet."""
        category = self.builder_config.name
        published = self.url_infos[URL.format(category=category)]
        directory = epath.Path(
            archives.unpack(
                str(archive), str(unpacked), self._show_progress, published.size, published.checksum
            )
        )
        found = [
            *directory.glob(lmdb_reader.FILE),
            *directory.glob(f"*/{lmdb_reader.FILE}"),
        ]
        if len(found) != 1:
            raise UserError(
                f"{archive}: holds {len(found)} files {lmdb_reader.FILE}; the published archive "
                f"has one, {category}/{lmdb_reader.FILE}"
            )
        return self._require_category(found[0].parent)

    def _require_category(self, directory: epath.Path) -> epath.Path:
        name = directory.resolve().name  # of `.`, too
        if name in CATEGORIES and name != self.builder_config.name:
            raise UserError(
                f"{directory}: holds the category {name!r}, not {self.builder_config.name!r}; "
                f"name the dataset lsun_objects/{name}"
            )
        return directory


def _example(key: str, value: bytes) -> dict[str, Any] | Unusable:
    reason = damage(value)
    return Unusable(key, reason) if reason else {"image": value, "key": key}
