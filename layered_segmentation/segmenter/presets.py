"""Saves and loads trained segmenters as KerasHub presets."""

import os

import keras_hub

from layered_segmentation import files
from layered_segmentation.errors import UserError
from layered_segmentation.segmenter import preset_checks, preset_files
from layered_segmentation.segmenter.domain import Domain
from layered_segmentation.segmenter.segmenter import LayeredSegmenter


def save(
    segmenter: LayeredSegmenter,
    directory: str,
    overwrite: bool = False,
    card: str = "",
    tflite: bool = False,
    float16: bool = False,
    statistics: Domain | None = None,
) -> None:
    """Writes a preset. The directory appears only when it is complete.

    Args:
        segmenter: The segmenter to write.
        directory: Where to write it.
        overwrite: Whether to replace an existing preset. If its model card was edited, the card is
            kept as README.old.md.
        card: The model card; empty for none.
        tflite: Whether to write its TFLite file too.
        float16: Whether to round the segmenter's weights to 16 bits and to store them so.
        statistics: Of the training photos, for warnings about photos that are unlike them.

    Raises:
        UserError: The directory exists and `overwrite` is off.
    """
    if os.path.lexists(directory) and not overwrite:
        raise UserError(f"{directory}: already exists; remove it or add --overwrite")
    with files.replacing_directory(directory) as partial:
        segmenter.save_to_preset(partial, tflite=tflite, float16=float16)
        if card:
            preset_files.write_card(partial, card)
        if statistics is not None:
            statistics.save(partial)
        preset_files.keep_edited_card(directory, partial)


def load_background_student(path: str) -> LayeredSegmenter:
    """Loads the segmenter of `gan.background_student`.

    Args:
        path: As for `load`.

    Raises:
        UserError: As of `load`.
    """
    field = "gan.background_student"
    try:
        return load(path, field)
    except UserError as error:
        message = str(error).removeprefix(f"{field}={path}: ")
        raise UserError(
            f"{field}={path}: {message}. Name a run with a student, the directory of a preset or a "
            "packaged preset. A run trains with the same student to its end: if the student has "
            "moved, bring it back"
        ) from error


def load(path: str, flag: str = "--segmenter") -> LayeredSegmenter:
    """Loads a segmenter.

    Args:
        path: A run directory (its segmenter/ is loaded), a preset directory, the name of a packaged
            preset (`preset_files.names()`), or a URL `hf://…` or `kaggle://…`. If a directory has
            the name of a packaged preset, the directory is loaded.
        flag: The command-line flag that gave the path, for error messages.

    Raises:
        UserError: Nothing is there, it is not a `LayeredSegmenter`, a file was changed after it
            was saved, or its sizes or weights cannot be right.
    """
    preset = path
    if "://" not in path:
        preset = preset_files.find(path, flag)
        if preset in preset_files.names():
            preset = os.path.join(os.curdir, preset)  # else KerasHub loads the packaged one
    try:
        preset_checks.check(preset, f"{flag}={path}")
        segmenter = keras_hub.models.ImageSegmenter.from_preset(preset)
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{flag}={path}: {preset} cannot be loaded: {reason}") from error
    if not isinstance(segmenter, LayeredSegmenter):
        raise UserError(f"{flag}={path}: is a {type(segmenter).__name__}, not a LayeredSegmenter")
    return segmenter
