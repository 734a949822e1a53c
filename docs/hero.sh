#!/usr/bin/env bash
# Makes docs/hero.jpg again: a photo, its mask, and two cut-outs, by the packaged segmenter.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

layerseg segment examples/photos/flower.jpg --out="$work/plain"
layerseg segment examples/photos/flower.jpg --out="$work/white" --only=cutout --background=white
layerseg segment examples/photos/flower.jpg --out="$work/blur" --only=cutout --background=blur
python - "$work" <<'END'
import sys

from PIL import Image

names = ("plain/flower.mask.png", "white/flower.cutout.png", "blur/flower.cutout.png")
paths = ["examples/photos/flower.jpg", *(f"{sys.argv[1]}/{name}" for name in names)]
width, height, gap = 360, 240, 8
picture = Image.new("RGB", (4 * width + 3 * gap, height), "white")
for column, path in enumerate(paths):
    tile = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    picture.paste(tile, (column * (width + gap), 0))
picture.save("docs/hero.jpg", quality=88, optimize=True)
END
