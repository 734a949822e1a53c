"""Trains the paper's encoder, which segments photos through a run's generator.

--mode=dataset trains one encoder on the run's own photos (or --images) and writes RUN/encoder (a
KerasHub preset that every verb takes as --segmenter), RUN/encoder_results.json and
RUN/encoder_reconstructions.png. --mode=chunks is the paper's protocol: an encoder for each chunk of
encoder.chunk photos, its masks at the photos' own size in OUT/masks, sheets in
OUT/reconstructions, OUT/results.json; encoder.together of them train at once. Without --images, a
run on procedural scenes takes its held-out ones and writes them to OUT/images and OUT/true_masks.
Chunks that are finished are not trained again, as long as settings and photos (their directory,
names, sizes and times of change) are the same; others are refused.
The encoder's settings are the run's; --set=encoder.FIELD=VALUE changes them.

Example:
  layerseg autoencode --run_dir=RUN --mode=chunks --images=PHOTOS --out=OUT
"""

import collections
import dataclasses
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from absl import flags

from layered_segmentation import config as configs
from layered_segmentation import quiet
from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.run_directory import RunDirectory
    from layered_segmentation.segmenter.chunks import ChunkJob
    from layered_segmentation.segmenter.encode import EncoderTrainer

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the trained run.", required=True)
_MODE = flags.DEFINE_enum(
    "mode", "dataset", ["dataset", "chunks"], "One encoder for all photos, or one for each chunk."
)
_IMAGES = flags.DEFINE_string("images", "", "Directory of photos; the run's own if empty.")
_OUT = flags.DEFINE_string("out", "", "Directory to write to, with --mode=chunks.")
_SET = flags.DEFINE_multi_string(
    "set", [], "An encoder setting, as in --set=encoder.iterations=500; may be repeated."
)
_LIMIT = flags.DEFINE_integer(
    "limit", 0, "Take only the first so many photos; 0 takes all (a dataset: up to 10,000).", 0
)
_SAVE_ENCODERS = flags.DEFINE_bool(
    "save_encoders", False, "Keep each chunk's preset, in OUT/encoders."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace the run's encoder, or train finished chunks again."
)

RESUME = "finished chunks are kept and the same command goes on; no dataset's encoder was written"
RESULTS, SHEET = "encoder_results.json", "encoder_reconstructions.png"
_SHOWN = 20  # photos on the data set's sheet


def main(argv: list[str]) -> int:
    """Trains one encoder, or one for each chunk."""
    del argv
    from layered_segmentation import run_directory

    run = run_directory.RunDirectory.open(_RUN_DIR.value)
    config = run.config_with("encoder", _SET.value)
    if _IMAGES.value and not os.path.isdir(_IMAGES.value):
        raise UserError(f"--images={_IMAGES.value}: there is no such directory")
    quiet.import_tensorflow()
    from layered_segmentation.segmenter import encode

    encode.require_mask(config.gan.variant)
    if _MODE.value == "dataset":
        return _dataset(run, config)
    return _chunks(run, config)


def _dataset(run: "RunDirectory", config: configs.Config) -> int:
    for flag in (_OUT, _SAVE_ENCODERS):
        if flag.value:
            raise UserError(f"--{flag.name} goes with --mode=chunks; a dataset's is {run.encoder}")
    if os.path.lexists(run.encoder) and not _OVERWRITE.value:
        raise UserError(
            f"--run_dir={run.path}: it has an encoder already ({run.encoder}); add --overwrite to "
            "replace it"
        )
    from layered_segmentation import files, sheets
    from layered_segmentation.progress import Bar
    from layered_segmentation.segmenter import encode, model_card, presets

    trainer = _open_trainer(run, config)
    side = config.gan.resolution
    photos = encode.dataset_photos(config, side, _IMAGES.value, _LIMIT.value)
    with run.lock():
        with Bar(config.encoder.iterations, "encoding", "step") as bar:
            summary = trainer.train(
                photos, config.data.mirror, tick=lambda note: bar.update(note=note)
            )
        segmenter = trainer.segmenter
        facts = {"iterations": config.encoder.iterations, "seed": config.train.seed}
        card = model_card.draft(config, side, segmenter.count_params(), facts)
        presets.save(segmenter, run.encoder, overwrite=_OVERWRITE.value, card=card)
    layers = segmenter.predict_layers(photos[:_SHOWN])
    sheet = sheets.reconstruction_sheet(photos[:_SHOWN], layers)
    sheets.save_png(sheet, os.path.join(run.path, SHEET))
    results = {
        "mode": "dataset",
        **dataclasses.asdict(summary),
        "resolution": side,
        "seed": config.train.seed,
        "encoder": dataclasses.asdict(config.encoder),
    }
    files.write_json(os.path.join(run.path, RESULTS), results)
    print(
        f"encoder of {summary.photos:,} photos, {summary.iterations:,} steps in "
        f"{summary.seconds:,.0f} s, {summary.images_per_second:,.1f} images/s; loss "
        f"{summary.first_loss:.3f} -> {summary.loss:.3f}"
    )
    print(f"segmenter: {run.encoder}, reconstructions: {SHEET}, results: {RESULTS}")
    print(f"next: layerseg segment --segmenter={run.encoder} --input=PHOTOS --out=MASKS")
    return 0


def _chunks(run: "RunDirectory", config: configs.Config) -> int:
    if not _OUT.value:
        raise UserError("--out is needed with --mode=chunks: name a directory for the masks")
    if not _IMAGES.value and config.data.name != configs.SourceName.shapes:
        raise UserError("--images is needed with --mode=chunks: name the photos to segment")
    from layered_segmentation import files
    from layered_segmentation.segmenter import chunks

    out = _OUT.value
    chunks.require_chunk_directory(out)
    images = _IMAGES.value or os.path.join(out, chunks.SCENES)
    names = _photo_names(images, out) if _IMAGES.value else _scene_names()
    for network in (run.generator_file, run.discriminator_file):
        if not os.path.exists(network):
            _open_trainer(run, config)  # says what is missing
    settings = config.encoder
    job = chunks.ChunkJob(
        images,
        names,
        out,
        settings.chunk,
        settings.iterations,
        settings.together,
        _SAVE_ENCODERS.value,
    )
    chunks.begin(job, _inputs(run, config, names), _OVERWRITE.value)
    if not _IMAGES.value:
        _write_scenes(out, len(names), config.gan.resolution)
    finished = [number for number in range(len(job.chunks())) if job.is_finished(number)]
    start = time.perf_counter()
    records = chunks.encode(job, lambda: _open_trainer(run, config))
    results = {
        "mode": "chunks",
        **chunks.summarise(records),
        "chunks_finished_before": len(finished),
        "seconds_of_this_call": round(time.perf_counter() - start, 3),
        "run_dir": run.path,
        "resolution": config.gan.resolution,
        "seed": config.train.seed,
        "encoder": dataclasses.asdict(settings),
    }
    files.write_json(os.path.join(out, chunks.RESULTS), results)
    trained = [record for number, record in enumerate(records) if number not in finished]
    _tell(job, results, chunks.summarise(trained) if trained else {})
    return 1 if results["unreadable"] else 0


def _open_trainer(run: "RunDirectory", config: configs.Config) -> "EncoderTrainer":
    generator, discriminator = run.load_generator(), run.load_discriminator()
    from layered_segmentation.segmenter import encode

    return encode.EncoderTrainer(generator, discriminator, config)


def _photo_names(images: str, out: str) -> list[str]:
    from layered_segmentation import images as photos
    from layered_segmentation.data import folder

    inside = os.path.join(os.path.realpath(out), "")
    names = [
        name
        for name in photos.find(images, [folder.MASKS])
        if not os.path.realpath(os.path.join(images, name)).startswith(inside)
    ]
    if not names:
        kinds = ", ".join(photos.EXTENSIONS)
        raise UserError(f"--images={images}: no photos in it ({kinds})")
    names = names[: _LIMIT.value or None]
    stems = collections.Counter(os.path.splitext(name)[0] for name in names)
    twice = [name for name in names if stems[os.path.splitext(name)[0]] > 1]
    if twice:
        raise UserError(
            f"--images={images}: {', '.join(twice[:4])} differ only in their extension, so their "
            "masks would have one name; rename or remove one"
        )
    return names


def _scene_names() -> list[str]:
    from layered_segmentation.evaluation import scoring

    count = min(_LIMIT.value or scoring.HELD_OUT, scoring.HELD_OUT)
    return [f"test_{index:05d}.png" for index in range(count)]


def _write_scenes(out: str, count: int, resolution: int) -> None:
    """Writes held-out scenes and their true masks; they are the same whatever the run's seed."""
    from layered_segmentation import images as photos
    from layered_segmentation.evaluation import scoring
    from layered_segmentation.segmenter import chunks

    for name in (chunks.SCENES, chunks.TRUTH):
        os.makedirs(os.path.join(out, name), exist_ok=True)
    for pair in scoring.held_out_scenes(resolution, count):
        photos.write(os.path.join(out, chunks.SCENES, f"{pair.name}.png"), pair.image)
        photos.write_mask(os.path.join(out, chunks.TRUTH, f"{pair.name}.png"), pair.mask)


def _inputs(run: "RunDirectory", config: configs.Config, names: list[str]) -> dict[str, Any]:
    """Returns what the masks depend on; photos by their directory, names, sizes and times."""
    from layered_segmentation import files
    from layered_segmentation.segmenter import chunks

    if _IMAGES.value:
        images, photos = (
            os.path.realpath(_IMAGES.value),
            files.fingerprint(_IMAGES.value, names),
        )
    else:  # drawn anew by each call, and always the same
        images = chunks.HELD_OUT
        photos = files.digest("\n".join(names))[:12]
    encoder = dataclasses.asdict(config.encoder)
    del encoder["together"]  # the results do not depend on it
    return {
        "networks": files.digest_of_files(run.generator_file, run.discriminator_file)[:12],
        "encoder": encoder,
        "seed": config.train.seed,
        "images": images,
        "photos": photos,
    }


def _tell(job: "ChunkJob", results: dict[str, Any], trained: dict[str, Any]) -> None:
    """Prints the results, and how fast the chunks trained that this call trained, if any."""
    from layered_segmentation.segmenter import chunks

    parts = [f"{results['photos']:,} masks of {results['chunks']:,} chunks"]
    if before := results["chunks_finished_before"]:
        parts.append(f"{before:,} chunks were finished before")
    if trained:
        which = f"{trained['chunks']:,} trained" if before else "trained"
        parts.append(
            f"{which} in {trained['seconds']:,.0f} s, "
            f"{trained['images_per_second']:,.1f} images/s a step, "
            f"{trained['photos_per_second']:,.2f} masks/s"
        )
    print(f"{', '.join(parts)}; loss {results['first_loss']:.3f} -> {results['loss']:.3f}")
    masks = os.path.join(job.out, chunks.MASKS)
    print(f"masks: {masks}, sheets: {os.path.join(job.out, chunks.SHEETS)}")
    truth = "TRUE_MASKS" if _IMAGES.value else os.path.join(job.out, chunks.TRUTH)
    print(f"next: layerseg evaluate --predictions={masks} --images={job.images} --masks={truth}")
    if results["unreadable"]:
        print(f"skipped {len(results['unreadable']):,} that cannot be read:", file=sys.stderr)
        print("\n".join(f"  {line}" for line in results["unreadable"]), file=sys.stderr)


if __name__ == "__main__":
    app.run(main)
