"""TensorFlow Datasets builder of a directory of photos, their files kept as they are."""

import functools
import itertools
import re
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from layered_segmentation import files
from layered_segmentation.data.folder import find_photos
from layered_segmentation.data.prepare.builder import (
    Entries,
    Photo,
    PhotoBuilder,
    Unusable,
    damage,
)

NAME = "photo_folder"


class PhotoFolder(PhotoBuilder, skip_registration=True):  # type: ignore[call-arg]
    """`photo_folder/NAME`: features `image` and `file`, split `train`, in the order of the names.

    Like TFDS's own `ImageFolder`, it is not registered, because its dataset depends on its
    argument. The dataset is read from its files: `tfds.load("photo_folder/NAME", data_dir=DIR)`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012

    def __init__(self, *, name: str, source: str, **options: Any):
        """Describes the dataset; reads nothing.

        Args:
            name: The dataset's: letters, digits, `_`, `-` and `.`.
            source: Directory of photos, searched as `folder.Folder` does.
            **options: As for `PhotoBuilder`.
        """
        config = tfds.core.BuilderConfig(name=name, description=f"The photos of {name}.")
        super().__init__(config=config, source=source, **options)

    def fingerprint(self, source: str) -> str:
        """Returns a digest of the photos' names, sizes and times."""
        return files.fingerprint(source, find_photos(source, "--source"))

    def _info(self) -> tfds.core.DatasetInfo:
        return self._photo_info(
            {
                "image": Photo(doc="The file as it was found."),
                "file": tfds.features.Text(doc="Its path in the directory."),
            },
            description="Photos of a directory.",
        )

    def _open(self, source: str, unpacked: str) -> dict[str, Entries]:
        del unpacked
        files = find_photos(source, "--source")
        directory = epath.Path(source)
        size = sum((directory / file).stat().length for file in files)
        read = functools.partial(itertools.islice, files)
        example = functools.partial(_example, directory)
        return {"train": Entries(len(files), size, read, example)}


def safe_name(name: str) -> str:
    """Returns a name in which `_` replaces what a dataset's name may not hold."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".")


def _example(directory: epath.Path, file: str) -> dict[str, Any] | Unusable:
    try:
        content = (directory / file).read_bytes()
    except FileNotFoundError:  # a broken link, or removed meanwhile
        return Unusable(file, "is not there")
    if reason := damage(content):
        return Unusable(file, reason)
    # A file name need not be UTF-8, TFDS's text must.
    return {"image": content, "file": file.encode("utf-8", "backslashreplace").decode()}
