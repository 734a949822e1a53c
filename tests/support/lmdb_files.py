"""Writes LMDBs as LSUN's object archives are published: CATEGORY/data.mdb, also in a zip."""

import hashlib
import io
import os
import zipfile

import lmdb
import numpy as np
from PIL import Image


def photo(number, side=16, format="WEBP", mode="RGB"):
    """A small picture that differs from the others, as the bytes of a file."""
    rng = np.random.default_rng(number)
    image = Image.fromarray(rng.integers(0, 256, (side, side + 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    image.convert(mode).save(file, format=format)
    return file.getvalue()


def key(number):
    """Of 40 hexadecimal digits, so that the keys' order is not that of writing."""
    return hashlib.sha1(str(number).encode()).hexdigest()


def photos(count, **options):
    """Pictures by key, in the order of writing."""
    return {key(number): photo(number, **options) for number in range(count)}


def write(directory, values):
    """Writes values by key; returns the directory."""
    os.makedirs(directory)
    size = 2 * sum(map(len, values.values())) + (1 << 22)
    with (
        lmdb.open(str(directory), map_size=size) as environment,
        environment.begin(write=True) as transaction,
    ):
        for name, value in values.items():
            transaction.put(name.encode(), value)
    return directory


def zip_directory(directory, archive):
    """Packs a directory under its own name, as `car/data.mdb` in `car.zip`; returns the archive."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.mkdir(os.path.basename(directory))
        for name in sorted(os.listdir(directory)):
            file.write(os.path.join(directory, name), f"{os.path.basename(directory)}/{name}")
    return archive
