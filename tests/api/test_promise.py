"""`import ple_rec`: quick, the same names everywhere, as the snapshot has them, each with its documentation."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

import ple_rec
from tests.api.promise import OBJECTS, members, promise

LARGE = {"torch", "torchrec", "pyarrow", "numpy", "pandas", "ibis", "pydantic", "matplotlib", "tqdm"}


def test_names_and_signatures_are_those_of_the_snapshot() -> None:
    file = Path(__file__).with_name("promise.txt")
    assert "\n".join(promise()) + "\n" == file.read_text(), (
        f"what {file.name} promises has changed. If on purpose: docs/api.md says how a name goes, CHANGELOG.md that it "
        "does, and `python -m tests.api.promise > tests/api/promise.txt` writes the file anew"
    )


def test_the_package_gives_the_names_of_the_api() -> None:
    assert set(ple_rec.__all__) <= set(dir(ple_rec))
    for name in ple_rec.__all__:
        assert getattr(ple_rec, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'ple_rec' has no attribute 'trian'"):
        ple_rec.trian  # noqa: B018


def test_types_are_those_of_the_api() -> None:
    """A type checker sees no `__getattr__`: it reads the imports, which name the modules that `__getattr__` takes."""
    lines = re.findall(r"    from ple_rec\.(\S+) import (\w+) as \2\n", inspect.getsource(ple_rec))
    assert {name: module for module, name in lines} == ple_rec._MODULES


def test_the_import_loads_nothing_large_and_a_name_no_torch() -> None:
    code = """
import sys
import ple_rec
first = set(sys.modules)
ple_rec.UserError, ple_rec.train, ple_rec.Run
import ple_rec.runs.results
from ple_rec.runs.results import format_results
assert callable(ple_rec.train), ple_rec.train
print(*sorted(first & LARGE))
print(*sorted(set(sys.modules) & LARGE))
"""
    argv = [sys.executable, "-c", f"LARGE = {LARGE!r}\n{code}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    at_once, with_names = done.stdout.split("\n")[:2]
    assert at_once == ""
    assert with_names == "pydantic"


def documented() -> list[Any]:
    found = [pytest.param(getattr(ple_rec, name), id=name) for name in ple_rec.__all__]
    for name in OBJECTS:
        for member, value in members(getattr(ple_rec, name)).items():
            if value is not None and not member.startswith("_"):
                found.append(pytest.param(value, id=f"{name}.{member}"))
    return found


@pytest.mark.parametrize("value", documented())
def test_every_name_is_documented(value: Any) -> None:
    call = value.fget if isinstance(value, property) else value.func if isinstance(value, cached_property) else value
    text = inspect.getdoc(call)
    assert text
    if inspect.isfunction(call):
        names = [name for name in inspect.signature(call).parameters if name != "self"]
        assert [name for name in names if f"\n    {name}: " not in text] == []


@pytest.mark.parametrize("name", OBJECTS)
def test_attributes_without_a_docstring_stand_in_that_of_their_class(name: str) -> None:
    kind = getattr(ple_rec, name)
    text = inspect.getdoc(kind) or ""
    assert [each for each, value in members(kind).items() if value is None and f"    {each}: " not in text] == []
