"""What runs, chains and measurements have written: damaged, of another version, or hostile."""

import dataclasses
import json
import os
import types

import fuzzing
import tensorflow as tf
from hypothesis import strategies as st

from layered_segmentation import config as configs
from layered_segmentation import run_directory
from layered_segmentation.cli import chain, chain_page
from layered_segmentation.data import cache
from layered_segmentation.data.prepare import extract
from layered_segmentation.evaluation import generated, quality, report, tables
from layered_segmentation.gan import attempts, callbacks, checkpoint, networks, precision, strategy
from layered_segmentation.segmenter import chunks, model_card

CONFIG = configs.Config()
YAML = configs.to_yaml(CONFIG).encode()
LOG = [
    {
        "images_seen": 1000, "resolution": 8, "alpha": 1.0, "images_per_second": 50.5,
        "wait_share": 0.0, "wasserstein": 0.1, "gradient_penalty": None, "coverage": 0.3,
        "binarisation": 0.1, "seconds": 12.5,
    },
    {"images_seen": 1000, "resumed": True, "seconds": 3.0},
    {"images_seen": 2000, "warning": "warning: masks cover everything"},
]  # fmt: skip
FINISHED = {"images_seen": 2000, "seconds": 10.5, "images_per_second": 190.0}
PHOTOS = b"'a.jpg'\t100\t0123456789abcdef\n'b c.jpg'\t7\t0123456789abcdef\n"
MACHINE = {
    "tensorflow": "2.21.0", "intra_op_threads": 1, "inter_op_threads": 2, "onednn": "1",
    "devices": ["CPU"],
}  # fmt: skip
AUTO = configs.load("", ["train.precision=auto"])
PRECISION = {"precision": "float32", "images_per_second": {"float32": 10.5, "mixed_bfloat16": 9}}
TEST = {"images": "", "masks": "", "ignore": ""}
SCORES = {
    "miou": 0.5, "miou_std": 0.1, "references": {"full_mask": 0.2, "centre_box": 0.3},
    "images": 20, "refine": "none", "protocol": "IoU. ", "seconds": 2.0,
    "verdict": ["better"],
}  # fmt: skip
_FILE = {"path": "x", "megabytes": 1.0, "milliseconds": 2.0, "difference": 1e-7, "images": 3}
PHASES = {
    "train": {"images_seen": 9, "seconds": 1.0, "images_per_second": 9.0, "inputs": None},
    "distill": {
        "images_per_second": 9.0, "parameters": 5, "loss": 0.1, "agreement": 0.9, "coverage": 0.2,
        "seconds": 2.0, "inputs": None,
    },
    "score": {"scores": SCORES, "seconds": 1.0, "inputs": TEST},
    "export": {"saved_model": _FILE, "tflite": _FILE, "seconds": 1.0, "inputs": None},
}  # fmt: skip
RESULTS = {**SCORES, "test": TEST}
OF_GENERATED = {
    "measure": "generated", "resolution": 64, "miou": 0.5, "miou_std": 0.1, "images": 9,
    "detected_share": 0.5, "references": {"full_mask": 0.2}, "seconds": 1.0, "protocol": "P",
    "detected": {"miou": 0.5}, "all": {"miou": 0.4},
}  # fmt: skip
OF_FID = {
    "measure": "fid", "fid": 20.5, "images": 9, "real_images": 9, "resolution": 64,
    "features": "inception", "protocol": "P", "warning": "few",
}  # fmt: skip
OF_SEGMENTER = {
    **SCORES, "measure": "segmentation", "settings": {"segmenter": "RUN", "predictions": ""},
    "detected": {"miou": 0.5, "references": {"full_mask": 0.2}},
    "all": {"miou": 0.4, "references": {"full_mask": 0.2}},
}  # fmt: skip

_lines = st.lists(
    st.one_of(
        fuzzing.changed(LOG).map(fuzzing.encoded),
        fuzzing.damaged([fuzzing.encoded(record) for record in LOG], most=2),
        st.binary(max_size=30),
        st.just(b"[" * 100_000),
    ),
    max_size=5,
).map(b"\n".join)


def _run(directory):
    return run_directory.RunDirectory(os.path.join(directory, "run"))


def _refused(name, most=32):
    return fuzzing.refused(name, most)


@fuzzing.fuzz(_lines, share=0.02, quick=15)
def test_logs(data):
    with fuzzing.confined() as directory, _refused("test_logs"):
        run = _run(directory)
        fuzzing.write(run.path, "log.jsonl", data + b"\n")
        before = len(run.read_log())
        assert run.logged_seconds() >= 0
        run.traces()
        report.warnings_of(run)
        run.truncate_log(1500)
        assert len(run.read_log()) <= before
        run.append_log({"images_seen": 1})


@fuzzing.fuzz(st.tuples(_lines, fuzzing.json_files(FINISHED)), share=0.002, quick=2)
def test_reports(data):
    log, finished = data
    with fuzzing.confined() as directory, _refused("test_reports", 200):
        run = _run(directory)
        fuzzing.write(run.path, "config.yaml", YAML)
        fuzzing.write(run.path, "log.jsonl", log + b"\n")
        fuzzing.write(run.path, "finished.json", finished)
        assert os.path.isfile(report.write_run_report(run))


@fuzzing.fuzz(
    st.tuples(
        fuzzing.json_files(FINISHED),
        fuzzing.damaged([PHOTOS]),
        fuzzing.json_files(MACHINE),
        fuzzing.json_files(PRECISION),
        st.one_of(st.just(YAML), fuzzing.damaged([YAML], most=2)),
    ),
    share=0.01,
    quick=4,
)
def test_runs(data):
    finished, photos, of_machine, of_precision, config = data
    contents = {
        "finished.json": finished, "photos.txt": photos, "machine.json": of_machine,
        "precision.json": of_precision, "config.yaml": config,
    }  # fmt: skip
    with fuzzing.confined() as directory:
        run = _run(directory)
        for name, content in contents.items():
            fuzzing.write(run.path, name, content)
        with _refused("test_runs"):
            done = run.finished()
            assert done is None or 0 <= done.seconds < 1e16
        with _refused("test_runs"):
            run.keep_inventory(PHOTOS.decode().split("\n")[:-1])
        with _refused("test_runs"):
            strategy.note_machine(run, tf.distribute.get_strategy(), 1000)
        with _refused("test_runs"):
            run.create_or_resume(CONFIG)
        with _refused("test_runs"):
            assert precision.resolve(AUTO, run).train.precision != "auto"
        with _refused("test_runs"):
            run_directory.RunDirectory.open(run.path).at_stage(64)


@fuzzing.fuzz(
    st.tuples(fuzzing.json_files(PHASES), fuzzing.json_files(RESULTS)), share=0.01, quick=10
)
def test_chains(data):
    phases, results = data
    with fuzzing.confined() as directory:
        made = chain.Chain(directory, CONFIG, chain.TestSet())
        fuzzing.write(directory, "phases.json", phases)
        fuzzing.write(directory, "results.json", results)
        fuzzing.write(made.run.path, "config.yaml", YAML)
        with _refused("test_chains"):
            chain._finished_results(made)
        with _refused("test_chains"):
            done = chain._read_phases(made)
            if all(chain._is_done(made, done, name) for name in chain.PHASES):
                found = chain._results(made, made.run, done)
                report.render(chain_page.page(directory, made.run, found, []))


_result_files = fuzzing.json_files(OF_SEGMENTER, OF_GENERATED, OF_FID)


@fuzzing.fuzz(
    st.tuples(st.sampled_from([1, 2, 3]), st.lists(_result_files, min_size=1, max_size=3)),
    share=0.02,
    quick=15,
)
def test_tables(data):
    number, contents = data
    row = {1: "a", 2: "encoder", 3: "layered"}[number]
    with fuzzing.confined() as directory, _refused("test_tables"):
        for seed, content in enumerate(contents):
            fuzzing.write(os.path.join(directory, str(seed)), "results.json", content)
        paths = [(row, os.path.join(directory, str(seed))) for seed in range(len(contents))]
        table = tables.build(number, tables.read_runs(paths))
        assert table.markdown() and table.csv()


@fuzzing.fuzz(fuzzing.changed([OF_SEGMENTER]), share=0.01, quick=10)
def test_scores_of_a_card(data):
    with _refused("test_scores_of_a_card"):
        if isinstance(data, dict):  # as `publish` reads it
            model_card.with_scores("## Scores\n\n## Protocol\n", data)


_INPUTS = {"images": "photos", "chunk": 3, "names": ["a.jpg", "b/c.jpg"], "weights": "0123"}


@fuzzing.fuzz(st.tuples(fuzzing.json_files(_INPUTS), st.booleans()), share=0.01, quick=10)
def test_chunks(data):
    content, overwrite = data
    with fuzzing.confined() as directory, _refused("test_chunks"):
        fuzzing.write(directory, chunks.INPUTS, content)
        job = chunks.ChunkJob("photos", ["a.jpg"], directory, 3, 10)
        chunks.begin(job, {"images": "photos", "chunk": 3, "weights": "0123"}, overwrite)


_RESTART = {
    "number": 1, "restart": 1, "kind": "full", "images_seen": 900, "seconds": 3.5, "warning": "w",
}  # fmt: skip
_QUALITY = {field.name: 0.5 for field in dataclasses.fields(quality.Quality)}


@fuzzing.fuzz(
    st.tuples(fuzzing.json_files(_RESTART), fuzzing.json_files(_QUALITY)), share=0.01, quick=10
)
def test_restarts_and_qualities(data):
    restart, measured = data
    with fuzzing.confined() as directory, _refused("test_restarts_and_qualities"):
        run = _run(directory)
        fuzzing.write(run.path, "restart.json", restart)
        fuzzing.write(run.path, quality.FILE, measured)
        fuzzing.write(os.path.join(run.attempts, "3"), attempts._RECORD, restart)
        found = quality.read(run)
        assert found is None or f"{found.agreement:.3f}"
        attempts._records(run)
        attempts._complete(run)


_SCENES = types.SimpleNamespace(
    seed=1, side=64, identity=lambda: {"generator": "0123", "seed": 1, "truncation": 1.0}
)
_RECORD = {"run": "r", "generator": "0123", "seed": 1, "truncation": 1.0, "size": 64, "count": 9}


@fuzzing.fuzz(fuzzing.json_files(_RECORD), share=0.01, quick=10)
def test_records_of_scenes(data):
    with fuzzing.confined() as directory, _refused("test_records_of_scenes"):
        fuzzing.write(directory, generated.RECORD, data)
        generated.check_record(directory, _SCENES)


_CACHE = {"fingerprint": "f", "count": 1, "sides": [8], "bytes": {"8": 320}, "skipped": []}


@fuzzing.fuzz(fuzzing.json_files(_CACHE), share=0.01, quick=10)
def test_records_of_caches(data):
    with fuzzing.confined() as directory, _refused("test_records_of_caches"):
        fuzzing.write(directory, cache.RECORD, data)
        fuzzing.write(directory, "0008.npy", bytes(320))
        record = cache._read_record(directory, "f")
        assert record is None or all(isinstance(name, str) for name in record["skipped"])


@fuzzing.fuzz(fuzzing.json_files({"dataset": "d", "limit": 0}), share=0.01, quick=10)
def test_stamps_of_extractions(data):
    with fuzzing.confined() as directory, _refused("test_stamps_of_extractions"):
        fuzzing.write(directory, extract.STAMP, data)
        extract._require_same("--out", directory, {"dataset": "d", "limit": 0})


def _checkpoint():
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        files = checkpoint.CheckpointFiles(directory)
        variables = [tf.Variable(tf.ones([3, 4])), tf.Variable(5)]
        with files.adding(7) as prefix:
            tf.train.Checkpoint(variables=variables).write(prefix)
        found = {}
        for name in os.listdir(directory):
            with open(os.path.join(directory, name), "rb") as file:
                found[name] = file.read()
        return found


CHECKPOINT = _checkpoint()
_SUMS = json.loads(CHECKPOINT["ckpt-7.json"])
_checkpoint_files = st.fixed_dictionaries(
    {
        name: st.one_of(
            st.just(content), fuzzing.damaged([content], most=2), st.none(), st.binary(max_size=9)
        )
        for name, content in CHECKPOINT.items()
        if not name.endswith(".json")
    }
    | {"ckpt-7.json": st.one_of(st.none(), fuzzing.json_files(_SUMS))}
)
_odd_names = st.lists(
    st.sampled_from(["ckpt-99999999999999999999999.index", "ckpt-٣.index", "ckpt-5.json", "x"]),
    max_size=2,
)


@fuzzing.fuzz(st.tuples(_checkpoint_files, _odd_names), share=0.02, quick=15)
def test_checkpoints(data):
    contents, odd = data
    with fuzzing.confined() as directory, _refused("test_checkpoints", 64):
        for name, content in [*contents.items(), *((name, b"") for name in odd)]:
            if content is not None:
                fuzzing.write(directory, name, content)
        kept = checkpoint.CheckpointFiles(directory)
        numbers = kept.numbers()
        problems = [kept.problem(number) for number in numbers]
        assert all(problem is None or problem for problem in problems)
        whole = all(contents[name] == CHECKPOINT[name] for name in _SUMS)
        if 7 in numbers and not problems[numbers.index(7)] and contents["ckpt-7.json"] is None:
            assert whole or _is_padding(contents)
        if 7 in numbers:
            kept.keep(1, 7)
            assert kept.numbers() == [7]


def _is_padding(contents):
    """Whether TensorFlow reads the right values; its own checksums leave out some bytes."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        for name, content in contents.items():
            if content is not None:
                fuzzing.write(directory, name, content)
        reader = tf.train.load_checkpoint(os.path.join(directory, "ckpt-7"))
        first, second = (
            reader.get_tensor(f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE")
            for number in range(2)
        )
        return bool((first == 1).all() and second == 5)


def _events():
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "e")
        with tf.io.TFRecordWriter(path) as writer:
            for step in range(3):
                writer.write(tf.compat.v1.Event(step=step).SerializeToString())
            writer.write(b"\xff\xff not an event")
        with open(path, "rb") as file:
            return file.read()


@fuzzing.fuzz(fuzzing.damaged([_events()]), share=0.005, quick=5)
def test_event_files(data):
    with fuzzing.confined() as directory, _refused("test_event_files", 64):
        fuzzing.write(directory, "a.tfevents.1", data)
        callbacks.Events(directory).truncate(1)


def _network():
    import tempfile
    import zipfile

    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "n.keras")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("metadata.json", "{}")
            archive.writestr("config.json", json.dumps({"class_name": "Nothing"}))
            archive.writestr("model.weights.h5", bytes(500))
        with open(path, "rb") as file:
            return file.read()


@fuzzing.fuzz(fuzzing.damaged([_network()]), share=0.01, quick=10)
def test_files_of_networks(data):
    with fuzzing.confined() as directory, _refused("test_files_of_networks", 64):
        run = _run(directory)
        fuzzing.write(run.path, "generator/generator.keras", data)
        networks.are_whole(run)
        networks.load_generator(run)
