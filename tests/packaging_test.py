"""The contents of the package, and that it works installed, in place and from a checkout."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGED = {
    "layered_segmentation": "layered_segmentation",
    "configs": "layered_segmentation/configs",
}


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tracked():
    """The files that git tracks; without git, those that are none of other programs' making."""
    if os.path.exists(os.path.join(ROOT, ".git")):
        names = run("git", "ls-files", cwd=ROOT).splitlines()
        return {name for name in names if os.path.exists(os.path.join(ROOT, name))}
    made = ("__pycache__", "_cache", "node_modules", "dist", "build", ".egg-info", ".git", "venv")
    paths = (
        os.path.relpath(os.path.join(folder, name), ROOT)
        for folder, _, names in os.walk(ROOT)
        for name in names
    )
    return {path for path in paths if not any(part.endswith(made) for part in path.split(os.sep))}


@pytest.fixture(scope="module")
def checkout(tracked, tmp_path_factory):
    """A copy, since setuptools leaves files behind."""
    copy = tmp_path_factory.mktemp("checkout")
    tar = ["tar", "--null", "--files-from=-", "-cf", "-"]
    content = subprocess.run(
        tar, cwd=ROOT, input="\0".join(tracked).encode(), capture_output=True, check=True
    )
    subprocess.run(["tar", "-xf", "-"], cwd=copy, input=content.stdout, check=True)
    return copy


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory):
    """The wheel and the sdist, built without a network."""
    out = tmp_path_factory.mktemp("dist")
    for kind in ("wheel", "sdist"):
        program = f"import setuptools.build_meta as b, sys; b.build_{kind}(sys.argv[1])"
        run(sys.executable, "-c", program, str(out), cwd=checkout)
    return {path.suffix: path for path in out.iterdir()}


@pytest.fixture(scope="module")
def wheel(built):
    return zipfile.ZipFile(built[".whl"])


@pytest.mark.slow
def test_the_wheel_contains_the_package_and_nothing_else(wheel, tracked):
    expected = {
        PACKAGED[top] + "/" + rest
        for top, _, rest in (name.partition("/") for name in tracked)
        if top in PACKAGED
    }
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == expected
    for name in (
        "presets/layered_unet_flowers_64/model.weights.h5", "configs/quickstart.yaml", "py.typed"
    ):  # fmt: skip
        assert f"layered_segmentation/{name}" in names


@pytest.mark.slow
def test_the_sdist_contains_the_whole_checkout(built, tracked):
    with tarfile.open(built[".gz"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked <= names


@pytest.mark.slow
def test_metadata(wheel):
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{info}/METADATA").decode()
    (python,) = (line for line in metadata.splitlines() if line.startswith("Requires-Python: "))
    assert set(python.split(": ")[1].split(",")) == {">=3.11", "<3.13"}
    assert re.search(r"^License(-Expression)?: Apache-2\.0$", metadata, re.MULTILINE)
    assert "License-File: LICENSE" in metadata
    for extra in ("test", "tfds", "torch", "dev"):
        assert f"Provides-Extra: {extra}" in metadata
    entries = wheel.read(f"{info}/entry_points.txt").decode()
    assert "layerseg = layered_segmentation.cli.main:main" in entries


@pytest.fixture(scope="module", params=["plain", "editable"])
def python(request, checkout, tmp_path_factory):
    """The interpreter of an environment with the package and this environment's other packages."""
    environment = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    interpreter = str(environment / "bin" / "python")
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = run(interpreter, "-c", program).strip()
    for folder in (path for path in sys.path if path.endswith("site-packages")):
        for name in os.listdir(folder):
            if "layered_segmentation" not in name and not os.path.lexists(f"{site}/{name}"):
                os.symlink(os.path.join(folder, name), os.path.join(site, name))
    options = ["--quiet", "--no-deps", "--no-build-isolation"]
    source = [str(checkout)] if request.param == "plain" else ["--editable", str(checkout)]
    pip = [sys.executable, "-m", "pip", f"--python={interpreter}", "install", *options]
    run(*pip, f"--prefix={environment}", *source)
    return interpreter


@pytest.mark.slow
def test_an_installed_package_is_complete(python, checkout, tmp_path):
    program = (
        "from layered_segmentation import config, config_files, export; "
        "from layered_segmentation.segmenter import preset_files; "
        "print(export.__file__, config_files.find('quickstart'), "
        "config.load('quickstart').data.name, preset_files.names())"
    )
    output = run(python, "-c", program, cwd=tmp_path)
    module, path, name, names = output.split(maxsplit=3)
    is_editable = not module.startswith(os.path.dirname(os.path.dirname(python)))
    assert is_editable == module.startswith(str(checkout)) == path.startswith(str(checkout))
    assert os.path.isfile(path) and name == "shapes" and "layered_unet_flowers_64" in names
    command = os.path.join(os.path.dirname(python), "layerseg")
    assert "layerseg VERB" in run(command, "--help", cwd=tmp_path)
    assert "--quantize=" in run(command, "export", "--help", cwd=tmp_path)


@pytest.mark.slow
def test_the_type_checker_sees_all_of_the_package(python, checkout, tmp_path):
    module = checkout / "layered_segmentation" / "export" / "tflite.py"
    text = module.read_text()
    module.write_text(f"{text}\n\ndef wrong() -> None:\n    compare.no_such_function()\n")
    try:
        mypy = [
            sys.executable,
            "-m",
            "mypy",
            f"--python-executable={python}",
            f"--cache-dir={tmp_path}",
        ]
        done = subprocess.run(mypy, cwd=checkout, capture_output=True, text=True)
    finally:
        module.write_text(text)
    found = [line for line in done.stdout.splitlines() if "no_such_function" in line]
    assert len(found) == 1, done.stdout + done.stderr
    assert found[0].startswith(os.path.join("layered_segmentation", "export", "tflite.py"))


def test_a_checkout_works_without_an_install(tmp_path):
    program = "from layered_segmentation import config_files as c, export; print(c.find('cub'))"
    path = [ROOT, *(path for path in sys.path if path)]
    output = run(
        sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {path!r}; {program}", cwd=tmp_path
    )
    assert os.path.samefile(output.strip(), os.path.join(ROOT, "configs", "cub.yaml"))


def test_the_public_names_resolve():
    import layered_segmentation

    for name in layered_segmentation.__all__:
        assert getattr(layered_segmentation, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        layered_segmentation.nonsense  # noqa: B018
