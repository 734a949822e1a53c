"""What the layout of the code promises: imports only go down, and one module writes files."""

import ast
import collections
import os
import pathlib
import subprocess
import sys

import pytest

PACKAGE = "layered_segmentation"
ROOT = pathlib.Path(__file__).resolve().parents[1]

# The way of the data: a module imports from its own line and those above. The modules of the
# package's root, config.py to run_directory.py, are the first line.
ORDER = ("", "data", "gan", "segmenter", "evaluation", "export", "port", "benchmarks", "cli")

# What only files.py may do: (module, function).
RENAMING = {("os", "replace"), ("os", "rename"), ("os", "renames"), ("shutil", "move")}
LOCKING = {"fcntl", "msvcrt", "filelock"}
UNIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios"}


def modules(root):
    """Returns the syntax trees of a package's modules by their names."""
    trees = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = (path.relative_to(root), ast.parse(path.read_text(encoding="utf-8")))
    return trees


def imports(trees):
    """Yields (importing module, imported module, file, line), also of imports in functions.

    What a module does as a program, under `if __name__ == "__main__":`, is not part of it: there
    `python -m` may hand over to the command line.
    """
    for name, (path, tree) in trees.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        body = [node for node in tree.body if not is_main_guard(node)]
        for node in ast.walk(ast.Module(body, [])):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    above = package.split(".")[: len(package.split(".")) - node.level + 1]
                    base = ".".join([*above, *([base] if base else [])])
                inside = [f"{base}.{alias.name}" for alias in node.names]
                found = [module if module in trees else base for module in inside]
            else:
                continue
            for module in dict.fromkeys(found):
                if module in trees and module != name:
                    yield name, module, path, node.lineno


def is_main_guard(node):
    """Returns whether a statement is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def line_of(module):
    """Returns the line of `ORDER` that a module is on."""
    parts = module.split(".")
    return ORDER.index(parts[1] if len(parts) > 1 and parts[1] in ORDER else "")


def upward(trees):
    """Returns messages by (importing module, imported module) for imports that go up."""
    messages = collections.defaultdict(list)
    for name, module, path, line in imports(trees):
        if name == PACKAGE:  # the public names
            continue
        if module == PACKAGE and line_of(name) < len(ORDER) - 1:
            rule = "import the module that defines a public name, not the package"
        elif line_of(module) > line_of(name):
            rule = f"{ORDER[line_of(module)]}/ comes after {ORDER[line_of(name)] or 'the root'}"
        else:
            continue
        messages[name, module].append(f"{path}:{line}: {name} imports {module}: {rule}")
    return dict(messages)


def circles(trees):
    """Returns the sets of modules that import each other, directly or not (Tarjan)."""
    graph = collections.defaultdict(set)
    for name, module, _, _ in imports(trees):
        if name != PACKAGE:
            graph[name].add(module)
    index, low, stack, found = {}, {}, [], []

    def visit(name):
        index[name] = low[name] = len(index)
        stack.append(name)
        for module in sorted(graph[name]):
            if module not in index:
                visit(module)
                low[name] = min(low[name], low[module])
            elif module in stack:
                low[name] = min(low[name], index[module])
        if low[name] == index[name]:
            circle = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(circle) > 1:
                found.append(frozenset(circle))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def calls_of(trees, functions):
    """Yields (module, file, line, function) of calls `os.replace(...)` and their like."""
    for name, (path, tree) in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                function = (node.value.id, node.attr)
                if function in functions:
                    yield name, path, node.lineno, ".".join(function)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (node.module, alias.name) in functions:
                        yield name, path, node.lineno, f"{node.module}.{alias.name}"


def imported_names(tree):
    """Yields (top-level module, line, whether at the top of the file) of all imports."""
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            continue
        for name in names:
            yield name.partition(".")[0], node.lineno, id(node) in top


TREES = modules(ROOT)


def test_imports_only_go_down():
    found = [message for messages in upward(TREES).values() for message in messages]
    assert not found, "\n".join(["imports go up:", *sorted(found)])


def test_no_modules_import_each_other():
    found = [" <-> ".join(sorted(circle)) for circle in circles(TREES)]
    assert not found, "\n".join(["circles of imports:", *sorted(found)])


def test_one_module_renames_and_locks():
    files = f"{PACKAGE}.files"
    found = [
        f"{path}:{line}: {function}: use files.py"
        for name, path, line, function in calls_of(TREES, RENAMING)
        if name != files
    ]
    for name, (path, tree) in TREES.items():
        for module, line, _ in imported_names(tree):
            if module in LOCKING and name != files:
                found.append(f"{path}:{line}: import {module}: use files.Lock")
    assert not found, "\n".join(found)


def test_the_package_imports_without_modules_of_unix():
    found = [
        f"{path}:{line}: import {module} inside the function that needs it"
        for path, tree in TREES.values()
        for module, line, is_at_top in imported_names(tree)
        if module in UNIX_ONLY and is_at_top
    ]
    assert not found, "\n".join(found)


def test_light_modules_are_imported_without_modules_of_unix():
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(UNIX_ONLY)!r})); "
        f"import {PACKAGE}.cli.app, {PACKAGE}.run_directory, {PACKAGE}.images"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def tree(tmp_path):
    """Writes a package of modules from their texts and returns its syntax trees."""

    def write(**texts):
        for name, text in {"__init__": "", **texts}.items():
            path = tmp_path / PACKAGE / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return modules(tmp_path)

    return write


@pytest.mark.parametrize(
    "text",
    [
        f"from {PACKAGE} import gan",
        f"from {PACKAGE}.gan import draws",
        f"import {PACKAGE}.gan.draws",
        f"def lazy():\n    from {PACKAGE}.gan.draws import latents",
        f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {PACKAGE}.gan.draws",
        "from ..gan import draws",
    ],
)
def test_an_import_that_goes_up_is_found(tree, text):
    trees = tree(
        data__in____init__="", data__in__folder=text, gan__in____init__="", gan__in__draws=""
    )
    ((pair, (message,)),) = upward(trees).items()
    assert pair[0] == f"{PACKAGE}.data.folder" and pair[1].startswith(f"{PACKAGE}.gan")
    line = len(text.splitlines())
    assert message.startswith(f"{os.path.join(PACKAGE, 'data', 'folder.py')}:{line}: ")
    assert message.endswith("gan/ comes after data")


def test_imports_that_go_down_are_none(tree):
    trees = tree(
        files="",
        data__in__folder=f"from {PACKAGE} import files\nimport os",
        gan__in__draws=f"from {PACKAGE}.data.folder import find",
        cli__in__train=f"def main():\n    from {PACKAGE}.gan import draws",
        export__in__tflite=f'if __name__ == "__main__":\n    from {PACKAGE}.cli import train',
    )
    assert upward(trees) == {} and circles(trees) == []


def test_the_package_itself_is_not_imported_from(tree):
    (messages,) = upward(tree(files=f"from {PACKAGE} import Segmenter")).values()
    assert "import the module that defines a public name" in messages[0]


def test_circles_are_found(tree):
    trees = tree(
        a=f"from {PACKAGE} import b",
        b=f"def lazy():\n    from {PACKAGE} import c",
        c=f"from {PACKAGE}.a import name",
        d=f"from {PACKAGE} import a",
    )
    assert circles(trees) == [frozenset(f"{PACKAGE}.{name}" for name in "abc")]


def test_renaming_is_found(tree):
    trees = tree(a="import os\n\nos.replace('a', 'b')", b="from shutil import move")
    found = [(name, line, function) for name, _, line, function in calls_of(trees, RENAMING)]
    assert found == [(f"{PACKAGE}.a", 3, "os.replace"), (f"{PACKAGE}.b", 1, "shutil.move")]
