"""Every private name of another library that product code uses stands in docs/private.md, and nothing else does."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.project_files import project_files
from tests.test_layering import FOLDERS

NAMED_TUPLE = {"_asdict", "_fields", "_make", "_replace"}  # public, whatever they look like
Use = tuple[str, str]  # file, name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def uses(source: str) -> set[str]:
    """Private names of other libraries that a file uses.

    `torch.distributed._shard.sharded_tensor.Shard`: imported, or read from a module or a class that is imported.
    `._lookups`: read from a value, by a name that this file gives to nothing.
    `Module._apply`: of a base class that is imported, by a class that overrides or reads it.
    """
    tree = ast.parse(source)
    imported = dict(_imports(tree))
    own = set(_given(tree))
    found = {name for name in imported.values() if any(map(is_private, name.split(".")))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in NAMED_TUPLE:
            root, *path = ast.unparse(node).split(".")
            if root in imported:
                found.add(".".join([imported[root], *path]))
            elif root not in ("self", "cls", *sys.stdlib_module_names) and node.attr not in own:
                found.add(f".{node.attr}")
        elif isinstance(node, ast.ClassDef):
            found |= _of_bases(node, imported)
    return found


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name in the file and full name of what is imported from other libraries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            pairs = [(alias.asname or alias.name.split(".")[0], alias.asname and alias.name) for alias in node.names]
            names = [(name, full or name) for name, full in pairs]
        elif isinstance(node, ast.ImportFrom):
            names = [(alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names]
        else:
            continue
        for name, full in names:
            if full.split(".")[0] not in (*sys.stdlib_module_names, *FOLDERS):
                yield name, full


def _given(tree: ast.AST) -> Iterator[str]:
    """Names that the code gives to something: functions, classes, fields, attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def _of_bases(node: ast.ClassDef, imported: dict[str, str]) -> set[str]:
    """Private names of imported base classes that a class overrides, or reads and does not give itself."""
    found = set()
    own = set(filter(is_private, _given(node)))
    attributes = [each for each in ast.walk(node) if isinstance(each, ast.Attribute) and is_private(each.attr)]
    read = {each.attr for each in attributes if ast.unparse(each.value) in ("self", "super()")}
    for base in node.bases:
        root, *path = ast.unparse(base).split("[")[0].split(".")
        if root in imported and (own or read):
            full = ".".join([imported[root], *path])
            name = full.rpartition(".")[2]
            found |= {f"{name}.{each}" for each in (read - own) | (own & _names(full))}
    return found


def _names(full: str) -> set[str]:
    """Names that a class and its bases give to something."""
    module, _, name = full.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    names: set[str] = set()
    for base in kind.__mro__ if isinstance(kind, type) else ():
        names |= set(vars(base))
        with suppress(OSError, TypeError):  # of a class in C there is no source
            names |= set(_given(ast.parse(textwrap.dedent(inspect.getsource(base)))))
    return names


def table(text: str) -> list[Use]:
    """File and name of every entry: the first two cells of a row hold one file, and names."""
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`(.+?)`", file)[0], name) for file, names in rows for name in re.findall(r"`(.+?)`", names)]


def test_the_table_lists_every_private_name_and_no_other(repository: Path) -> None:
    files = project_files(FOLDERS, ".py")
    assert len(files) > 20
    used = {(str(file.relative_to(repository)), name) for file in files for name in uses(file.read_text("utf-8"))}
    listed = table((repository / "docs" / "private.md").read_text("utf-8"))
    assert len(listed) == len(set(listed))
    assert sorted(used - set(listed)) == [], "used, and not in docs/private.md"
    assert sorted(set(listed) - used) == [], "in docs/private.md, and used nowhere"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from torch._C import thing", {"torch._C.thing"}),
        ("def f():\n    from torch.serialization import _get_layout as g", {"torch.serialization._get_layout"}),
        ("import torch\ntorch.ops.mkldnn._linear(1)", {"torch.ops.mkldnn._linear"}),
        ("import torch.distributed as dist\ndist.c10d._store()", {"torch.distributed.c10d._store"}),
        ("for x in collection._lookups: pass", {"._lookups"}),
        ("class A:\n    def f(self): self._own = 1\ndef g(a): return a._own", set()),
        ("import os\nos._exit(1)", set()),
        ("from ple_rec.data.batch import _own", set()),
        ("a._replace(x=1).__doc__", set()),
        (
            "from collections import UserDict\nfrom torch.nn import Module\n"
            "class A(Module):\n    def _apply(self, f): return self._own()\n    def _own(self): return self._buffers",
            {"Module._apply", "Module._buffers"},
        ),
    ],
)
def test_the_search_finds(source: str, found: set[str]) -> None:
    assert uses(source) == found
