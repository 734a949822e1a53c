"""A TensorFlow detection SavedModel as a detector: its signature, boxes and instances."""

import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from layered_segmentation import paths
from layered_segmentation.choices import Instances
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import operators

CAR = 3  # COCO's class number in the Object Detection API

_THRESHOLD = 0.5
_BOXES, _SCORES, _CLASSES = "detection_boxes", "detection_scores", "detection_classes"
_REFRAMED, _MASKS = "detection_masks_reframed", "detection_masks"
# Beginnings of the lines of TensorFlow's errors that only locate the error in a graph.
_LOCATION = ("Graph execution error", "Detected at node", "<stack traces", "File ", "[[")
_SLACK = 0.5  # how far a normalised box may extend beyond the photo, in photo sides


class SavedModelDetector:
    """A TensorFlow detection SavedModel with masks, from the Object Detection API or TF Hub.

    The model maps uint8 [1, H, W, 3] to `detection_boxes` [1, N, 4] (ymin, xmin, ymax, xmax as
    fractions of the photo), `detection_scores` and `detection_classes` [1, N], and masks: either
    `detection_masks` [1, N, h, w], each over its box, or `detection_masks_reframed` [1, N, H, W].
    `detection_masks` of exactly the photo's size are used as masks of the photo.

    Args:
        path: Directory that holds saved_model.pb.
        class_id: The class, in the model's own numbers; COCO's car is 3.
        score: Minimum score of a detection, in [0, 1].
        instances: `union` uses all detections: a layer's mask does not separate instances, so
            covering a second car is not an error. `largest` uses only the one with most pixels.
        trust: Whether the model may run operators that reach files or the network.

    Raises:
        UserError: The model cannot be loaded, is not safe or has another signature.
    """

    def __init__(
        self,
        path: str,
        class_id: int = CAR,
        score: float = 0.5,
        instances: str = Instances.union,
        trust: bool = False,
    ):
        self._class, self._score, self._instances = class_id, score, instances
        self._path = path
        if not trust:
            operators.require_safe_saved_model(path, f"--detector={path}")
        self._model, self._run = _load_signature(path)
        self.protocol = (
            f"Pseudo truth: the detector {_name(path)}, class {class_id}, "
            f"score at least {score:g}, masks at {_THRESHOLD}, "
            f"{instances} of the instances. "
        )

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Runs the model on one photo after the other.

        Raises:
            UserError: The model fails on a photo, what it returns has other shapes, or its boxes
                cannot be used.
        """
        return [self._detect(image, name) for image, name in zip(images, names, strict=True)]

    def _detect(self, image: np.ndarray, name: str) -> np.ndarray:
        outputs = self._outputs(image, name)
        height, width = image.shape[:2]
        is_of_class = np.rint(outputs[_CLASSES]) == self._class
        kept = np.flatnonzero(is_of_class & (outputs[_SCORES] >= self._score))
        masks = np.asarray(outputs.get(_REFRAMED, outputs.get(_MASKS)), np.float32)[kept]
        boxes = outputs[_BOXES][kept]
        if masks.shape[1:] == (height, width):
            instances = masks >= _THRESHOLD
        else:
            self._check(boxes)
            instances = np.array(
                [paste(mask, box, height, width) for mask, box in zip(masks, boxes, strict=True)]
            )
        if not len(instances):
            return np.zeros((height, width), bool)
        if self._instances == Instances.largest:
            largest = np.argmax(instances.sum(axis=(1, 2)))
            instances = instances[largest : largest + 1]
        return np.asarray(np.logical_or.reduce(instances, axis=0))

    def _outputs(self, image: np.ndarray, name: str) -> dict[str, np.ndarray]:
        """Runs the model on one photo; returns arrays [N, …], only one of the two mask outputs."""
        import tensorflow as tf

        try:
            found = self._run(image[None])
        except tf.errors.OpError as error:
            height, width = image.shape[:2]
            raise UserError(
                f"--detector={self._path}: the model fails on {name} ({width} × {height} px): "
                f"{_reason(error)}; use a model that takes photos of any size, uint8 [1, H, W, 3]"
            ) from error
        masks = _REFRAMED if _REFRAMED in found else _MASKS
        arrays = {key: np.asarray(found[key]) for key in (_SCORES, _CLASSES, _BOXES, masks)}
        count = arrays[_SCORES].shape[1] if arrays[_SCORES].ndim == 2 else -1
        shapes = {_SCORES: "1, N", _CLASSES: "1, N", _BOXES: "1, N, 4", masks: "1, N, h, w"}
        fits = all(
            array.ndim == shapes[key].count(",") + 1
            and array.shape[:2] == (1, count)
            and array.dtype != object  # text
            for key, array in arrays.items()
        )
        if not fits or arrays[_BOXES].shape[2] != 4 or (count and 0 in arrays[masks].shape):
            received = (
                f"{key} {found[key].dtype.name} {list(arrays[key].shape)}" for key in shapes
            )
            needed = (f"{key} [{shape}]" for key, shape in shapes.items())
            raise UserError(
                f"--detector={self._path}: it returned {', '.join(received)}; numbers of "
                f"{', '.join(needed)} are needed, as the Object Detection API returns: one mask "
                "for each of N detections in a batch of one photo"
            )
        return {key: array[0] for key, array in arrays.items()}

    def _check(self, boxes: np.ndarray) -> None:
        if boxes.size and not (boxes.min() > -_SLACK and boxes.max() < 1 + _SLACK):
            raise UserError(
                f"--detector={self._path}: {_BOXES} range from {boxes.min():g} to "
                f"{boxes.max():g}; they must be fractions of the photo (ymin, xmin, ymax, xmax), "
                "as the Object Detection API returns them"
            )


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pastes a mask that covers a box into the photo and thresholds it.

    A pixel is in the box if its centre is. Its value is interpolated bilinearly between the
    centres of the mask's cells; the outermost values extend to the edge of the box.

    Args:
        mask: Float [h, w] in [0, 1] over the box.
        box: Float [4]: ymin, xmin, ymax, xmax, fractions of the photo.
        height: Height of the photo, pixels.
        width: Width of the photo, pixels.

    Returns:
        bool [height, width].
    """
    top, left, bottom, right = (float(value) for value in box)
    pasted = np.zeros((height, width), bool)
    if bottom <= top or right <= left:
        return pasted
    rows = ((np.arange(height) + 0.5) / height - top) / (bottom - top)
    columns = ((np.arange(width) + 0.5) / width - left) / (right - left)
    inside_rows, inside_columns = (rows >= 0) & (rows < 1), (columns >= 0) & (columns < 1)
    x, y = np.meshgrid(
        columns[inside_columns] * mask.shape[1] - 0.5, rows[inside_rows] * mask.shape[0] - 0.5
    )
    if x.size:
        values = cv2.remap(
            np.asarray(mask, np.float32), x.astype(np.float32), y.astype(np.float32),
            cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        pasted[np.ix_(inside_rows, inside_columns)] = values >= _THRESHOLD
    return pasted


def _name(path: str) -> str:
    """Returns the model's name; its exporter writes it to NAME/saved_model."""
    folder, last = os.path.split(os.path.abspath(path))
    return paths.name_of(folder) if last == "saved_model" else last


def _reason(error: Exception) -> str:
    """Returns the message of a TensorFlow error on one line, without its place in the graph."""
    lines = (line.strip() for line in str(error).splitlines())
    message = " ".join(line for line in lines if line and not line.startswith(_LOCATION))
    return message[:300] or type(error).__name__


def _load_signature(path: str) -> tuple[Any, Any]:
    """Loads a SavedModel and its detection signature, after checking inputs and outputs.

    Returns:
        The model, which must be kept for its variables, and a function of uint8 [1, H, W, 3].
    """
    import tensorflow as tf

    try:
        model = tf.saved_model.load(path)
    except (OSError, ValueError, tf.errors.OpError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--detector={path}: cannot be loaded as a SavedModel: {reason}") from error
    signatures = dict(model.signatures)
    signature = signatures.get("serving_default")
    if signature is None:
        names = ", ".join(sorted(signatures)) or "none"
        raise UserError(
            f"--detector={path}: no signature 'serving_default' (signatures: {names}); export the "
            "model with the Object Detection API's exporter"
        )
    inputs = signature.structured_input_signature[1]
    outputs = signature.structured_outputs
    lacking = [name for name in (_BOXES, _SCORES, _CLASSES) if name not in outputs]
    if _MASKS not in outputs and _REFRAMED not in outputs:
        lacking.append(_MASKS)
    if lacking:
        raise UserError(
            f"--detector={path}: its signature has no output {', '.join(lacking)} (outputs: "
            f"{', '.join(sorted(outputs))}); use an instance segmentation model, such as Mask "
            "R-CNN"
        )
    spec = next(iter(inputs.values()), None)
    fits = spec is not None and spec.dtype == tf.uint8 and spec.shape.rank in (None, 4)
    if len(inputs) != 1 or not fits:
        found = ", ".join(f"{name}: {one.dtype.name} {one.shape}" for name, one in inputs.items())
        raise UserError(
            f"--detector={path}: it takes {found or 'nothing'}; one input of uint8 [1, H, W, 3] is "
            "needed (exported with the input type image_tensor)"
        )
    name = next(iter(inputs))
    return model, lambda images: signature(**{name: tf.constant(images)})
