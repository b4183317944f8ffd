"""The language of the product, as far as a machine can hold it: a reader opens one file, for the first time.

`ruff` holds summaries of functions to the imperative (D401). The rules in full are in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project_files import project_files

FOLDERS = ("ple_rec", "data_prep", "launch", "benchmarks")
NO_NOUN = re.compile(
    "(of|in|as|which|whether|from|by|for|with|to|where|when|what|who|whose|on|at|that|than|into|onto|under|over|behind|"
    "beside|without|within|between|per|until|unless|if|how)"
)
NO_NAME = re.compile(
    "(found|given|asked|told|made|held|kept|taken|dealt|heard|met|meant|settled|wanted|drawn|said|sought|insist)"
)
STANDS_ALONE = {"r: Correlation."}
TOML_KEYS = {"ple_rec/config/fusion.py": "kept", "ple_rec/config/prep.py": "found"}


def arguments(docstring: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each entry under `Args:` and `Attributes:`."""
    indent: int | None = None
    for line in docstring.split("\n"):
        own = len(line) - len(line.lstrip())
        if re.fullmatch(r"\s*(Args|Attributes):\s*", line):
            indent = own
        elif indent is not None and line.strip():
            if own <= indent:
                indent = None
            elif entry := re.match(rf"\s{{{indent + 4}}}(\*{{0,2}}\w+)(?: \(.*?\))?: (.*)", line):
                yield entry[1], entry[2]


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of each argument, function, class, variable and attribute that a file defines."""
    for node in ast.walk(tree):
        match node:
            case ast.arg():
                yield node.lineno, node.arg
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


@pytest.fixture(scope="module")
def trees(repository: Path) -> dict[str, ast.Module]:
    files = project_files(FOLDERS, ".py")
    return {str(file.relative_to(repository)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def test_an_argument_is_a_noun_phrase_that_stands_alone(trees: dict[str, ast.Module]) -> None:
    odd = []
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for name, text in arguments(ast.get_docstring(node) or ""):
                    first = re.split(r"\W+", text.lower().lstrip("`'\""))[0]
                    is_word = len(text.split()) == 1 and f"{name}: {text}" not in STANDS_ALONE
                    if NO_NOUN.fullmatch(first) or is_word:
                        odd.append(f"{file}:{node.lineno}: {name}: {text}")
    assert not odd, "\n".join(odd)


def test_a_class_name_stands_for_one_class(trees: dict[str, ast.Module]) -> None:
    places = defaultdict(list)
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{file}:{node.lineno}")
    assert {name: twins for name, twins in places.items() if len(twins) > 1} == {}


def test_participles_are_no_names(trees: dict[str, ast.Module]) -> None:
    odd = [
        f"{file}:{line}: {name}"
        for file, tree in trees.items()
        for line, name in sorted(set(defined_names(tree)))
        if NO_NAME.fullmatch(name.strip("_").lower()) and name != TOML_KEYS.get(file)
    ]
    assert not odd, "\n".join(odd)
