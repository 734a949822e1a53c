"""Trains the paper's encoder, which segments photos through a run's generator.

One encoder is trained on the run's own photos, or on --images. Writes RUN/encoder (a KerasHub
preset that every verb accepts as --segmenter), RUN/encoder_results.json and
RUN/encoder_reconstructions.png. Settings are those of the run; --set=encoder.FIELD=VALUE changes
them. `layerseg autoencode_chunks` trains an encoder per chunk of photos, as the paper does.

Example:
  layerseg autoencode --run_dir=RUN --set=encoder.iterations=20000
"""

import dataclasses
import os

from absl import flags

from layered_segmentation import files, quiet
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the trained run.", required=True)
_STAGE = shared.define_stage_flag()
_IMAGES = flags.DEFINE_string("images", "", "Directory of photos; the run's own if empty.")
_SET = flags.DEFINE_multi_string(
    "set", [], "An encoder setting, as in --set=encoder.iterations=500; may be repeated."
)
_LIMIT = flags.DEFINE_integer(
    "limit", 0, "Use only the first so many photos; 0 uses all, up to 10,000.", 0
)
_DEVICES, _LOGICAL_CPUS = app.define_device_flags()
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the run's encoder.")
shared.define_max_pixels_flag()

RESUME = "no encoder was written; run it again"
RESULTS, SHEET = "encoder_results.json", "encoder_reconstructions.png"
_SHOWN = 20  # photos on the sheet


def main(_: list[str]) -> None:
    """Trains one encoder."""
    run = shared.open_run(_RUN_DIR.value, _STAGE.value)
    config = run.config_with("encoder", _SET.value)
    if _IMAGES.value and not os.path.isdir(_IMAGES.value):
        raise UserError(f"--images={_IMAGES.value}: there is no such directory")
    if os.path.lexists(run.encoder) and not _OVERWRITE.value:
        raise UserError(
            f"--run_dir={run.path}: it already has an encoder ({run.encoder}); add --overwrite to "
            "replace it"
        )
    quiet.import_tensorflow(_LOGICAL_CPUS.value)
    from layered_segmentation import sheets
    from layered_segmentation.gan import networks
    from layered_segmentation.progress import Bar
    from layered_segmentation.segmenter import autoencoder, encode, model_card, presets

    autoencoder.require_mask(config.gan.variant)
    generator, discriminator = networks.load_generator(run), networks.load_discriminator(run)
    trainer = encode.EncoderTrainer(generator, discriminator, config, _DEVICES.value)
    side = config.gan.resolution
    if not _IMAGES.value:
        shared.note_changed_photos(run)
    photos = encode.dataset_photos(config, side, _IMAGES.value, _LIMIT.value)
    with run.lock():
        with Bar(config.encoder.iterations, "encoding", "step") as bar:
            summary = trainer.train(
                photos, config.data.mirror, tick=lambda note: bar.update(note=note)
            )
        segmenter = trainer.segmenter
        facts = {"iterations": config.encoder.iterations, "seed": config.train.seed}
        card = model_card.draft(config, side, segmenter.count_params(), facts)
        layers = segmenter.predict_layers(photos[:_SHOWN])
        sheet = sheets.reconstruction_sheet(photos[:_SHOWN], layers)
        results = {
            "mode": "dataset",
            **dataclasses.asdict(summary),
            "resolution": side,
            "seed": config.train.seed,
            "encoder": dataclasses.asdict(config.encoder),
        }
        written = [os.path.join(run.path, name) for name in (SHEET, RESULTS)]
        with files.undoing(run.encoder, *written):
            presets.save(segmenter, run.encoder, overwrite=_OVERWRITE.value, card=card)
            sheets.save_png(sheet, written[0])
            files.write_json(written[1], results)
    print(
        f"encoder of {summary.photos:,} photos, {summary.iterations:,} steps in "
        f"{summary.seconds:,.0f} s, {summary.images_per_second:,.1f} images/s; loss "
        f"{summary.first_loss:.3f} -> {summary.loss:.3f}"
    )
    print(f"segmenter: {run.encoder}, reconstructions: {SHEET}, results: {RESULTS}")
    print(app.next_step("segment", segmenter=run.encoder, input="PHOTOS", out="MASKS"))


if __name__ == "__main__":
    app.run(main)
