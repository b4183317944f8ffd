"""Configurations from TOML and back: TOML file or recipe, plus overrides -> pydantic model -> TOML text.

`load_config` reads any configuration, `load_schema` the schema of a dataset; `dump_toml` returns either as text. A
recipe is a TOML file that comes with ple-rec; an override is a change of one key, written as `a.b[1].c=value`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from ple_rec.config.base import Config
from ple_rec.config.choices import RUN_CONFIGS, SCHEMAS, ConfigKind, recipe_names
from ple_rec.config.describe import describe
from ple_rec.config.overrides import apply_overrides
from ple_rec.config.problems import ConfigError, SchemaError, parse_document, validate
from ple_rec.config.recipes import read_document, read_toml
from ple_rec.config.schema import SCHEMA_FILE, SCHEMA_VERSION, SUCCESS_FILE, DatasetSchema
from ple_rec.config.schema_node import SchemaNode
from ple_rec.config.words import short_value
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import Location, explain_errors, location

__all__ = [
    "ConfigError",
    "SchemaError",
    "describe",
    "dump_toml",
    "fingerprint",
    "load_config",
    "load_described_schema",
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
    more_problems: Callable[[C], list[str]] | None = None,
    kind: ConfigKind = RUN_CONFIGS,
    overrides_name: str = str(Option.OVERRIDES),
) -> C:
    """Return the configuration in a TOML file or a recipe, with overrides applied.

    Args:
        cls: Configuration class, such as `RunConfig`.
        source: Path or address of a TOML file, name of a recipe, or content of such a file. The key `base` in it names
            another file or recipe, over which it is merged.
        overrides: Overrides of the form `a.b[1].c=value`, see `overrides.parse_override`.
        more_problems: Function that returns further problems of a configuration that can be built. It is called only
            if there are problems already, such as an unknown key, to report all together; else the caller checks them.
        kind: Kind of configuration whose recipes `source` and `base` may name.
        overrides_name: Name of the overrides in messages about problems that they cause.

    Raises:
        UserError: A file cannot be read or is not TOML, bases form a circle, or an override cannot be parsed.
        ConfigError: The content has problems, which are all listed.
    """
    document = read_document(source, SchemaNode.of_class(cls), kind)
    raw = cls.migrate(document.raw)
    config, problems = _build(cls, raw, overrides, more_problems)
    if config is not None and not problems:
        return config
    file_problems = set(_build(cls, raw, (), more_problems)[1] if overrides else problems)
    if file_problems.isdisjoint(problems):
        raise ConfigError.from_problems(overrides_name, problems)
    lines = [problem if problem in file_problems else f"{overrides_name} {problem}" for problem in problems]
    raise ConfigError.from_problems(document.place, lines)


def _build(
    cls: type[C], raw: dict[str, Any], overrides: Sequence[str], more_problems: Callable[[C], list[str]] | None
) -> tuple[C | None, list[str]]:
    """Return the configuration, or None if it cannot be built, and the distinct problems; see `load_config`."""
    raw, problems = apply_overrides(raw, overrides, SchemaNode.of_class(cls))
    config, content_problems = parse_document(cls, raw)
    problems += content_problems
    if problems and config is not None and more_problems is not None:
        problems += more_problems(config)
    return config, list(dict.fromkeys(problems))


def load_schema(dataset: str | Location) -> DatasetSchema:
    """Return the schema of a complete dataset directory.

    Raises:
        UserError: The directory does not exist or cannot be read.
        DataError: `_SUCCESS`, which prep writes last, is missing; or `schema.toml` is missing, not TOML, or of another
            version.
        SchemaError: The content has problems, which are all listed.
    """
    folder = location(dataset)
    fix = f"move it away, and make it again with `ple-rec prep ... --out {folder}`"
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
            f"if it holds raw logs, prepare them by `ple-rec prep FILE.toml --from {folder} --out DIR`, and name DIR",
        )
    if not complete:
        raise DataError(str(folder), f"no {SUCCESS_FILE} file", "a dataset directory without it is incomplete", fix)
    file = folder / SCHEMA_FILE
    try:
        raw = read_toml(file, str(file))
    except UserError as error:
        raise DataError(error.place, error.value, error.rule, fix) from None
    version = raw.get("version")
    if isinstance(version, int) and version != SCHEMA_VERSION:
        rule = f"this ple_rec reads version {SCHEMA_VERSION}"
        raise DataError(str(file), f"version {short_value(version)}", rule, fix)
    return _checked_schema(raw, str(file))


def load_described_schema(source: str) -> DatasetSchema:
    """Return the schema of a dataset that is not prepared yet, for plans (key `data.described_by`).

    Args:
        source: Path of a `schema.toml` or of its folder, or the name of a schema that comes with the package.

    Raises:
        UserError: The file or name does not exist, or the file is not TOML.
        SchemaError: The content has problems, which are all listed.
    """
    names = sorted(file.name.removesuffix(".toml") for file in SCHEMAS.iterdir() if file.name.endswith(".toml"))
    if source in names:
        return _checked_schema(read_toml(SCHEMAS / f"{source}.toml", source), source)
    path = location(source)
    with explain_errors(path, "read", "it describes a dataset"):
        file = path / SCHEMA_FILE if path.is_dir() else path
        exists = file.is_file()
    if not exists:
        rule = f"it names a schema.toml, or one of {', '.join(names)}"
        raise UserError("data.described_by", f'got "{source}", which is no file', rule, "correct the path or the name")
    return _checked_schema(read_toml(file, str(file)), str(file))


def _checked_schema(raw: dict[str, Any], place: str) -> DatasetSchema:
    schema, problems = parse_document(DatasetSchema, raw)
    if schema is None or problems:
        raise SchemaError.from_problems(place, problems)
    return schema


def dump_toml(config: Config) -> str:
    """Return a configuration as TOML text, keys at their defaults included; `load_config` reads an equal one from it.

    TOML has no null, so a field that is None is left out, and None must be its default.

    Raises:
        ValueError: `load_config` would read another configuration from the text.
    """
    content = _toml_content(config)
    if validate(type(config), content) != config:
        raise ValueError(f"{type(config).__name__}: a field that may be None has another default, or is not compared")
    return tomli_w.dumps(content)


def with_values(config: C, values: Mapping[str, Any]) -> C:
    """Return a copy of a configuration with other values.

    Args:
        config: Configuration to copy.
        values: New values by dotted key, such as `train.steps`; None for the default.

    Raises:
        pydantic.ValidationError: The class refuses a key or a value.
    """
    content = _toml_content(config)
    for key, value in values.items():
        *path, last = key.split(".")
        table = content
        for part in path:
            table = table.setdefault(part, {})
        table.pop(last, None)
        if value is not None:
            table[last] = value
    return validate(type(config), content)


def with_overrides(config: C, texts: Sequence[str], place: str) -> C:
    """Return a copy of a configuration with overrides applied.

    Args:
        config: Configuration to copy.
        texts: Overrides in the form of `--set`.
        place: Name of the configuration in messages.

    Raises:
        UserError: An override cannot be parsed.
        ConfigError: The overrides have problems, which are all listed.
    """
    changed, problems = _build(type(config), _toml_content(config), texts, None)
    if changed is None or problems:
        raise ConfigError.from_problems(place, problems)
    return changed


def fingerprint(config: Config) -> str:
    """Return 16 hexadecimal digits that are equal for equal configurations, on any machine."""
    text = json.dumps(_toml_content(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _toml_content(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True, round_trip=True)
