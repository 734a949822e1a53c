"""The documentation names only verbs, flags, settings, files and headings that exist."""

import ast
import dataclasses
import importlib.util
import pathlib
import re
import shlex
import urllib.parse

import pytest
import yaml

import layered_segmentation
from layered_segmentation import config_files
from layered_segmentation.cli import main
from layered_segmentation.config import Config
from layered_segmentation.config_files import with_defaults

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(ROOT)
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
        *ROOT.glob("export/**/*.md"),
        *ROOT.glob("layered_segmentation/presets/*/README.md"),
        *ROOT.glob("tests/*/README.md"),
    )
    if "node_modules" not in path.parts
)
CONFIGS = sorted(path.relative_to(ROOT) for path in ROOT.glob("configs/**/*.yaml"))
COMMAND = re.compile(r"\blayerseg ([a-z_]+\b(?: [^`&#\n]*)?)")


def text_of(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        text = "\n".join(line[1:] for line in text.splitlines() if line.startswith("#"))
    return text


def commands(text):
    """Returns (verb, words) of each `layerseg VERB …` in a text."""
    # A command may go on in the next line: after a backslash, or inside an inline code span.
    text = re.sub(r"\\\n\s*", " ", text)
    text = re.sub(r"`[^`\n]+\n[^`\n]+`", lambda span: span.group().replace("\n", " "), text)
    found = []
    for match in COMMAND.finditer(text):
        verb, _, rest = match.group(1).partition(" ")
        try:
            words = shlex.split(rest)
        except ValueError:  # an apostrophe of the sentence around it
            words = rest.split()
        found.append((verb, words))
    return found


def flags_of(layerseg, verb):
    """Returns the names of a verb's flags, from its help."""
    shown = layerseg(verb, "--help").stdout
    names = re.findall(r"^  --(\[no\])?(\w+)", shown, re.MULTILINE)
    return {name for _, name in names} | {f"no{name}" for no, name in names if no}


@pytest.fixture(scope="module")
def known_flags():
    return {}


@pytest.mark.parametrize("path", [*PAGES, *CONFIGS], ids=str)
def test_commands_exist(path, layerseg, known_flags):
    for verb, words in commands(text_of(path)):
        assert verb in main.VERBS, f"layerseg {verb}"
        for word in words:
            if not word.startswith("--"):
                continue
            if verb not in known_flags:
                known_flags[verb] = flags_of(layerseg, verb)
            name = re.match(r"--(\w*)", word).group(1)
            assert name in known_flags[verb] | {"help"}, f"layerseg {verb} {word}"


@pytest.mark.parametrize("path", [*PAGES, *CONFIGS], ids=str)
def test_configs_and_settings_exist(path):
    fields = {
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(Config)
        for field in dataclasses.fields(section.default_factory)
    }
    text = text_of(path)
    named = re.findall(r"--config=([\w/]+)\b(?![/$])", text)
    assert {name for name in named if not re.search("[A-Z]", name)} <= set(
        config_files.packaged_names()
    )
    sections = "|".join(section.name for section in dataclasses.fields(Config))
    settings = re.findall(rf"(?:--set=|`)((?:{sections})\.[a-z_0-9]+)\b(?![.(/]|py)", text)
    unknown = {name for name in settings if not name.endswith(".py")} - fields
    assert not unknown


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        page = (ROOT / path).parent / file if file else ROOT / path
        assert page.exists(), target
        if heading:
            assert heading in headings(page.read_text(encoding="utf-8")), target


def headings(text):
    """Returns the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_files_exist(path):
    """`gan/draws.py` is a file of the package, or of the repository."""
    for name in re.findall(r"`([\w./-]+\.(?:py|yaml|tsv|html))`", text_of(path)):
        if re.search("[A-Z]", name) or name in ("config.yaml", "report.html"):
            continue  # a placeholder, or a file of a run
        folders = (ROOT, ROOT / "layered_segmentation", (ROOT / path).parent)
        somewhere = "/" not in name and any(ROOT.glob(f"layered_segmentation/**/{name}"))
        assert somewhere or any((folder / name).exists() for folder in folders), name


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_python_parses(path):
    for block in re.findall(r"```python\n(.*?)```", text_of(path), re.DOTALL):
        ast.parse(block)


def test_every_page_of_docs_is_linked_from_the_index():
    index = ROOT / "docs" / "index.md"
    links = {
        (index.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)", index.read_text())
    }
    assert {path.resolve() for path in (ROOT / "docs").glob("**/*.md")} - {index} <= links


@pytest.fixture(scope="module")
def hooks():
    """docs/hooks.py, which generates the site's reference; MkDocs itself is not needed here."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_verb_and_flag(hooks, layerseg):
    pages = hooks.reference()
    text = "".join(text for path, text in pages.items() if path.startswith("reference/commands/"))
    assert re.findall("^## layerseg (.+)$", text, re.MULTILINE) == list(main.VERBS)
    for verb in ("segment", "train"):
        part = text.partition(f"## layerseg {verb}\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| `--(?:\[no\])?(\w+)[^`]*` \| (.+) \|$", part, re.MULTILINE)
        named = {name for name in flags_of(layerseg, verb) if not name.startswith("no")}
        assert {name for name, _ in rows} == named
        assert all(meaning for _, meaning in rows)


def test_the_reference_has_every_field_with_its_comment(hooks):
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.+) \| (.+) \|$", hooks.settings_page(), re.MULTILINE)
    assert [name for name, _, _ in rows] == [name for name, _, _ in with_defaults(Config())]
    meaning = {name: text for name, _, text in rows}
    assert meaning["gan.mask_size_weight"] == "γ1 of eq. 5. Must be at least 0."
    assert meaning["gan.max_channels"].startswith("Cap on the channels of every layer; 512 is")
    assert meaning["data.aspect"] == "[One of](#aspect) `squash`, `centre_crop`, `pad`."
    assert {name: default for name, default, _ in rows}["gan.shift"] == "`0.125`"


def test_the_reference_has_every_public_name(hooks, monkeypatch):
    names = re.findall(r"^::: layered_segmentation\.(\w+)$", hooks.python_page(), re.MULTILINE)
    assert sorted(names) == sorted(layered_segmentation.__all__)
    monkeypatch.setattr(layered_segmentation, "__all__", [*names, "New"])
    with pytest.raises(ValueError, match="PUBLIC"):
        hooks.python_page()


def test_links_out_of_docs_lead_to_pages_of_the_site(hooks):
    text = (
        "[a](../../export/README.md#x) [b](../method.md) [c](../../LICENSE) [d](https://a.b/c.md)"
    )
    expected = "[a](../export/README.md#x) [b](../method.md) c [d](https://a.b/c.md)"
    assert hooks.with_links(text, "docs/how-to/keras.md") == expected
    text = "[a](docs/how-to/keras.md) ![b](docs/layers.png)\n```\n[c](LICENSE)\n```\n"
    expected = "[a](how-to/keras.md) ![b](layers.png)\n```\n[c](LICENSE)\n```\n"
    assert hooks.with_links(text, "CHANGELOG.md") == expected


def test_code_next_to_an_equation_is_that_of_the_package(hooks):
    shown = hooks.with_code("<!-- code: gan/losses.py mask_binary -->")
    assert "def mask_binary(mask: Any) -> Any:\n    return ops.mean(ops.minimum(" in shown
    with pytest.raises(ValueError, match="no function mask_binari"):
        hooks.with_code("<!-- code: gan/losses.py mask_binari -->")


def test_a_page_that_needs_the_network_is_found(hooks, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<link rel="stylesheet" href="a.css"><a href="https://example.com">a link</a>'
        '<img src="data:image/png;base64,AAAA"><script src="b.js"></script>'
    )
    (tmp_path / "a.css").write_text("a { background: url(c.svg) }")
    assert not list(hooks.fetched_from_elsewhere(tmp_path))
    for tag in (
        '<script src="https://example.com/a.js">',
        '<link rel="preconnect" href="//example.com">',
        '<img src="http://example.com/a.png">',
        '<pre class="mermaid">',
    ):
        page.write_text(tag)
        assert len(list(hooks.fetched_from_elsewhere(tmp_path))) == 1
    page.write_text("")
    (tmp_path / "a.css").write_text("@import 'https://example.com/a.css'; a { src: url(//b.c/d) }")
    assert len(list(hooks.fetched_from_elsewhere(tmp_path))) == 2


def test_the_readme_is_short_and_has_its_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 100
    assert "pip install . && layerseg quickstart --out=quickstart" in readme
    assert "pip install '.[test]' && pytest" in readme


OWN_PHOTOS = re.compile(r"--config=(quickstart_photos|photos/\w+)$")


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_own_photos_have_one_recipe(path):
    for verb, words in commands(text_of(path)):
        if verb == "train" and any("data.path=" in word for word in words):
            assert any(map(OWN_PHOTOS.match, words)), words


def test_readme_and_tutorial_train_on_own_photos_with_the_same_command():
    for page in ("README.md", "docs/tutorial.md", "configs/quickstart_photos.yaml"):
        assert "layerseg quickstart --images=PHOTOS --out=OUT\n" in text_of(pathlib.Path(page))


def test_badges_and_citation_are_true():
    readme, setup = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "setup.py")
    )
    badges = re.findall(r"!\[([^\]]+)\]\(https://img.shields.io/badge/([^)]+)-\w+\)", readme)
    assert len(badges) == readme.count("shields.io") == 4
    for text, address in badges:
        shown = urllib.parse.unquote(address).replace("_", " ").replace("-", " ")
        assert text == shown
    versions = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', setup)
    assert f"Python {' | '.join(versions)}" in readme
    for name, package in (("TensorFlow", "tensorflow"), ("Keras", "keras")):
        least = re.search(rf'"{package}>=(\d+\.\d+)', setup).group(1)
        assert f"![{name} {least}]" in readme
    assert 'license="Apache-2.0"' in setup
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == layered_segmentation.__version__
    assert citation["preferred-citation"]["title"] in readme


def test_the_pictures_of_the_readme_are_small():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\((docs/[^)]+)\)", readme)
    assert "docs/hero.jpg" in pictures and "docs/shift.webp" in pictures
    assert all((ROOT / picture).stat().st_size < 400_000 for picture in pictures)


def test_a_wrong_command_is_found(layerseg):
    found = commands("Run `layerseg segment --inputs=a\n--out=b` and\nlayerseg train \\\n  --x=1")
    assert found == [("segment", ["--inputs=a", "--out=b"]), ("train", ["--x=1"])]
    assert "inputs" not in flags_of(layerseg, "segment")
    assert {"input", "overwrite", "nooverwrite"} <= flags_of(layerseg, "segment")
