"""Draws flowers with true masks, in the forms, kinds and names that users' files have."""

import os

import cv2
import numpy as np
from PIL import Image, ImageDraw

FORMS = ("label_map", "palette", "cutout", "alpha_over_black")
HEIC = bytes.fromhex("000000246674797068656963") + b"\0\0\0\0mif1heic" + b"\0" * 200


def flower(width=160, height=120, colour=(60, 20, 110), cx=0.5, cy=0.5, seed=0):
    """Returns a flower on green, uint8 [H, W, 3], and its true mask, bool [H, W]."""
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 1))
    image = Image.fromarray(np.clip(np.array([60, 110, 45]) + noise, 0, 255).astype(np.uint8))
    mask = Image.new("L", (width, height), 0)
    x, y, r = cx * width, cy * height, min(width, height) * 0.3
    for draw, fill, heart in (
        (ImageDraw.Draw(image), colour, (240, 210, 40)), (ImageDraw.Draw(mask), 255, 255),
    ):  # fmt: skip
        for petal in range(8):
            px, py = (
                x + np.cos(petal * np.pi / 4) * r * 0.6,
                y + np.sin(petal * np.pi / 4) * r * 0.6,
            )
            draw.ellipse([px - r * 0.42, py - r * 0.42, px + r * 0.42, py + r * 0.42], fill=fill)
        draw.ellipse([x - r * 0.3, y - r * 0.3, x + r * 0.3, y + r * 0.3], fill=heart)
    return np.asarray(image), np.asarray(mask) > 127


def border(mask):
    """Returns the pixels within two of the mask's outline, which annotators leave open."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    values = mask.astype(np.uint8)
    wide, narrow = (f(values, cross, iterations=2) for f in (cv2.dilate, cv2.erode))
    return (wide > 0) & (narrow == 0)


def labels(mask, label=1):
    """Returns a label map with a void border, uint8 [H, W]."""
    return np.where(border(mask), 255, mask * label).astype(np.uint8)


def voc_palette(indices):
    """Returns an image of mode P with the colours of Pascal VOC's first labels."""
    image = Image.fromarray(indices, "P")
    image.putpalette([0, 0, 0, 128, 0, 0] + [7 * i % 256 for i in range(2, 256) for _ in "rgb"])
    return image


def write_masks(out, count=3):
    """Writes photos, their masks as 0 and 255 in `true`, and the same truth in `FORMS`."""
    for form in ("photos", "true", *FORMS):
        (out / form).mkdir(parents=True, exist_ok=True)
    for k in range(count):
        image, inside = flower(cx=0.35 + 0.05 * k, seed=k)
        alpha = np.where(inside, 255, 0).astype(np.uint8)
        Image.fromarray(image).save(out / f"photos/{k}.jpg", quality=95)
        Image.fromarray(alpha).save(out / f"true/{k}.png")
        Image.fromarray(labels(inside)).save(out / f"label_map/{k}.png")
        voc_palette(labels(inside)).save(out / f"palette/{k}.png")
        Image.fromarray(np.dstack([image, alpha])).save(out / f"cutout/{k}.png")
        black = np.zeros_like(image)
        Image.fromarray(np.dstack([black, alpha])).save(out / f"alpha_over_black/{k}.png")


def write_kinds(out):
    """Writes one photo in the kinds of files that cameras, browsers and phones write."""
    out.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(flower(200, 150)[0])
    for name, options in (
        ("camera.jpg", {}), ("from_browser.jfif", {"format": "JPEG"}),
        ("x.jpe", {"format": "JPEG"}), ("new.avif", {"quality": 90}), ("scan.jp2", {}),
        ("png_named.JPG", {"format": "PNG"}),
    ):  # fmt: skip
        image.save(out / name, **options)
    (out / "IMG_0001.HEIC").write_bytes(HEIC)
    (out / "IMG_0002.jpg").write_bytes(HEIC)


def write_names(out):
    """Writes photos whose names collide, are too long, not UTF-8, or hold control characters."""
    out.mkdir(parents=True, exist_ok=True)
    sizes = {
        "a.jpg": (160, 120), "a.png": (120, 160), "a.jpg.png": (200, 100),
        "x" * 240 + ".jpg": (64, 48), "y" * 251 + ".jpg": (64, 48), "new\nline.jpg": (64, 48),
        "quote'\".jpg": (64, 48), "\x1b[31mred.jpg": (64, 48),
    }  # fmt: skip
    for name, size in sizes.items():
        Image.fromarray(flower(*size)[0]).save(out / name)
    with open(os.fsencode(out) + b"/caf\xe9.jpg", "wb") as file:
        Image.fromarray(flower(64, 48)[0]).save(file, "JPEG")
    return sizes | {os.fsdecode(b"caf\xe9.jpg"): (64, 48)}
