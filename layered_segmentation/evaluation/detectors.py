"""Pseudo-true masks: what a detector finds in unlabelled photos (section 4.1).

The paper scores generated composites and LSUN cars against Mask R-CNN. Here a detector is a
directory of masks that any program wrote, a TensorFlow detection SavedModel, or a segmenter of this
package. For the procedural scenes, `train_grey` trains one.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from layered_segmentation import images as photos
from layered_segmentation import paths
from layered_segmentation.config import StudentConfig
from layered_segmentation.data import folder
from layered_segmentation.data.folder import MaskFolder
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.data.source import Pair
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import detection_model
from layered_segmentation.segmenter import preset_files

if TYPE_CHECKING:
    from layered_segmentation.segmenter.segmenter import LayeredSegmenter

SAVED_MODEL, SEGMENTER, MASKS = "a SavedModel", "a segmenter", "a directory of masks"
GREY_SEED = 1_000_003  # of no run, so that no scene is shared with a run's training
LEAST_COVER = 0.01  # share of the photo below which a segmenter's mask counts as nothing found

_THRESHOLD = 0.5
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB (ITU-R BT.601)


class Detector(Protocol):
    """Finds the objects of one class in photos.

    Attributes:
        protocol: A sentence that describes the detector and its criteria.
    """

    protocol: str

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Returns the object in each uint8 photo [H, W, 3]: bool [H, W], empty if there is none."""
        ...


class MaskFolderDetector:
    """Masks that another program wrote, found by the photos' names; 0 where nothing is found.

    Args:
        path: Directory of masks, each of its photo's size.
        values: Stored values of the object, if these are label maps.
    """

    def __init__(self, path: str, values: Sequence[int] = ()):
        self._masks = MaskFolder(path, "--detector", values)
        self.protocol = "Pseudo truth: a directory of masks. "

    def require(self, names: Sequence[str]) -> None:
        """Raises a UserError if some photos have no mask."""
        self._masks.require(names)

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Reads the masks; raises a UserError if one is missing or not of its photo's size."""
        found = [self._masks.read(name) for name in names]
        for image, mask, name in zip(images, found, names, strict=True):
            if mask.shape != image.shape[:2]:
                raise UserError(
                    f"--detector={self._masks.path}: the mask of {name} is {mask.shape[1]} × "
                    f"{mask.shape[0]} pixels, the photo {image.shape[1]} × {image.shape[0]}; "
                    "a mask must have its photo's size"
                )
        return found


class SegmenterDetector:
    """A segmenter of this package; a mask that covers less than 1 % of a photo counts as nothing.

    Args:
        path: Run or preset, as for `presets.load`.
    """

    def __init__(self, path: str):
        from layered_segmentation.segmenter import presets

        self._segmenter = presets.load(path, flag="--detector")
        self.protocol = (
            f"Pseudo truth: the segmenter {paths.name_of(path)}, masks at "
            f"{_THRESHOLD}, found where they cover at least {LEAST_COVER:.0%}. "
        )

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Segments the photos."""
        masks = [mask >= _THRESHOLD for mask in self._segmenter.predict_masks(list(images))]
        return [mask if mask.mean() >= LEAST_COVER else np.zeros_like(mask) for mask in masks]


class DetectedFolder(Sequence[Pair]):
    """The photos of a directory with a detector's masks as true masks; read one at a time.

    Sub-directories named `masks` are left out.

    Raises:
        UserError: There is no photo, or the detector has no mask for some.
    """

    def __init__(self, images: str, detector: Detector):
        self.files = folder.find_photos(images, "--images")
        self._images = images
        self._detector = detector
        if isinstance(detector, MaskFolderDetector):
            detector.require(self.files)

    def __len__(self) -> int:
        """Returns the number of photos."""
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        """Reads one photo and finds its object; raises a UserError if it cannot be read."""
        name = self.files[index].replace(os.sep, "/")
        image = photos.read(os.path.join(self._images, self.files[index]))
        return Pair(name, image, self._detector([image], [name])[0], None)


def open_detector(path: str, values: Sequence[int] = (), **options: Any) -> Detector:
    """Opens a detector of the kind that its path indicates.

    Args:
        path: A directory with a SavedModel, a run or preset of this package, or a directory of
            masks.
        values: For a directory of masks: stored values of the object, if these are label maps.
        **options: For a SavedModel, those of `detection_model.SavedModelDetector`.

    Raises:
        UserError: The path is none of them, or cannot be used.
    """
    kind = kind_of(path)
    if kind == MASKS:
        return MaskFolderDetector(path, values)
    if kind == SEGMENTER:
        return SegmenterDetector(path)
    return detection_model.SavedModelDetector(_saved_model(path), **options)


def kind_of(path: str) -> str:
    """Returns the kind of a detector, `SAVED_MODEL`, `SEGMENTER` or `MASKS`; loads nothing.

    Raises:
        UserError: The path is none of them.
    """
    if "://" in path or (not os.path.isdir(path) and path in preset_files.names()):
        return SEGMENTER
    if not os.path.isdir(path):
        raise UserError(
            f"--detector={path}: there is no such directory; name a directory of masks, a "
            "TensorFlow SavedModel, or a run or preset"
        )
    if _saved_model(path):
        return SAVED_MODEL
    markers = ("task.json", "config.yaml", os.path.join("segmenter", "task.json"))
    if any(os.path.isfile(os.path.join(path, name)) for name in markers):
        return SEGMENTER
    if not photos.search(path).images:
        raise UserError(
            f"--detector={path}: neither a SavedModel (no saved_model.pb), nor a run or preset "
            "(no config.yaml, no task.json), nor a directory of masks (no images in it)"
        )
    return MASKS


def _saved_model(path: str) -> str:
    """Returns the directory of a SavedModel in or under a path, or an empty string."""
    for candidate in (path, os.path.join(path, "saved_model")):
        if os.path.isfile(os.path.join(candidate, "saved_model.pb")):
            return candidate
    return ""


def train_grey(resolution: int, steps: int, scenes: int, width: int = 24) -> "LayeredSegmenter":
    """Trains a detector for generated procedural scenes that sees no colour.

    Table 1 scores generated masks with a detector that was trained elsewhere, with labels. For the
    procedural scenes, one is trained on other scenes and their true masks. It sees luminance only,
    so it has to find objects by outline and texture and cannot repeat a mask that merely follows
    the palette. It is used for scoring alone; nothing that is scored ever sees it.

    Args:
        resolution: Side of the scenes, pixels.
        steps: Training steps, of 64 scenes each.
        scenes: Number of scenes to learn from.
        width: Channels of its first level.

    Returns:
        A segmenter of RGB photos whose output depends on their luminance alone.
    """
    from layered_segmentation.segmenter import fit
    from layered_segmentation.segmenter.segmenter import create_segmenter

    images, masks = Scenes(GREY_SEED, scenes).load_pairs(resolution)
    pool = fit.Pool.from_pairs(to_grey(images), masks)
    detector = create_segmenter(width, resolution)
    fit.initialise(detector, GREY_SEED)
    settings = StudentConfig(width=width, steps=steps, augment=0.0)
    fit.fit(detector, pool, settings, GREY_SEED)
    fold_grey(detector)
    return detector


def to_grey(images: np.ndarray) -> np.ndarray:
    """Returns uint8 [..., 3] RGB with each pixel's three values replaced by its luminance."""
    grey = np.rint(images.astype(np.float32) @ _LUMINANCE)
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)


def fold_grey(segmenter: "LayeredSegmenter") -> None:
    """Folds the conversion to grey into the first convolution of a student, in place.

    The output on grey images does not change; on coloured ones it becomes that of their luminance.
    """
    first = next(layer for layer in segmenter.backbone.layers if hasattr(layer, "kernel"))
    kernel = np.asarray(first.kernel).sum(axis=2, keepdims=True)
    first.kernel.assign(kernel * _LUMINANCE[:, None])
