"""Segments photos on a model server, by gRPC or REST, and writes masks and cut-outs.

For every photo NAME.jpg: NAME.mask.png (0 and 255) and NAME.cutout.png (the object with a soft
edge, transparent around it), as `layerseg segment` does, which needs no server. JPEG and PNG files
go to the server as they are; what it could not read or would turn otherwise (WebP, TIFF, CMYK,
EXIF's orientation) goes as PNG.

Example:
  python -m layered_segmentation.export.client --input=PHOTOS --out=MASKS \
      --server=localhost:8500 --model=layerseg
"""

import os
import sys
import time

import numpy as np
from absl import flags

from layered_segmentation.cli import app
from layered_segmentation.errors import UserError
from layered_segmentation.export import connections
from layered_segmentation.segmenter import outputs

RESUME = "the masks written so far are whole; run it again with --overwrite"

_NOT_TURNED = (None, 1)  # EXIF's orientation
_ORIENTATION = 0x0112


def segment(
    predict: connections.Predict,
    path: str,
    out: str,
    threshold: float = 0.5,
    batch: int = 8,
    overwrite: bool = False,
) -> tuple[int, list[str]]:
    """Segments one photo or a directory of them.

    Args:
        predict: Of `connections.connect`.
        path: A photo, or a directory of photos.
        out: Directory to write to.
        threshold: Probability from which a pixel counts as the object.
        batch: Photos in a request.
        overwrite: Whether masks and cut-outs that exist are replaced.

    Returns:
        How many were segmented, and what is wrong with those that were not.

    Raises:
        UserError: The server does not answer or does not know the model, or as of
            `outputs.find_photos` and `outputs.require_free`.
    """
    from layered_segmentation.progress import Bar

    outputs.require_threshold(threshold)
    root, names = outputs.find_photos(path, out)
    paths = outputs.name_outputs(names, out)
    if not overwrite:
        outputs.require_free(paths.values())
    done, failed = 0, []
    with Bar(len(names), "segmenting", "photo") as bar:
        for first in range(0, len(names), batch):
            chunk = names[first : first + batch]
            masks, errors = _segment_batch(predict, [os.path.join(root, name) for name in chunk])
            failed += errors
            for name in chunk:
                if (found := masks.get(os.path.join(root, name))) is not None:
                    image, mask = found
                    outputs.write(paths[name], image, mask, threshold)
                    done += 1
            bar.update(len(chunk))
    return done, failed


def _segment_batch(predict: connections.Predict, paths: list[str]) -> tuple[dict, list[str]]:
    """Returns {path: (image, mask at the image's size)}, and what is wrong with the others."""
    import cv2

    from layered_segmentation import images as photos

    images, failed = {}, []
    for path in paths:
        try:
            images[path] = photos.read(path)
        except photos.UnreadableImage as error:
            failed.append(str(error))
    if not images:
        return {}, failed
    encoded = [_encoded(path, image) for path, image in images.items()]
    try:
        small = predict(encoded)
    except connections.Refused as error:
        if len(images) == 1:
            return {}, [*failed, f"{next(iter(images))}: {error}"]
        found: dict = {}  # one of them is to blame
        for path in images:
            masks, errors = _segment_batch(predict, [path])
            found |= masks
            failed += errors
        return found, failed
    found = {}
    for (path, image), mask in zip(images.items(), small, strict=True):
        height, width = image.shape[:2]
        large = cv2.resize(mask[..., 0], (width, height), interpolation=cv2.INTER_LINEAR)
        found[path] = image, np.clip(large, 0, 1)
    return found, failed


def _encoded(path: str, image: np.ndarray) -> bytes:
    """Returns a file as it is, where the server reads the same from it, or else as PNG."""
    import cv2
    from PIL import Image

    with Image.open(path) as header:
        is_plain = header.format in ("JPEG", "PNG") and header.mode in ("RGB", "L")
        if is_plain and header.getexif().get(_ORIENTATION) in _NOT_TURNED:
            with open(path, "rb") as file:
                return file.read()
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def _server(address: str, protocol: str) -> str:
    if not address:
        return f"localhost:{connections.PORTS[protocol]}"
    if "://" in address or "/" in address:
        raise UserError(f"--server={address}: name it as HOST:PORT, without a scheme or a path")
    if ":" not in address:
        return f"{address}:{connections.PORTS[protocol]}"
    return address


if __name__ == "__main__":
    # Flags are defined only where the script runs: two scripts may be imported side by side.
    _INPUT = flags.DEFINE_string("input", None, "A photo, or a directory of photos.", required=True)
    _OUT = flags.DEFINE_string("out", None, "Directory to write to.", required=True)
    _PROTOCOL = flags.DEFINE_enum("protocol", "grpc", ["grpc", "rest"], "How to talk to it.")
    _SERVER = flags.DEFINE_string(
        "server", "", "HOST:PORT of the server; localhost and the protocol's port if empty."
    )
    _MODEL = flags.DEFINE_string("model", "layerseg", "The model's name on the server.")
    _VERSION = flags.DEFINE_integer(
        "version", 0, "The model's version; the newest if 0.", lower_bound=0
    )
    _THRESHOLD = flags.DEFINE_float(
        "threshold", 0.5, "Probability from which a pixel counts as the object.", 0.0, 1.0
    )
    _BATCH = flags.DEFINE_integer("batch", 8, "Photos in a request.", lower_bound=1)
    _TIMEOUT = flags.DEFINE_float("timeout", 10.0, "Seconds an attempt may take.", lower_bound=0.01)
    _RETRIES = flags.DEFINE_integer(
        "retries", 4, "How many times a server that is away is asked again.", lower_bound=0
    )
    _OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace masks and cut-outs that exist.")

    def main(argv: list[str]) -> int:
        """Segments photos."""
        del argv
        server = _server(_SERVER.value, _PROTOCOL.value)
        model = connections.Model(
            server, _MODEL.value, _VERSION.value, _TIMEOUT.value, _RETRIES.value
        )
        start = time.perf_counter()
        predict = connections.connect(_PROTOCOL.value, model)
        done, failed = segment(
            predict, _INPUT.value, _OUT.value, _THRESHOLD.value, _BATCH.value, _OVERWRITE.value
        )
        if not done:
            raise UserError(
                f"--input={_INPUT.value}: no photo was segmented; the first: {failed[0]}"
            )
        seconds = time.perf_counter() - start
        print(f"{done:,} masks and cut-outs in {_OUT.value}, {done / seconds:,.1f} images/s")
        if failed:
            print(f"skipped {len(failed):,}:", file=sys.stderr)
            print("\n".join(f"  {message}" for message in failed), file=sys.stderr)
            return 1
        return 0

    app.run(main)
