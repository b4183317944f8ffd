"""What the package promises: every name of `ple_rec.__all__` with its signature, as `promise.txt` has it.

A promise that is changed on purpose is written anew by `python -m tests.api.promise > tests/api/promise.txt`.

`inspect` is enough for it. griffe 2.4 (three packages, 2.2 MB) compares commits, not files, and sees no name that is
imported lazily. What it adds, which changes break a caller, is plain to who reads how that file differs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import ple_rec

OBJECTS = ("Dataset", "Run", "Model", "Comparison", "Day", "Plan", "Metrics", "Gates", "Page")
PROTOCOLS = ("__getitem__", "__iter__", "__len__", "__fspath__", "_repr_html_")


def members(kind: type) -> dict[str, Any]:
    """Public attributes, methods and protocols of a class of the API, by name."""
    annotated = {name: None for name in inspect.get_annotations(kind)}
    own = vars(kind) | annotated
    return {name: vars(kind).get(name) for name in sorted(own) if not name.startswith("_") or name in PROTOCOLS}


def promise() -> Iterator[str]:
    """Yield a line for each name, and below a class one for each member."""
    for name in ple_rec.__all__:
        value = getattr(ple_rec, name)
        if not isinstance(value, type):
            yield f"{name}{_signature(value)}"
        elif issubclass(value, ple_rec.PleRecError):
            yield f"{name}({', '.join(base.__name__ for base in value.__bases__)}): exit code {value.exit_code}"
        else:
            yield f"class {name}"
            yield from (f"    {_line(value, *each)}" for each in members(value).items())


def _line(kind: type, name: str, member: Any) -> str:
    if isinstance(member, property):
        assert member.fget is not None
        return f"{name}: {_annotation(member.fget)}"
    if isinstance(member, cached_property):
        return f"{name}: {_annotation(member.func)}"
    return f"{name}{_signature(member)}" if callable(member) else f"{name}: {inspect.get_annotations(kind)[name]}"


def _signature(call: Callable[..., Any]) -> str:
    # Annotations are texts: their quotes say nothing.
    return str(inspect.signature(call)).replace("'", "").replace('"', "")


def _annotation(call: Callable[..., Any]) -> str:
    return str(inspect.signature(call).return_annotation)


if __name__ == "__main__":
    sys.stdout.write("\n".join([*promise(), ""]))
