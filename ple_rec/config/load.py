"""Reading and writing configurations: TOML file or recipe, plus overrides -> typed tree -> TOML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from ple_rec.config.base import Config
from ple_rec.config.choices import RUNS, SCHEMAS, ConfigKind, recipe_names
from ple_rec.config.describe import describe
from ple_rec.config.overrides import apply_overrides
from ple_rec.config.problems import ConfigError, SchemaError, check, validated
from ple_rec.config.recipes import read_document, read_toml
from ple_rec.config.schema import SCHEMA_FILE, SCHEMA_VERSION, SUCCESS_FILE, DatasetSchema
from ple_rec.config.schema_node import SchemaNode
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
    recipes: ConfigKind = RUNS,
    setter: str = str(Option.OVERRIDES),
) -> C:
    """Return a typed configuration from a TOML file or a recipe, with overrides applied.

    Args:
        cls: Configuration class, such as `RunConfig`.
        source: Path or address of a TOML file, name of a recipe, or content of such a file. Its key `base` names
            another one, over which it is merged.
        overrides: Overrides of the form `a.b[1].c=value`, see `overrides.parse_override`.
        more: Function that returns further problems of a valid configuration. It is called only beside an unknown key,
            so that both are reported together; otherwise the caller checks them itself.
        recipes: Kind of configuration whose recipes `source` and `base` may name.
        setter: Name of the overrides in messages, for problems that the file does not have without them.

    Raises:
        UserError: The file does not exist or is not TOML, bases form a circle, or an override cannot be parsed.
        ConfigError: The content has problems, which are all listed.
    """
    document = read_document(source, SchemaNode.of(cls), recipes)
    raw = cls.migrate(document.raw)
    config, problems = _build(cls, raw, overrides, more)
    if config is not None and not problems:
        return config
    of_file = set(_build(cls, raw, (), more)[1] if overrides else problems)
    if of_file.isdisjoint(problems):
        raise ConfigError.of(setter, problems)
    lines = [problem if problem in of_file else f"{setter} {problem}" for problem in problems]
    raise ConfigError.of(document.place, lines)


def _build(
    cls: type[C], raw: dict[str, Any], overrides: Sequence[str], more: Callable[[C], list[str]] | None
) -> tuple[C | None, list[str]]:
    """Return the configuration, or None if it cannot be built, and the distinct problems."""
    raw, problems = apply_overrides(raw, overrides, SchemaNode.of(cls))
    config, content_problems = check(cls, raw)
    problems += content_problems
    if problems and config is not None and more is not None:
        problems += more(config)
    return config, list(dict.fromkeys(problems))


def load_schema(dataset: str | Location) -> DatasetSchema:
    """Return the schema of a complete dataset directory.

    Raises:
        UserError: The directory does not exist or cannot be read.
        DataError: `_SUCCESS` is missing, or `schema.toml` is missing, not TOML, or of another version.
        SchemaError: The content has problems, which are all listed.
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
        is_dataset = complete or (folder / SCHEMA_FILE).exists()
    if not is_dataset:
        raise DataError(
            str(folder),
            f"no {SCHEMA_FILE} and no {SUCCESS_FILE}",
            "it is no dataset directory",
            f"make one of raw logs with `ple-rec prep FILE.toml --from {folder} --out DIR`, and name that",
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
    """Return the schema of a dataset that need not exist.

    Args:
        source: Path of a `schema.toml` or of its folder, or the name of a schema that comes with the package.

    Raises:
        UserError: The file or name does not exist, or the file is not TOML.
        SchemaError: The content has problems, which are all listed.
    """
    names = sorted(file.name.removesuffix(".toml") for file in SCHEMAS.iterdir() if file.name.endswith(".toml"))
    if source in names:
        return _schema(read_toml(SCHEMAS / f"{source}.toml", source), source)
    path = location(source)
    with explain_errors(path, "read", "it describes a dataset"):
        file = path / SCHEMA_FILE if path.is_dir() else path
        exists = file.is_file()
    if not exists:
        known = f"it names a schema.toml, or one of {', '.join(names)}"
        raise UserError("data.described_by", f'got "{source}", which is no file', known, "correct the path or the name")
    return _schema(read_toml(file, str(file)), str(file))


def _schema(raw: dict[str, Any], place: str) -> DatasetSchema:
    schema, problems = check(DatasetSchema, raw)
    if schema is None or problems:
        raise SchemaError.of(place, problems)
    return schema


def dump_toml(config: Config) -> str:
    """Return a configuration as TOML with all defaults, which `load_config` reads as an equal configuration.

    TOML has no null, so a field that is None is left out, and None must be its default.

    Raises:
        ValueError: The text does not read back as an equal configuration.
    """
    content = _content(config)
    if validated(type(config), content) != config:
        raise ValueError(f"{type(config).__name__}: a field that may be None has another default, or is not compared")
    return tomli_w.dumps(content)


def with_values(config: C, values: Mapping[str, Any]) -> C:
    """Return a configuration with other values.

    Args:
        config: Configuration to change.
        values: New values by dotted key; None for the default.

    Raises:
        pydantic.ValidationError: The class refuses a key or a value.
    """
    content = _content(config)
    for key, value in values.items():
        *path, last = key.split(".")
        table = content
        for part in path:
            table = table.setdefault(part, {})
        table.pop(last, None)
        if value is not None:
            table[last] = value
    return validated(type(config), content)


def with_overrides(config: C, texts: Sequence[str], place: str) -> C:
    """Return a configuration with overrides.

    Args:
        config: Configuration to change.
        texts: Overrides in the form of `--set`.
        place: Name of the configuration in messages.

    Raises:
        ConfigError: The overrides have problems, which are all listed.
    """
    changed, problems = _build(type(config), _content(config), texts, None)
    if changed is None or problems:
        raise ConfigError.of(place, problems)
    return changed


def fingerprint(config: Config) -> str:
    """Return 16 hexadecimal digits that are equal for equal configurations, on any machine."""
    text = json.dumps(_content(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _content(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True, round_trip=True)
