"""Names for a dataset's photos as files: its own where it has some, and none that leads out.

Names must go through `photos.find`, which leaves out what is hidden and directories of masks, and
no two may differ in their extension only, since masks are matched without it.
"""

import io
import os
import re
from typing import Any

from PIL import Image

from layered_segmentation import images
from layered_segmentation.data.folder import MASKS

FILES = ("file", "file_name", "filename", "image/filename")  # features that are paths
KEY = "key"  # one that is none

_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",),
    "BMP": (".bmp",), "GIF": (".gif",), "TIFF": (".tif", ".tiff"),
}  # fmt: skip
_LONGEST = 200  # bytes of a name; 255 is most systems' limit, and it grows
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")


class Names:
    """Names given so far, for one directory."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def claim(self, folder: str, number: str, own: str) -> str:
        """Returns a photo's path, unlike all before it also where case does not count.

        Args:
            folder: Directory it goes to, or empty.
            number: Of the photo, for one whose name is taken or says nothing.
            own: Its path in the dataset.

        Returns:
            A relative path, less the extension.
        """
        stem = os.path.join(folder, _safe_stem(own) or number)
        while stem.casefold() in self._taken:
            stem = f"{stem}_{number}"
        self._taken.add(stem.casefold())
        return stem


def numbered(folder: str, number: str, key: str) -> str:
    """Returns a photo's path, less the extension: its number, and its key unless that is empty."""
    name = _safe_part(f"{number}_{key.replace('/', '_')}") if key else number
    return os.path.join(folder, name)


def text_feature_of(info: Any) -> tuple[str, bool]:
    """Returns the feature of a dataset that names its photos, or empty, and if it holds paths.

    Args:
        info: The dataset's `tfds.core.DatasetInfo`.
    """
    import tensorflow_datasets as tfds

    for name, feature in ((name, dict(info.features.items()).get(name)) for name in (*FILES, KEY)):
        if isinstance(feature, tfds.features.Text):
            return name, name != KEY
    return "", False


def extension_of(file: bytes, own: str) -> str:
    """Returns a photo's extension, what it is deciding; its own if that says the same.

    Args:
        file: The photo's bytes.
        own: Its path or key in the dataset, or empty.

    Raises:
        photos.UnreadableImage: It is no image, or of a kind that no extension of photos stands for.
    """
    try:
        with Image.open(io.BytesIO(file)) as image:
            kind = image.format or ""
    except Exception as error:  # Pillow raises nearly anything
        raise images.UnreadableImage("cannot be read as an image") from error
    given = os.path.splitext(own)[1]
    fitting = _EXTENSIONS.get(kind, images.EXTENSIONS)
    if given.lower() in fitting:
        return given
    if kind not in _EXTENSIONS:
        raise images.UnreadableImage(f"is {kind}, not one of {', '.join(_EXTENSIONS)}")
    return fitting[0]


def _safe_part(text: str) -> str:
    """Returns a text as one part of a path."""
    name = _UNSAFE.sub("_", text)
    name = name.encode()[:_LONGEST].decode(errors="ignore")
    return f"_{name[1:]}" if name.startswith(".") else name


def _safe_stem(path: str) -> str:
    """Returns a path less the extension of a photo; it leads down, to what `photos.find` finds."""
    *folders, name = [part for part in path.split("/") if part not in ("", ".", "..")] or [""]
    stem, extension = os.path.splitext(name)
    if extension.lower() not in images.EXTENSIONS:
        stem = name
    return os.path.join(*map(_safe_folder, folders), _safe_part(stem)) if stem else ""


def _safe_folder(name: str) -> str:
    folder = _safe_part(name)
    # A directory a.jpg would be in the way of a photo of this name.
    is_taken = folder == MASKS or folder.lower().endswith(images.EXTENSIONS)
    return f"{folder}_" if is_taken else folder
