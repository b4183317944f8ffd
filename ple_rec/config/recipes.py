"""Reading of a configuration's document: a TOML file or a recipe (a TOML file of the package), merged over its bases.

The key `base` of a document names another file or recipe, whose values apply where the document has none.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ple_rec.config.choices import COMPARISON_CONFIGS, RUN_CONFIGS, ConfigKind, recipe_names
from ple_rec.config.overrides import merge
from ple_rec.config.problems import ConfigError
from ple_rec.config.schema_node import SchemaNode
from ple_rec.config.words import short_value, type_name
from ple_rec.errors import UserError
from ple_rec.storage import Location, Remote, is_address, location
from ple_rec.text.suggest import did_you_mean

BASE = "base"
MAPPING_PLACE = "config"  # Name in messages of a configuration that a caller passes as a mapping.


@dataclass(frozen=True)
class Document:
    """Content of a TOML file or of a mapping, merged over its bases.

    Args:
        place: Name for messages, such as `runs/a.toml (base census-ple)`.
        raw: Content without `base`.
    """

    place: str
    raw: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """File of a chain of bases; two sources are equal if they are the same file, whatever their paths.

    Args:
        place: Name for messages.
        file: File to read.
        folder: Folder to which the path in its `base` is relative.
    """

    place: str = field(compare=False)
    file: Traversable | Remote
    folder: Path = field(compare=False)


def read_document(
    source: str | Location | Mapping[str, Any], node: SchemaNode, kind: ConfigKind = RUN_CONFIGS
) -> Document:
    """Read a file or a recipe, and merge it over its base, the base over its own base, and so on.

    Args:
        source: Path or address of a TOML file, name of a recipe, or content of a file. A name that is both a recipe and
            a file in the working directory is the recipe. A path in `base` is relative to the folder of the file that
            holds it; in a mapping, a recipe or a file at an address, it is relative to the working directory.
        node: Root node of the configuration class.
        kind: Kind of configuration whose recipes `source` and `base` may name.

    Raises:
        UserError: A file or recipe does not exist, a file cannot be read or is not TOML, or bases form a circle.
        ConfigError: `base` is not a string.
    """
    if isinstance(source, Mapping):
        content = dict(source)
        base = _pop_base(content, MAPPING_PLACE)
        if base is None:
            return Document(MAPPING_PLACE, content)
        base_document = read_document(base, node, kind)
        return Document(f"{MAPPING_PLACE} (base {base_document.place})", merge(base_document.raw, content, node))
    chain: list[tuple[_Source, dict[str, Any]]] = []
    file: _Source | None = _find(source, Path(), "", kind)
    while file is not None:
        if file in (files := [link for link, _ in chain]):
            circle = " -> ".join(link.place for link in [*files[files.index(file) :], file])
            raise UserError(
                files[-1].place, f"base leads in a circle ({circle})", "no file is its own base", "drop one `base`"
            )
        raw = read_toml(file.file, file.place)
        base = _pop_base(raw, file.place)
        chain.append((file, raw))
        file = _find(base, file.folder, f"{file.place}: base ", kind) if base is not None else None
    (first, _), *bases = chain
    place = first.place + (f" (base {', '.join(link.place for link, _ in bases)})" if bases else "")
    merged: Any = {}
    for _, raw in reversed(chain):
        merged = merge(merged, raw, node)
    return Document(place, merged)


def _pop_base(raw: dict[str, Any], place: str) -> str | None:
    """Remove `base` from a document and return it; None if there is none."""
    base = raw.pop(BASE, None)
    if base is not None and not isinstance(base, str):
        problem = f"{BASE}: got {short_value(base)} ({type_name(base)}); expected a recipe's name or a path"
        raise ConfigError.from_problems(place, [problem])
    return base


def read_toml(file: Traversable | Remote, place: str) -> dict[str, Any]:
    """Return the content of one TOML file.

    Args:
        file: File to read.
        place: Name of the file in messages.

    Raises:
        UserError: The file cannot be read, is not UTF-8, is nested too deeply, or is not TOML. In the last case, the
            message has line and column.
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
        raise UserError(
            place, "nested too deeply", "no configuration has so many levels", "correct its brackets"
        ) from None


def _find(source: str | Location, folder: Path, referrer: str, kind: ConfigKind) -> _Source:
    """Return the recipe or file that a source names.

    Args:
        source: Name of a recipe, path or address.
        folder: Folder to which a path is relative.
        referrer: Beginning of messages, which says whose base the source is; empty for the first file.
        kind: Kind of configuration whose recipes the source may name.

    Raises:
        UserError: There is no such recipe or file.
    """
    if isinstance(source, Remote) or (isinstance(source, str) and is_address(source)):
        return _Source(str(source), location(source), Path())
    names = recipe_names(kind)
    if isinstance(source, str) and source in names:
        return _Source(source, kind.recipe_folder / f"{source}.toml", Path())
    path = folder / source
    if path.is_file():
        return _Source(str(path), path.resolve(), path.parent)
    if path.is_dir():
        config_file = path / "config.toml"
        fix = f"name the file in it, {config_file}" if config_file.is_file() else "name a file"
        raise UserError(f"{referrer}{path}", "a directory", "a configuration is a TOML file", fix)
    for other in (RUN_CONFIGS, COMPARISON_CONFIGS):
        if other != kind and str(source) in recipe_names(other):
            fix = f"call `ple-rec {other.verb} --config {source}`, or name one of {', '.join(names)}"
            rule = f"the configuration of a {kind.name} is needed here"
            raise UserError(f"{referrer}{source}", f"a recipe of a {other.name}", rule, fix)
    hint = did_you_mean(Path(source).stem, names, '"', suffix=" ")
    known = f"recipes: {', '.join(names) or 'none'}"
    is_path = isinstance(source, Path) or path.suffix == ".toml" or len(Path(source).parts) > 1
    folder_text = "" if path.is_absolute() else f" in {Path.cwd()}"
    raise UserError(
        f"{referrer}{path if is_path else source}",
        f"no such file{folder_text}" if is_path else "no such recipe or file",
        f"{hint}({known})" if hint else known,
        "give the path of a TOML file or the name of a recipe",
    )


def _syntax_error(message: str, text: str, place: str) -> UserError:
    """Return the error of a text that is not TOML, from the message of `tomllib`."""
    match = re.fullmatch(r"(.*) \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)", message, re.DOTALL)
    rule, line, column = match.groups() if match else (message, None, None)
    lines = text.split("\n")
    line_number = int(line) if line else len(lines)
    column_number = int(column) if column else len(lines[-1]) + 1
    wrong_line = lines[line_number - 1].strip()
    value = f"`{wrong_line}` is not TOML" if wrong_line else "not TOML"
    return UserError(
        f"{place}, line {line_number}, column {column_number}",
        value,
        rule[:1].lower() + rule[1:],
        "correct it; strings need quotes",
    )
