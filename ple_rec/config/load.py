"""Configurations in and out: TOML file or recipe, plus overrides -> typed tree -> TOML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from ple_rec.config.base import Config
from ple_rec.config.choices import RUNS, SCHEMAS, Kind, recipe_names
from ple_rec.config.describe import describe
from ple_rec.config.overrides import apply_overrides
from ple_rec.config.problems import ConfigError, SchemaError, check, validated
from ple_rec.config.recipes import read_document, read_toml
from ple_rec.config.schema import SCHEMA_FILE, SCHEMA_VERSION, SUCCESS_FILE, DatasetSchema
from ple_rec.config.shape import SchemaNode
from ple_rec.config.words import shortened
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import Location, explain_errors, location

__all__ = [
    "ConfigError",
    "SchemaError",
    "describe",
    "described_schema",
    "dump_toml",
    "fingerprint",
    "load_config",
    "load_schema",
    "recipe_names",
    "with_overrides",
    "with_values",
]

C = TypeVar("C", bound=Config)


def load_config(
    cls: type[C],
    source: str | Location | Mapping[str, Any],
    overrides: Sequence[str] = (),
    more: Callable[[C], list[str]] | None = None,
    recipes: Kind = RUNS,
    setter: str = str(Option.OVERRIDES),
) -> C:
    """Read a configuration, put the overrides into it, and make the typed tree.

    Args:
        cls: The model to make, `RunConfig` for one.
        source: Path or address of a TOML file, the name of a recipe, or the content of such a file. Its key `base`
            names another that it is merged over.
        overrides: `a.b[1].c=value` each, see `overrides.parse_override`.
        more: Further problems of a configuration that is well-formed, named beside an unknown key; the caller looks
            for them itself where there is no other problem.
        recipes: Kind of configuration, whose recipes `source` and `base` may name.
        setter: Name of the overrides in messages: a problem that the file does not have without them is theirs.

    Raises:
        UserError: a file that is not there or not TOML, bases in a circle, an override that cannot be read.
        ConfigError: every problem of the content, together.
    """
    document = read_document(source, SchemaNode.of(cls), recipes)
    raw = cls.migrate(document.raw)
    config, problems = _made(cls, raw, overrides, more)
    if config is not None and not problems:
        return config
    own = set(_made(cls, raw, (), more)[1] if overrides else problems)
    if own.isdisjoint(problems):
        raise ConfigError.of(setter, problems)
    lines = [problem if problem in own else f"{setter} {problem}" for problem in problems]
    raise ConfigError.of(document.place, lines)


def _made(
    cls: type[C], raw: dict[str, Any], overrides: Sequence[str], more: Callable[[C], list[str]] | None
) -> tuple[C | None, list[str]]:
    """Return the tree, as far as there is one, and every problem once."""
    raw, problems = apply_overrides(raw, overrides, SchemaNode.of(cls))
    config, others = check(cls, raw)
    problems += others
    if problems and config is not None and more is not None:
        problems += more(config)
    return config, list(dict.fromkeys(problems))


def load_schema(dataset: str | Location) -> DatasetSchema:
    """Read `schema.toml` of a dataset directory that is complete.

    Raises:
        UserError: there is no such directory, or it may not be read, or its store cannot be reached.
        DataError: no `_SUCCESS`, or a `schema.toml` that is not there, not TOML, or of another version.
        SchemaError: every problem of the content, together.
    """
    folder = location(dataset)
    prepare = f"move it away, and make it again with `ple-rec prep ... --out {folder}`"
    with explain_errors(folder, "read", "the files of a dataset are read"):
        if not folder.is_dir():
            value = "not a directory" if folder.exists() else "no such directory"
            value += "" if folder.is_absolute() else f" in {Path.cwd()}"
            raise UserError(
                str(folder), value, "a dataset directory is needed", f"make it with `ple-rec prep ... --out {folder}`"
            )
        complete = (folder / SUCCESS_FILE).is_file()
        described = complete or (folder / SCHEMA_FILE).exists()
    if not described:
        raise DataError(
            str(folder),
            f"no {SCHEMA_FILE} and no {SUCCESS_FILE}",
            "it is no dataset directory",
            f"of raw logs make one with `ple-rec prep FILE.toml --from {folder} --out DIR`, and name that",
        )
    if not complete:
        raise DataError(str(folder), f"no {SUCCESS_FILE} file", "a dataset directory without it is incomplete", prepare)
    file = folder / SCHEMA_FILE
    try:
        raw = read_toml(file, str(file))
    except UserError as error:
        raise DataError(error.place, error.value, error.rule, prepare) from None
    version = raw.get("version")
    if isinstance(version, int) and version != SCHEMA_VERSION:
        rule = f"this ple_rec reads version {SCHEMA_VERSION}"
        raise DataError(str(file), f"version {shortened(version)}", rule, prepare)
    return _schema(raw, str(file))


def described_schema(source: str) -> DatasetSchema:
    """Return the schema of a dataset that is not there, of a `schema.toml` or of one that comes with the package.

    Raises:
        UserError: no such file or name, or a file that is not TOML.
        SchemaError: every problem of the content, together.
    """
    names = sorted(file.name.removesuffix(".toml") for file in SCHEMAS.iterdir() if file.name.endswith(".toml"))
    if source in names:
        return _schema(read_toml(SCHEMAS / f"{source}.toml", source), source)
    path = location(source)
    with explain_errors(path, "read", "it describes a dataset"):
        file = path / SCHEMA_FILE if path.is_dir() else path
        there = file.is_file()
    if not there:
        known = f"it names a schema.toml, or one of {', '.join(names)}"
        raise UserError("data.described_by", f'got "{source}", which is no file', known, "correct the path or the name")
    return _schema(read_toml(file, str(file)), str(file))


def _schema(raw: dict[str, Any], place: str) -> DatasetSchema:
    schema, problems = check(DatasetSchema, raw)
    if schema is None or problems:
        raise SchemaError.of(place, problems)
    return schema


def dump_toml(config: Config) -> str:
    """Return the whole configuration as TOML, defaults included; `load_config` makes an equal one of it.

    A field that is None is left out, for TOML has no null; so None must be its default.

    Raises:
        ValueError: the text would not read back as an equal configuration.
    """
    content = _content(config)
    if validated(type(config), content) != config:
        raise ValueError(f"{type(config).__name__}: a field that may be None has another default, or is not compared")
    return tomli_w.dumps(content)


def with_values(config: C, values: Mapping[str, Any]) -> C:
    """Return the configuration with other values at dotted keys; None takes a key back to its default.

    Raises:
        pydantic.ValidationError: a key or a value that the configuration cannot have.
    """
    content = _content(config)
    for key, value in values.items():
        *path, last = key.split(".")
        at = content
        for part in path:
            at = at.setdefault(part, {})
        at.pop(last, None)
        if value is not None:
            at[last] = value
    return validated(type(config), content)


def with_overrides(config: C, texts: Sequence[str], place: str) -> C:
    """Return the configuration with overrides, as `--set` takes them; `place` is what a message calls it.

    Raises:
        ConfigError: every problem of the overrides, together.
    """
    changed, problems = _made(type(config), _content(config), texts, None)
    if changed is None or problems:
        raise ConfigError.of(place, problems)
    return changed


def fingerprint(config: Config) -> str:
    """Return 16 hexadecimal digits that are the same for equal configurations, in any process and on any machine."""
    text = json.dumps(_content(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _content(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True, round_trip=True)
