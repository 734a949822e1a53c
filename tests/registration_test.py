"""Our classes are found by KerasHub and TensorFlow Datasets, and wait for them."""

import contextlib
import importlib
import importlib.util
import subprocess
import sys

import pytest

from layered_segmentation.import_watch import around_import

BEFORE = """
import sys
import layered_segmentation
heavy = [name for name in ("tensorflow", "tensorflow_datasets", "keras") if name in sys.modules]
assert not heavy, heavy
import tensorflow_datasets as tfds
assert "tensorflow" not in sys.modules  # TFDS does not need it yet, nor do the builders
"""
AFTER = """
import tensorflow_datasets as tfds
import layered_segmentation
"""
FOUND = """
for name, config in (("lsun_objects", "tv-monitor"), ("cub200_segmentation", "redo")):
    assert config in tfds.builder_cls(name).builder_configs
"""


@pytest.mark.parametrize("order", [BEFORE, AFTER])
def test_builders_are_found_by_name(order):
    command = [sys.executable, "-c", order + FOUND]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package to watch for, gone afterwards."""
    (tmp_path / "watched.py").write_text("import builtins\nvalue = list(builtins.seen)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("builtins.seen", [], raising=False)
    importlib.invalidate_caches()
    finders = list(sys.meta_path)
    yield "watched"
    sys.meta_path[:] = finders
    sys.modules.pop("watched", None)


@pytest.fixture
def log(package):
    import builtins

    return builtins.seen


def test_the_import_runs_inside_the_context(package, log):
    @contextlib.contextmanager
    def context():
        log.append("before")
        yield
        log.append("after")

    around_import(package, context)
    around_import(package, context)  # once is enough
    assert log == []
    module = importlib.import_module(package)
    assert module.value == ["before"]
    assert log == ["before", "after"]
    assert module.__spec__.loader is module.__loader__
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    around_import(package, context)  # it was imported: nothing to wait for
    importlib.reload(module)
    assert log == ["before", "after"]


def test_asking_for_the_package_is_not_importing_it(package, log):
    @contextlib.contextmanager
    def context():
        log.append("before")
        yield

    around_import(package, context)
    assert importlib.util.find_spec(package) is not None
    assert log == []
    importlib.import_module(package)
    assert log == ["before"]


def test_two_may_wait_for_the_same_package(package, log):
    def waiting(name):
        @contextlib.contextmanager
        def context():
            log.append(name)
            yield

        return context

    around_import(package, waiting("first"))
    around_import(package, waiting("second"))
    importlib.import_module(package)
    assert sorted(log) == ["first", "second"]
    assert not any(getattr(finder, "package", "") == package for finder in sys.meta_path)
