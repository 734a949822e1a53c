"""What MkDocs does besides converting docs/: reference pages, equations, links, a last check.

`mkdocs build --strict` calls the functions named `on_…` (mkdocs.yml). The reference is generated
from the code, so it is never out of date and never committed. Pages of the repository outside docs/
are part of the site under their own paths.
"""

import ast
import dataclasses
import html.parser
import importlib
import inspect
import io
import pathlib
import posixpath
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from typing import Any

from absl import flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # documents this checkout, installed or not

import layered_segmentation  # noqa: E402
from layered_segmentation import config, config_files  # noqa: E402
from layered_segmentation.cli import app, main  # noqa: E402

# Pages outside docs/.
PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "export/README.md",
    "export/serving/README.md",
    "export/mobile/README.md",
    "export/mobile/web/README.md",
)
PACKAGE = "layered_segmentation"
# The public names, in the order of their page.
PUBLIC = {
    "Segmenters": ("LayeredSegmenter", "EncoderSegmenter", "refine", "cut_out"),
    "The layered GAN": (
        "LayeredGAN", "LayeredGenerator", "Discriminator", "Layers", "compose", "shift",
        "contrast_jitter",
    ),
    "The encoder": ("Autoencoder", "Encoder"),
    "Runs, configs and errors": ("RunDirectory", "Config", "UserError"),
}  # fmt: skip

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_EQUATION = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^<!-- code: (\S+) (\w+) -->$", re.MULTILINE)
_FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
_ELSEWHERE = re.compile(r"(?:https?:)?//")
_CSS = re.compile(r"(?:@import\s+(?:url\()?|url\()\s*['\"]?((?:https?:)?//[^'\")\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages and those outside docs/."""
    from mkdocs.structure.files import File

    for path in PAGES:
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, path, content=text))
    for path, text in reference().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replaces links out of docs/, equations, and references to code."""
    path = page.file.src_uri
    source = path if path in PAGES else f"docs/{path}"
    return with_code(with_equations(with_links(markdown, source)))


def on_post_build(config: Any) -> None:
    """Refuses a site whose pages fetch something from the network."""
    from mkdocs.exceptions import PluginError

    if found := list(fetched_from_elsewhere(pathlib.Path(config.site_dir))):
        raise PluginError("pages must not need the network:\n" + "\n".join(found))


def reference() -> dict[str, str]:
    """Returns the generated pages by path: commands, settings, configs, the Python interface."""
    commands = {
        f"reference/commands/{slug(title)}.md": commands_page(title, verbs)
        for title, verbs in main.GROUPS.items()
    }
    return {
        **commands,
        "reference/settings.md": settings_page(),
        "reference/configs.md": configs_page(),
        "reference/python.md": python_page(),
    }


def commands_page(title: str, verbs: tuple[str, ...]) -> str:
    """Returns the page of a group of verbs, from their docstrings and flags."""
    parts = [f"# {title}", '<div class="reference" markdown>']
    for verb in verbs:
        before = set(flags.FLAGS)
        module = importlib.import_module(f"{PACKAGE}.cli.{verb}")
        text, _, example = inspect.cleandoc(module.__doc__ or "").partition("\nExample:\n")
        usage = f"layerseg {verb} [--flag=value …] {getattr(module, 'ARGUMENTS', '')}".strip()
        rows = ["| flag | meaning |", "|---|---|"]
        for flag in app.own_flags(module):
            head, meaning = app.describe_flag(flag)
            rows.append(f"| `{head}` | {prose(meaning)} |")
        parts += [
            f"## layerseg {verb}",
            prose(text),
            f"```\n{usage}\n```",
            f"Example:\n\n```\n{inspect.cleandoc(example)}\n```",
            "\n".join(rows),
        ]
        for name in set(flags.FLAGS) - before:  # the next verb may have a flag of the same name
            delattr(flags.FLAGS, name)
        sys.modules.pop(module.__name__)
    return "\n\n".join([*parts, "</div>\n"])


def settings_page() -> str:
    """Returns the page of all config fields, from the dataclasses of config.py."""
    parts = [
        "# Settings",
        "A config is a YAML file with these sections; it holds only what differs from the "
        "defaults. On the command line, `--set=section.field=value` overrides one field. The "
        "defaults are the paper's.",
        '<div class="reference" markdown>',
    ]
    used: dict[str, type] = {}
    for section in dataclasses.fields(config.Config):
        kind: Any = section.default_factory
        comments = field_comments(kind)
        parts += [f"## {section.name}", prose(inspect.cleandoc(kind.__doc__ or ""))]
        rows = ["| field | default | meaning |", "|---|---|---|"]
        for field in dataclasses.fields(kind):
            value = getattr(kind(), field.name)
            meaning = prose(comments.get(field.name, ""))
            if isinstance(field.type, type) and issubclass(field.type, config_files.Choice):
                used[field.type.__name__] = field.type
                one_of = ", ".join(f"`{choice}`" for choice in field.type)
                meaning += f" [One of](#{field.type.__name__.lower()}) {one_of}."
            elif possible := field.metadata.get("possible"):
                meaning += f" Must be {prose(possible)}."
            rows.append(
                f"| `{section.name}.{field.name}` | {_default(value)} | {meaning.strip()} |"
            )
        parts.append("\n".join(rows))
    parts.append("## Choices")
    for name, kind in sorted(used.items()):
        parts += [f"### {name}", prose(inspect.cleandoc(kind.__doc__ or ""))]
    return "\n\n".join([*parts, "</div>\n"])


def configs_page() -> str:
    """Returns the page of the packaged configs: their files, with the comments at their head."""
    parts = ["# Configs", "The packaged configs, as `--config=NAME` takes them."]
    for name in config_files.packaged_names():
        text = pathlib.Path(config_files.find(name)).read_text(encoding="utf-8").strip()
        parts += [f"## {name}", f"```yaml\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def python_page() -> str:
    """Returns the page of the public names, which mkdocstrings fills from their docstrings."""
    names = [name for group in PUBLIC.values() for name in group]
    if sorted(names) != sorted(layered_segmentation.__all__):
        raise ValueError("docs/hooks.py: PUBLIC does not have the names of __all__")
    parts = ["# Python", f"All names are imported from `{PACKAGE}`."]
    for title, group in PUBLIC.items():
        parts += [f"## {title}", *(f"::: {PACKAGE}.{name}" for name in group)]
    return "\n\n".join(parts) + "\n"


def field_comments(kind: type) -> dict[str, str]:
    """Returns the comments of a dataclass's fields, those above and those next to each."""
    source = inspect.getsource(kind)
    tree: Any = ast.parse(source).body[0]
    next_to: dict[int, str] = {}
    above: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            is_alone = token.line.strip().startswith("#")
            (above if is_alone else next_to)[token.start[0]] = token.string.lstrip("# ")
    found = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in above:
                first -= 1
            lines = [above[line] for line in range(first, node.lineno)]
            last = node.end_lineno or node.lineno
            lines += [next_to[line] for line in range(node.lineno, last + 1) if line in next_to]
            text = " ".join(lines)
            if text[:1].isascii():  # not α
                text = text[:1].upper() + text[1:]
            found[node.target.id] = text and text.removesuffix(".") + "."
    return found


def prose(text: str) -> str:
    """Returns text of a docstring or a flag as Markdown: flags as code, no accidental markup."""
    parts = re.split(r"(`[^`]*`)", text)
    for index in range(0, len(parts), 2):
        escaped = re.sub(r"([\[\]*<|])", r"\\\1", parts[index])
        parts[index] = re.sub(r"(?<![\w-])(--\w+(?:=[\w./:,-]*\w)?)", r"`\1`", escaped)
    return "".join(parts)


def slug(title: str) -> str:
    """Returns a title as a part of a path."""
    return title.lower().replace(" ", "-")


def with_links(markdown: str, source: str) -> str:
    """Rewrites relative links for the site; links to files that are not pages become text.

    Args:
        markdown: The page.
        source: Its path in the repository.
    """

    def uri(path: str) -> str:
        return path.removeprefix("docs/")

    def replace(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        file, hash_sign, heading = target.partition("#")
        if "://" in target or not file:
            return match.group()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), file))
        if path.startswith("docs/") or path in PAGES:
            there = posixpath.relpath(uri(path), posixpath.dirname(uri(source)) or ".")
            return f"{image}[{label}]({there}{hash_sign}{heading})"
        return label if (ROOT / path).exists() else match.group()

    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(replace, part) for part in parts[::2]]
    return "".join(parts)


def with_equations(markdown: str) -> str:
    """Replaces blocks of LaTeX, which GitHub draws too, by MathML, which browsers draw."""
    from latex2mathml import converter

    def replace(match: re.Match[str]) -> str:
        return f'<div class="equation">{converter.convert(match.group(1), display="block")}</div>'

    return _EQUATION.sub(replace, markdown)


def with_code(markdown: str) -> str:
    """Replaces `<!-- code: FILE NAME -->` by that function's code, without its docstring."""

    def replace(match: re.Match[str]) -> str:
        file, name = match.groups()
        text = (ROOT / PACKAGE / file).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
                first = node.body[0]
                assert first.end_lineno is not None
                if ast.get_docstring(node):
                    del lines[first.lineno - node.lineno : first.end_lineno - node.lineno + 1]
                code = textwrap.dedent("\n".join(lines))
                return f'```python title="{file}"\n{code}\n```'
        raise ValueError(f"{file} has no function {name}")

    return _CODE.sub(replace, markdown)


def fetched_from_elsewhere(site: pathlib.Path) -> Iterator[str]:
    """Yields `FILE: ADDRESS` of each address that a page or a style sheet of a site fetches."""
    for path in sorted(site.rglob("*")):
        if path.suffix not in (".html", ".css"):
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".css":
            addresses = _CSS.findall(text)
        else:
            parser = _Fetched()
            parser.feed(text)
            addresses = [one for one in parser.addresses if _ELSEWHERE.match(one)]
        for address in addresses:
            yield f"{path.relative_to(site)}: {address}"


class _Fetched(html.parser.HTMLParser):
    """Collects what a page fetches when it is opened; links that a reader follows are none."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        name = "href" if tag == "link" else _FETCHED.get(tag, "")
        if name in values and values.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(values[name])
        if "mermaid" in values.get("class", "").split():  # the theme fetches its program
            self.addresses.append("https://unpkg.com/mermaid")


def _default(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"`{key}: {one}`" for key, one in value.items()) or "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value is None:
        return "`null`"
    return f"`{value}`" if str(value) else "empty"
