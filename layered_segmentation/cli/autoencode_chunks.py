"""Segments photos with an encoder per chunk of photos, the paper's protocol.

An encoder is trained on each chunk of encoder.chunk photos; encoder.together of them train at once.
Writes masks at the photos' own size to OUT/masks, sheets to OUT/reconstructions, and
OUT/results.json. Without --images, a run on procedural scenes segments its held-out ones and writes
them to OUT/images and OUT/true_masks.

Finished chunks are not trained again as long as settings and photos (their directory, names, sizes
and modification times) are the same; other settings or photos are refused. Settings are those of
the run; --set=encoder.FIELD=VALUE changes them.

Example:
  layerseg autoencode_chunks --run_dir=RUN --images=PHOTOS --out=OUT
"""

import collections
import dataclasses
import os
import time
from typing import TYPE_CHECKING, Any

from absl import flags

from layered_segmentation import choices, files, quiet
from layered_segmentation import config as configs
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.run_directory import RunDirectory
    from layered_segmentation.segmenter.chunks import ChunkJob
    from layered_segmentation.segmenter.encode import EncoderTrainer

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the trained run.", required=True)
_STAGE = shared.define_stage_flag()
_IMAGES = flags.DEFINE_string(
    "images", "", "Directory of photos; held-out scenes of a run on procedural scenes if empty."
)
_OUT = flags.DEFINE_string("out", None, "Directory to write to.", required=True)
_SET = flags.DEFINE_multi_string(
    "set", [], "An encoder setting, as in --set=encoder.iterations=500; may be repeated."
)
_LIMIT = flags.DEFINE_integer(
    "limit", 0, "Segment only the first so many photos; 0 segments all.", 0
)
_SAVE_ENCODERS = flags.DEFINE_bool(
    "save_encoders", False, "Keep each chunk's preset, in OUT/encoders."
)
_DEVICES, _LOGICAL_CPUS = app.define_device_flags()
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Train finished chunks again.")
shared.define_max_pixels_flag()

RESUME = "finished chunks are kept; the same command resumes with the next one"


def main(_: list[str]) -> int:
    """Segments the photos that are left."""
    run = shared.open_run(_RUN_DIR.value, _STAGE.value)
    config = run.config_with("encoder", _SET.value)
    if _IMAGES.value and not os.path.isdir(_IMAGES.value):
        raise UserError(f"--images={_IMAGES.value}: there is no such directory")
    if not _IMAGES.value and config.data.name != choices.SourceName.shapes:
        raise UserError("--images is needed: name a directory of photos to segment")
    quiet.import_tensorflow(_LOGICAL_CPUS.value)
    from layered_segmentation.segmenter import autoencoder, chunks

    autoencoder.require_mask(config.gan.variant)
    out = _OUT.value
    files.require_empty_or(out, os.path.join(out, chunks.INPUTS), "holds no chunks")
    images = _IMAGES.value or os.path.join(out, chunks.SCENES)
    names = _photo_names(images, out) if _IMAGES.value else _scene_names()
    for network in (run.generator_file, run.discriminator_file):
        if not os.path.exists(network):
            _open_trainer(run, config)  # raises an error that tells what is missing
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
        _write_scenes(out, len(names), config)
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
    _print_results(job, results, chunks.summarise(trained) if trained else {})
    return shared.print_skipped(results["unreadable"])


def _open_trainer(run: "RunDirectory", config: configs.Config) -> "EncoderTrainer":
    from layered_segmentation.gan import networks
    from layered_segmentation.segmenter import encode

    generator, discriminator = networks.load_generator(run), networks.load_discriminator(run)
    return encode.EncoderTrainer(generator, discriminator, config, _DEVICES.value)


def _photo_names(images: str, out: str) -> list[str]:
    from layered_segmentation.data import folder

    inside = os.path.join(os.path.realpath(out), "")
    names = [
        name
        for name in folder.find_photos(images, "--images")
        if not os.path.realpath(os.path.join(images, name)).startswith(inside)
    ]
    if not names:
        raise UserError(f"--images={images}: only the results of --out are in it, no photos")
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
    from layered_segmentation.evaluation import test_sets

    count = min(_LIMIT.value or test_sets.HELD_OUT, test_sets.HELD_OUT)
    return [f"test_{index:05d}.png" for index in range(count)]


def _write_scenes(out: str, count: int, config: configs.Config) -> None:
    """Writes held-out scenes and their true masks, which do not depend on the run's seed."""
    from layered_segmentation import images as photos
    from layered_segmentation.evaluation import test_sets
    from layered_segmentation.segmenter import chunks

    for name in (chunks.SCENES, chunks.TRUTH):
        os.makedirs(os.path.join(out, name), exist_ok=True)
    side, objects = config.gan.resolution, config.data.objects
    for pair in test_sets.held_out_scenes(side, count, objects):
        photos.write(os.path.join(out, chunks.SCENES, f"{pair.name}.png"), pair.image)
        photos.write_mask(os.path.join(out, chunks.TRUTH, f"{pair.name}.png"), pair.mask)


def _inputs(run: "RunDirectory", config: configs.Config, names: list[str]) -> dict[str, Any]:
    """Returns what the masks depend on; photos by directory, names, sizes and times."""
    from layered_segmentation.segmenter import chunks

    if _IMAGES.value:
        images, photos = os.path.realpath(_IMAGES.value), files.fingerprint(_IMAGES.value, names)
    else:  # each call draws the same scenes
        images = chunks.HELD_OUT
        photos = files.digest("\n".join(names))[:12]
    encoder = dataclasses.asdict(config.encoder)
    del encoder["together"]  # results do not depend on it
    if encoder["feature_term"] == choices.FeatureTerm.mean:
        del encoder["feature_term"]  # version 0.1.0 knew no other and did not record it
    return {
        "networks": files.digest_of_files(run.generator_file, run.discriminator_file)[:12],
        "encoder": encoder,
        "seed": config.train.seed,
        "images": images,
        "photos": photos,
    }


def _print_results(job: "ChunkJob", results: dict[str, Any], trained: dict[str, Any]) -> None:
    """Prints the results, and the training speed of the chunks that this call trained, if any."""
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
    print(app.next_step("evaluate", predictions=masks, images=job.images, masks=truth))


if __name__ == "__main__":
    app.run(main)
