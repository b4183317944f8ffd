"""Where a configuration comes from: a TOML file or a recipe of the package, and the chain of `base` below it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ple_rec.config.choices import COMPARISONS, RUNS, Kind, recipe_names
from ple_rec.config.overrides import merge
from ple_rec.config.problems import ConfigError
from ple_rec.config.shape import SchemaNode
from ple_rec.config.words import shortened, type_name
from ple_rec.errors import UserError
from ple_rec.storage import Location, Remote, is_address, location
from ple_rec.text.suggest import did_you_mean

BASE = "base"
CALLERS = "config"  # in a message: the configuration that a caller gives as a mapping


@dataclass(frozen=True)
class Document:
    """A merged TOML document.

    Args:
        place: Its name in a message, `runs/a.toml (base census-ple)`.
        raw: Its content, without `base`.
    """

    place: str
    raw: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """One file of the chain; whatever path leads to it, it is the same.

    Args:
        place: Its name in a message.
        file: The file to read.
        folder: Folder that its `base` starts from.
    """

    place: str = field(compare=False)
    file: Traversable | Remote
    folder: Path = field(compare=False)


def read_document(source: str | Location | Mapping[str, Any], shape: SchemaNode, kind: Kind = RUNS) -> Document:
    """Read a file or a recipe and merge it over its base, the base over its own, and so on.

    Args:
        source: Path or address of a TOML file, or a recipe's name; a name goes before a file in the working directory.
            Or the content of such a file, whose `base` starts from the working directory, as that of an address does.
        shape: Shape of the model that will be made of it.
        kind: Kind of configuration, whose recipes it may name.

    Raises:
        UserError: no such file or recipe, a file that cannot be read or is not TOML, bases that form a circle.
        ConfigError: `base` is not a string.
    """
    if isinstance(source, Mapping):
        own = dict(source)
        base = _popped_base(own, CALLERS)
        if base is None:
            return Document(CALLERS, own)
        below_it = read_document(base, shape, kind)
        return Document(f"{CALLERS} (base {below_it.place})", merge(below_it.raw, own, shape, []))
    chain: list[tuple[_Source, dict[str, Any]]] = []
    at: _Source | None = _find(source, Path(), "", kind)
    while at is not None:
        if at in (seen := [below for below, _ in chain]):
            circle = " -> ".join(link.place for link in [*seen[seen.index(at) :], at])
            raise UserError(
                seen[-1].place, f"base leads in a circle ({circle})", "a base stands below its user", "drop one `base`"
            )
        raw = read_toml(at.file, at.place)
        base = _popped_base(raw, at.place)
        chain.append((at, raw))
        at = _find(base, at.folder, f"{at.place}: base ", kind) if base is not None else None
    (top, _), *below = chain
    place = top.place + (f" (base {', '.join(link.place for link, _ in below)})" if below else "")
    merged: Any = {}
    for _, raw in reversed(chain):
        merged = merge(merged, raw, shape, [])
    return Document(place, merged)


def _popped_base(raw: dict[str, Any], place: str) -> str | None:
    """Take `base` out of a document."""
    base = raw.pop(BASE, None)
    if base is not None and not isinstance(base, str):
        problem = f"{BASE}: got {shortened(base)} ({type_name(base)}); expected a recipe's name or a path"
        raise ConfigError.of(place, [problem])
    return base


def read_toml(file: Traversable | Remote, place: str) -> dict[str, Any]:
    """Read one TOML file.

    Raises:
        UserError: it cannot be read, is not UTF-8, or is not TOML, with line and column.
    """
    try:
        text = file.read_bytes().decode()
        return tomllib.loads(text)
    except OSError as error:
        raise UserError(
            place, error.strerror or str(error), "a readable TOML file is needed", "check the path"
        ) from None
    except UnicodeDecodeError as error:
        value = f"byte {error.start} is not UTF-8"
        raise UserError(place, value, "TOML is UTF-8 text", "save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), text, place) from None
    except RecursionError:
        raise UserError(place, "nested too deeply", "no configuration is so deep", "correct its brackets") from None


def _find(source: str | Location, folder: Path, user: str, kind: Kind) -> _Source:
    """Return the recipe or the file that `source` means; `user` says in a message whose base it is."""
    if isinstance(source, Remote) or (isinstance(source, str) and is_address(source)):
        return _Source(str(source), location(source), Path())
    names = recipe_names(kind)
    if isinstance(source, str) and source in names:
        return _Source(source, kind.files / f"{source}.toml", Path())
    path = folder / source
    if path.is_file():
        return _Source(str(path), path.resolve(), path.parent)
    if path.is_dir():
        inside = path / "config.toml"
        fix = f"name the file in it, {inside}" if inside.is_file() else "name a file"
        raise UserError(f"{user}{path}", "a directory", "a configuration is a TOML file", fix)
    for other in (RUNS, COMPARISONS):
        if other != kind and str(source) in recipe_names(other):
            fix = f"call `ple-rec {other.verb} --config {source}`, or name one of {', '.join(names)}"
            rule = f"that of a {kind.name} is needed here"
            raise UserError(f"{user}{source}", f"a recipe of a {other.name}", rule, fix)
    hint = did_you_mean(Path(source).stem, names, '"', end=" ")
    known = f"recipes: {', '.join(names) or 'none'}"
    a_path = isinstance(source, Path) or path.suffix == ".toml" or len(Path(source).parts) > 1
    raise UserError(
        f"{user}{path if a_path else source}",
        "no such file" if a_path else "no such recipe or file",
        f"{hint}({known})" if hint else known,
        "give the path of a TOML file or the name of a recipe",
    )


def _syntax_error(message: str, text: str, place: str) -> UserError:
    found = re.fullmatch(r"(.*) \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)", message, re.DOTALL)
    rule, line, column = found.groups() if found else (message, None, None)
    lines = text.split("\n")
    row = int(line) if line else len(lines)
    col = int(column) if column else len(lines[-1]) + 1
    shown = lines[row - 1].strip()
    value = f"`{shown}` is not TOML" if shown else "not TOML"
    return UserError(
        f"{place}, line {row}, column {col}", value, rule[:1].lower() + rule[1:], "correct it; strings need quotes"
    )
