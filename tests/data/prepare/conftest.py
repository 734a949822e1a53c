import pytest

from layered_segmentation.data.prepare import archives


@pytest.fixture
def own_archives(monkeypatch):
    """Accepts archives that a test has written, which lack the published digests."""
    monkeypatch.setattr(archives, "_require_published", lambda *_: None)


@pytest.fixture
def prepare(layerseg, tmp_path):
    """Runs `layerseg prepare` to `tmp_path / "data"`."""

    def run(dataset, source, *arguments, data_dir=tmp_path / "data"):
        flags = [f"--dataset={dataset}", f"--source={source}", f"--data_dir={data_dir}"]
        return layerseg("prepare", *flags, *arguments)

    return run
