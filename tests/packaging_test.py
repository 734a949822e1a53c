"""The wheel holds what an installed package needs, and nothing at the top but the package."""

import os
import subprocess
import sys
import tomllib
import zipfile

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

pytestmark = pytest.mark.skipif(
    not os.path.exists(os.path.join(ROOT, "setup.py")), reason="not a checkout"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    # In a copy, since setuptools leaves build/ behind; without isolation, so without a network.
    copy = tmp_path_factory.mktemp("checkout")
    names = ["setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"]
    folders = ["layered_segmentation", "configs", "export"]
    subprocess.run(["cp", "-r", *names, *folders, str(copy)], cwd=ROOT, check=True)
    program = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", program, str(out)], cwd=copy, check=True, capture_output=True
    )
    (name,) = os.listdir(out)
    return zipfile.ZipFile(out / name)


def test_the_wheel_holds_all_modules_configs_and_templates(wheel):
    expected = set()
    kinds = (".py", ".yaml", ".html", ".tsv", ".txt", ".typed")
    for source, target in (
        ("layered_segmentation", "layered_segmentation"),
        ("configs", "layered_segmentation/configs"),
        ("export", "layered_segmentation/export"),
    ):
        for folder, _, files in os.walk(os.path.join(ROOT, source)):
            for file in files:
                if file.endswith(kinds) or "presets" in folder.split(os.sep):
                    relative = os.path.relpath(
                        os.path.join(folder, file), os.path.join(ROOT, source)
                    )
                    expected.add(os.path.join(target, relative))
    expected = {n for n in expected if not {"__pycache__", "node_modules"} & set(n.split(os.sep))}
    assert expected <= set(wheel.namelist())
    assert "layered_segmentation/presets/layered_unet_flowers_64/model.weights.h5" in expected
    assert "layered_segmentation/configs/quickstart.yaml" in expected


def test_nothing_else_lands_in_site_packages(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"layered_segmentation"}


def test_metadata(wheel):
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{info}/METADATA").decode()
    (python,) = (line for line in metadata.splitlines() if line.startswith("Requires-Python: "))
    assert set(python.split(": ")[1].split(",")) == {">=3.11", "<3.13"}
    for extra in ("test", "tfds", "dev"):
        assert f"Provides-Extra: {extra}" in metadata
    entries = wheel.read(f"{info}/entry_points.txt").decode()
    assert "layerseg = layered_segmentation.cli.main:main" in entries


def test_an_installed_package_finds_its_configs(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    program = (
        "from layered_segmentation import config; import layered_segmentation.export as e; "
        "print(e.__file__); print(config.load('quickstart').data.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path, name = done.stdout.split()
    assert path.startswith(str(tmp_path))
    assert name == "shapes"


def test_a_checkout_works_without_an_install(tmp_path):
    program = "from layered_segmentation import config_files, export; "
    program += "print(config_files.find('quickstart'))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path!r}; {program}"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == os.path.join(ROOT, "configs", "quickstart.yaml")


def test_the_public_names_resolve():
    import layered_segmentation

    for name in layered_segmentation.__all__:
        assert getattr(layered_segmentation, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        layered_segmentation.nonsense  # noqa: B018


def test_pyproject_is_valid():
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        assert tomllib.load(file)["build-system"]["build-backend"] == "setuptools.build_meta"
