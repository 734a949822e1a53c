"""Writes CUB-200-2011 as it is published, small: the tables, photos, segmentations, archives."""

import os
import tarfile

import numpy as np
from PIL import Image

from layered_segmentation.data.prepare import cub

COUNT = 10
TRAIN = (2, 4, 5, 8, 9)  # of the published split; the rest is to test


def classes():
    return cub.CLASSES_FILE.read_text().split()


def name(number):
    """A photo's file: two of each class."""
    label = classes()[(number - 1) // 2]
    return f"{label}/{label[4:]}_{number:04}_{796000 + number}.jpg"


def levels(number):
    """An annotators' mask, its levels fifths of 255."""
    height, width = 20 + number, 30 - number
    mask = np.zeros((height, width), np.uint8)
    for step in range(1, 6):
        mask[3 + step : -step, 2 + step : -step] = 51 * step
    return mask


def write(root, count=COUNT):
    """Writes the tree; returns the directory that holds CUB_200_2011 and segmentations."""
    tables = {"classes.txt": [f"{i} {name}" for i, name in enumerate(classes(), start=1)]}
    numbers = range(1, count + 1)
    tables["images.txt"] = [f"{n} {name(n)}" for n in numbers]
    tables["image_class_labels.txt"] = [f"{n} {(n - 1) // 2 + 1}" for n in numbers]
    tables["bounding_boxes.txt"] = [f"{n} 3.0 4.0 12.0 10.0" for n in numbers]
    tables["train_test_split.txt"] = [f"{n} {int(n in TRAIN)}" for n in numbers]
    os.makedirs(root / "CUB_200_2011")
    for table, lines in tables.items():
        (root / "CUB_200_2011" / table).write_text("".join(f"{line}\n" for line in lines))
    for number in numbers:
        mask = levels(number)
        photo = root / "CUB_200_2011" / "images" / name(number)
        segmentation = root / "segmentations" / name(number).replace(".jpg", ".png")
        for path in (photo, segmentation):
            path.parent.mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(number).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
        # Some of the published photos are grey, some of the masks have several channels.
        Image.fromarray(picture).convert("L" if number == 3 else "RGB").save(photo)
        Image.fromarray(mask).convert("RGBA" if number == 4 else "L").save(segmentation)
    return root


def pack(root, target):
    """Packs the tree into the two archives."""
    target.mkdir(exist_ok=True)
    for folder in ("CUB_200_2011", "segmentations"):
        with tarfile.open(target / f"{folder}.tgz", "w:gz") as file:
            file.add(root / folder, folder)
    return target
