"""Sheets of examples: the best, median and worst by score, or photos of a directory."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from layered_segmentation import images as photos
from layered_segmentation import sheets
from layered_segmentation.data.source import Pair
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import scoring


def ranked(scores: scoring.Scores, count: int) -> dict[str, list[int]]:
    """Returns the indices of `best`, `median` and `worst`, at most `count` each."""
    order = scores.ranked()
    count = min(count, len(order))
    middle = (len(order) - count) // 2
    return {
        "best": order[::-1][:count],
        "median": order[middle : middle + count],
        "worst": order[:count],
    }


def scored_sheet(
    predict: scoring.Predict,
    pairs: Sequence[Pair],
    scores: scoring.Scores,
    indices: Sequence[int],
    columns: int,
    label: str = "photo",
) -> sheets.Sheet:
    """Shows scored pairs with their IoU; masks are refined if the scores are.

    Args:
        predict: As for `scoring.score`.
        pairs: Photos and masks.
        scores: Their scores.
        indices: Indices of the pairs to show.
        columns: Photos in a band.
        label: Of the row of photos.
    """
    shown = [pairs[index] for index in indices]
    images = [pair.image for pair in shown]
    masks = predict(images)
    if scores.refine != "none":
        masks = [
            scoring.binary(image, mask, scores.refine)
            for image, mask in zip(images, masks, strict=True)
        ]
    ious = [scores.rows[index].iou for index in indices]
    labels = (label, *sheets.LABELS[1:])
    return sheets.segmentation_sheet(
        images, [pair.mask for pair in shown], masks, ious, columns, labels
    )


def overview_sheet(
    predict: scoring.PredictPairs, pairs: Sequence[Pair], scores: scoring.Scores, count: int
) -> sheets.Sheet:
    """Shows the best, median and worst pairs, `count` of each, in one band each.

    Pairs with an empty true mask are left out, unless there are no others: their IoU is 0 or 1, and
    the sheet would show only these.

    Args:
        predict: As for `scoring.score_pairs`.
        pairs: Photos and masks; only those shown are read.
        scores: Their scores.
        count: Photos in a band.
    """
    found = [index for index, row in enumerate(scores.rows) if row.found]
    found = found or list(range(scores.images))
    rows = [scores.rows[index] for index in found]
    parts = ranked(dataclasses.replace(scores, rows=rows), count).values()
    chosen = list(dict.fromkeys(found[place] for part in parts for place in part))
    shown = [pairs[index] for index in chosen]
    shown_scores = dataclasses.replace(scores, rows=[scores.rows[index] for index in chosen])
    columns = min(count, len(shown))
    return scored_sheet(lambda _: predict(shown), shown, shown_scores, range(len(shown)), columns)


def photo_sheet(
    predict: scoring.Predict, directory: str, names: Sequence[str], count: int, columns: int
) -> sheets.Sheet:
    """Shows photos spaced evenly over a directory; those that cannot be read are left out.

    Args:
        predict: As for `scoring.score`.
        directory: Directory of the photos.
        names: Paths of the photos relative to `directory`.
        count: Number of photos.
        columns: Photos in a band.

    Raises:
        UserError: None of them can be read.
    """
    images = read_spaced(directory, names, count)
    if not images:
        raise UserError(f"{directory}: none of {count} photos can be read as an image")
    return sheets.segmentation_sheet(images, None, predict(images), columns=columns)


def read_spaced(directory: str, names: Sequence[str], count: int) -> list[np.ndarray]:
    """Reads at most `count` photos, spaced evenly over `names`; leaves out unreadable ones."""
    images = []
    for index in np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int)):
        with contextlib.suppress(photos.UnreadableImage):
            images.append(photos.read(os.path.join(directory, names[index])))
    return images
