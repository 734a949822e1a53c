import dataclasses
import importlib
import os
import shutil
import signal
import subprocess
import sys

os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

# Background jobs and `nohup` start with signals ignored, and so would the programs tests start.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        metavar="FILE",
        help="another recording of the authors' code for port_test.py, of any sizes",
    )


def pytest_collection_modifyitems(items):
    """Skips what a test says that this system does not have."""
    lacking = {"win32": ("posix", "linux"), "darwin": ("linux",)}.get(sys.platform, ())
    for item in items:
        for name in lacking:
            for mark in item.iter_markers(name):
                reason = f"{sys.platform} does not have {mark.args[0]}"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seeded():
    """Untrained networks are the same in every run of a test, whatever ran before it."""
    import keras

    keras.utils.set_random_seed(0)


@dataclasses.dataclass
class Result:
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def layerseg(capfd):
    """Runs `layerseg VERB --flags` in this process: no second import of TensorFlow."""

    def run(verb, *arguments):
        from absl import app as absl_app
        from absl import flags

        from layered_segmentation.cli import main

        before = set(flags.FLAGS)
        absl_app._register_and_parse_flags_with_usage.done = False
        capfd.readouterr()
        try:
            main.main([verb, *map(str, arguments)])
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        finally:
            # A verb's flags live as long as its process; here the next verb may define them anew.
            absl_flags = {"help", "helpshort", "helpfull", "helpxml", "only_check_flags"}
            for flag in set(flags.FLAGS) - before - absl_flags - {"?"}:
                delattr(flags.FLAGS, flag)
            flags.FLAGS.unparse_flags()
            package = importlib.import_module("layered_segmentation.cli")
            for module in main.VERBS:  # an old spelling runs another verb
                sys.modules.pop(f"{package.__name__}.{module}", None)
                vars(package).pop(module, None)
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture
def read_events():
    """Reads a directory of TensorBoard's: (step, value) pairs by tag; an image has no value."""

    def read(directory):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util import tensor_util

        events = EventAccumulator(str(directory))
        events.Reload()
        found = {}
        for tag in events.Tags()["tensors"]:
            found[tag] = []
            for event in events.Tensors(tag):
                value = tensor_util.make_ndarray(event.tensor_proto)
                found[tag].append((event.step, float(value) if value.ndim == 0 else None))
        return found

    return read


@pytest.fixture
def small_disk(request, tmp_path):
    """A disk of its own, of the size that the test asks for by `indirect` or 96 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = getattr(request, "param", "96k")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def power_failure(tmp_path):
    """A directory on an ext4 disk, and a function that returns it as a power failure leaves it.

    What has reached the disk is what its image holds; the rest is in the memory of the machine.
    """
    image, disk = tmp_path / "disk.img", tmp_path / "disk"
    mounted = []

    def mount(image, directory):
        directory.mkdir()
        command = ["mount", "-t", "ext4", "-o", "loop", str(image), str(directory)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"an image of a disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(directory)

    def fail():
        copy = tmp_path / f"after{len(mounted)}"
        shutil.copyfile(image, copy.with_suffix(".img"))
        mount(copy.with_suffix(".img"), copy)
        return copy

    image.write_bytes(bytes(16 << 20))
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mkfs.ext4")
    mount(image, disk)
    subprocess.run(["sync", "-f", str(disk)], check=True)
    yield disk, fail
    for directory in reversed(mounted):
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture(scope="session")
def album(tmp_path_factory):
    """Drawn scenes, in photos/, and their masks, in masks/."""
    from layered_segmentation import images
    from layered_segmentation.data.scenes import Scenes

    root = tmp_path_factory.mktemp("album")
    drawn, masks = Scenes(seed=3, count=24, split="test").load_pairs(72)
    for name, part in (("photos", drawn), ("masks", 255 * masks)):
        (root / name).mkdir()
        for index, image in enumerate(part):
            images.write(str(root / name / f"{index}.png"), image)
    return root


@pytest.fixture(scope="module")
def shallow_resnet():
    """Half as deep, since tracing and loading its layers is most of what its tests cost."""
    from layered_segmentation.segmenter import encoder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "_BLOCKS", (1, 1, 1, 1))
        yield


@pytest.fixture
def eagerly():
    """Runs what would be traced: a few steps do not pay for their graph."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
