"""Pseudo-true masks: what a detector finds in photos nobody labelled (section 4.1).

The paper scores generated composites and LSUN cars against Mask R-CNN. Here a detector is a
directory of masks that any program wrote, a TensorFlow detection SavedModel, or one of our own
segmenters.
"""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from layered_segmentation import images as photos
from layered_segmentation.data import folder
from layered_segmentation.data.mask_folder import MaskFolder
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import detection_model
from layered_segmentation.images import Pair
from layered_segmentation.segmenter import presets

SAVED_MODEL, SEGMENTER, MASKS = "a SavedModel", "one of our segmenters", "a directory of masks"
LEAST_COVER = 0.01  # a smaller mask of a segmenter says that it found nothing

_THRESHOLD = 0.5


class Detector(Protocol):
    """Finds the things of one kind in photos.

    Attributes:
        protocol: What it is and how it decides, a sentence.
    """

    protocol: str

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Finds the object.

        Args:
            images: uint8 photos [H, W, 3] of any sizes.
            names: Their names.

        Returns:
            For each photo a bool [H, W], empty where nothing is found.
        """
        ...


class MaskFolderDetector:
    """Masks that some program wrote, looked up by the photos' names; 0 where nothing is found.

    Args:
        path: Directory of masks, each of its photo's size.
    """

    def __init__(self, path: str):
        self._masks = MaskFolder(path, "--detector")
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
    """One of our own segmenters; what covers less than 1 % of a photo at 0.5 is nothing.

    Args:
        path: Run or preset, as `models.segmenter.load` takes it.
    """

    def __init__(self, path: str):
        from layered_segmentation.segmenter import segmenter as segmenters

        try:
            self._segmenter = segmenters.load(path)
        except UserError as error:
            raise UserError(str(error).replace("--segmenter=", "--detector=")) from error
        self.protocol = (
            f"Pseudo truth: the segmenter {path}, masks at {_THRESHOLD}, found where they cover at "
            f"least {LEAST_COVER:.0%}. "
        )

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Segments the photos."""
        masks = [mask >= _THRESHOLD for mask in self._segmenter.predict_masks(list(images))]
        return [mask if mask.mean() >= LEAST_COVER else np.zeros_like(mask) for mask in masks]


class DetectedFolder(Sequence[Pair]):
    """The photos of a directory with a detector's masks as their truth; read one at a time.

    Args:
        images: Directory of photos; sub-directories named `masks` are left out.
        detector: Whose masks.

    Raises:
        UserError: There is no photo, or the detector has no mask for some.
    """

    def __init__(self, images: str, detector: Detector):
        self.files = folder.find_images(images, "--images", excluded=[folder.MASKS])
        self._images = images
        self._detector = detector
        if isinstance(detector, MaskFolderDetector):
            detector.require(self.files)

    def __len__(self) -> int:
        """Returns how many photos there are."""
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        """Reads one photo and finds its object; raises a UserError if it cannot be read."""
        name = self.files[index].replace(os.sep, "/")
        image = photos.read(os.path.join(self._images, self.files[index]))
        return Pair(name, image, self._detector([image], [name])[0], None)


def open_detector(
    path: str, class_id: int = detection_model.CAR, score: float = 0.5, instances: str = "union"
) -> Detector:
    """Opens a detector; what it is, the path tells.

    Args:
        path: A SavedModel's directory, a run or preset of ours, or a directory of masks.
        class_id: Of a SavedModel; see `detection_model.SavedModelDetector`.
        score: Of a SavedModel.
        instances: Of a SavedModel.

    Raises:
        UserError: It is none of them, or cannot be used.
    """
    kind = kind_of(path)
    if kind == MASKS:
        return MaskFolderDetector(path)
    if kind == SEGMENTER:
        return SegmenterDetector(path)
    return detection_model.SavedModelDetector(_saved_model(path), class_id, score, instances)


def kind_of(path: str) -> str:
    """Returns what a detector is, `SAVED_MODEL`, `SEGMENTER` or `MASKS`; loads nothing.

    Raises:
        UserError: It is none of them.
    """
    if "://" in path or (not os.path.isdir(path) and path in presets.names()):
        return SEGMENTER
    if not os.path.isdir(path):
        raise UserError(
            f"--detector={path}: there is no such directory; name a directory of masks, a "
            "TensorFlow SavedModel, or a run or preset"
        )
    if _saved_model(path):
        return SAVED_MODEL
    ours = ("task.json", "config.yaml", os.path.join("segmenter", "task.json"))
    if any(os.path.isfile(os.path.join(path, name)) for name in ours):
        return SEGMENTER
    if not photos.find(path):
        raise UserError(
            f"--detector={path}: neither a SavedModel (no saved_model.pb), nor a run or preset "
            "(no config.yaml, no task.json), nor a directory of masks (no images in it)"
        )
    return MASKS


def _saved_model(path: str) -> str:
    """Returns the directory of a SavedModel in or under a path, or an empty text."""
    for candidate in (path, os.path.join(path, "saved_model")):
        if os.path.isfile(os.path.join(candidate, "saved_model.pb")):
            return candidate
    return ""
