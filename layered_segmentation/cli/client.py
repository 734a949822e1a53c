"""Segments photos on a model server and writes masks and cut-outs.

The server is TensorFlow Serving with a SavedModel of `layerseg export`, over gRPC or REST. For
every photo NAME.jpg: NAME.mask.png (0 and 255) and NAME.cutout.png (the object with a soft edge,
transparent around it), as `layerseg segment --refine=none --edges=mask` writes them without a
server. JPEG and PNG files are sent unchanged; photos that the server could not read or would not
turn upright (WebP, TIFF, CMYK, EXIF orientation) are sent as PNG.

`python -m layered_segmentation.export.client` is the same program.

Example:
  layerseg client --input=PHOTOS --out=MASKS --server=localhost:8500 --model=layerseg
"""

import time

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

RESUME = "the masks written so far are complete; run it again with --overwrite"

_INPUT = flags.DEFINE_string("input", None, "A photo, or a directory of photos.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory to write to.", required=True)
_PROTOCOL = flags.DEFINE_enum("protocol", "grpc", ["grpc", "rest"], "Protocol of the requests.")
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
_TIMEOUT = flags.DEFINE_float(
    "timeout", 10.0, "Seconds an attempt may take, to the last byte.", lower_bound=0.01
)
_RETRIES = flags.DEFINE_integer(
    "retries", 4, "Further attempts if the server is unavailable.", lower_bound=0
)
_TLS = flags.DEFINE_bool("tls", False, "Encrypt, and check the server's certificate.")
_TLS_CA = flags.DEFINE_string(
    "tls_ca", "", "PEM file of the authorities to trust; the system's if empty."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace existing masks and cut-outs.")
shared.define_max_pixels_flag()
app.goes_with(_TLS_CA, _TLS)


def main(_: list[str]) -> int:
    """Segments one photo or a directory of them."""
    if _PROTOCOL.value == "grpc":
        quiet.import_tensorflow()
    from layered_segmentation.export import client

    server = client.server_address(_SERVER.value, _PROTOCOL.value)
    model = client.Model(
        server,
        _MODEL.value,
        _VERSION.value,
        _TIMEOUT.value,
        _RETRIES.value,
        tls=_TLS.value,
        certificates=_TLS_CA.value,
    )
    start = time.perf_counter()
    predict = client.connect(_PROTOCOL.value, model)
    done, failed = client.segment(
        predict, _INPUT.value, _OUT.value, _THRESHOLD.value, _BATCH.value, _OVERWRITE.value
    )
    if not done:
        raise UserError(f"--input={_INPUT.value}: no photo was segmented; the first: {failed[0]}")
    seconds = time.perf_counter() - start
    print(f"{done:,} masks and cut-outs in {_OUT.value}, {done / seconds:,.1f} images/s")
    return shared.print_skipped(failed, why="")


if __name__ == "__main__":
    app.run(main)
