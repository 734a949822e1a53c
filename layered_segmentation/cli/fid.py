"""Measures the FID between generated composites and real images (table 3).

Composites are unshifted; real images are the run's photos, or those of --images, each once. The
Inception network is read from a local file. Only FIDs of the same network and the same number of
images are comparable.

Writes results.json to --out, by default RUN/evaluation_fid, where `layerseg table` finds it.

Example:
  layerseg fid --run_dir=RUN --inception=classify_image_graph_def.pb
"""

import os

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app, shared
from layered_segmentation.cli.shared import RESULTS

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the trained run.", required=True)
_STAGE = shared.define_stage_flag()
_COUNT = flags.DEFINE_integer(
    "count", 10_000, "Number of composites, and the most real images to use.", 2
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the composites.", 0, 2**31 - 1)
_IMAGES = flags.DEFINE_string("images", "", "Directory of real images; the run's own if empty.")
_INCEPTION = flags.DEFINE_string(
    "inception",
    "",
    "Feature network: classify_image_graph_def.pb, or weights of Keras's InceptionV3.",
)
_TRUST = shared.define_trust_flag("--inception")
_OUT = flags.DEFINE_string("out", "", "Directory to write to; RUN/evaluation_fid if empty.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the results in --out.")
shared.define_max_pixels_flag()


def main(_: list[str]) -> None:
    """Measures one run."""
    run = shared.open_run(_RUN_DIR.value, _STAGE.value)
    out = _OUT.value or os.path.join(run.path, "evaluation_fid")
    shared.require_free(out, [RESULTS], _OVERWRITE.value)

    quiet.import_tensorflow()
    from layered_segmentation.evaluation import fid, inception
    from layered_segmentation.evaluation.generated import GeneratedScenes
    from layered_segmentation.gan import networks
    from layered_segmentation.progress import Bar

    scenes = GeneratedScenes(networks.load_generator(run), _SEED.value)
    features = inception.open_features(_INCEPTION.value, _TRUST.value)
    if not _IMAGES.value:
        shared.note_changed_photos(run)
    real = fid.RealImages(run.config(), _COUNT.value, _IMAGES.value)
    with Bar(_COUNT.value + len(real), "features", "image") as bar:
        measured = fid.measure(
            features,
            scenes.images(_COUNT.value, fid.BATCH),
            real.batches(fid.BATCH),
            progress=bar.update,
        )
    protocol = fid.PROTOCOL + features.protocol
    settings = app.settings(main)
    shared.write_results(
        out,
        {
            **measured.to_results(),
            "resolution": scenes.generator.resolution,
            "protocol": protocol,
            "settings": settings,
        },
    )
    print(
        f"FID {measured.value:.2f} ({measured.features}), {measured.images:,} composites against "
        f"{measured.real_images:,} real images"
    )
    if measured.warning:
        print(f"warning: {measured.warning}")
    print(f"results: {os.path.join(out, RESULTS)}")


if __name__ == "__main__":
    app.run(main)
