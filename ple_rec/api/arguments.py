"""Checks and conversions of the arguments of the Python API, and errors that name arguments instead of flags.

The functions of `ple_rec.api` share them. Each check returns the value in the type that the rest of the package takes,
or raises a `UserError` with the name of the argument.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, SupportsFloat, SupportsIndex, TypeVar

from ple_rec.config.base import Config
from ple_rec.config.choices import RUN_CONFIGS, ConfigKind
from ple_rec.config.load import load_config, with_overrides
from ple_rec.config.words import dotted_path, short_value, suggestion, toml_value
from ple_rec.errors import PleRecError, UserError, as_arguments
from ple_rec.storage import Location, Remote, is_address, location
from ple_rec.text.escapes import printable_lines

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=Config)

PathLike = str | os.PathLike[str] | Remote
Overrides = Sequence[str] | Mapping[str, Any]


def errors_name_arguments(call: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function of the API, so that its errors name arguments in place of command line flags."""

    @wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except PleRecError as error:
            raise error.reworded(_in_python_terms) from error.__cause__

    return wrapped


def _in_python_terms(part: str) -> str:
    """Return a part of an error with arguments in place of flags, and with control characters escaped."""
    return printable_lines(as_arguments(part))


def resolve_config(
    cls: type[C], config: object, overrides: Overrides = (), kind: ConfigKind = RUN_CONFIGS, **more: Any
) -> C:
    """Return the configuration that an argument of the API stands for, with overrides.

    Args:
        cls: Class of the configuration.
        config: Name of a recipe, path of a TOML file, its content as a mapping, or an object of the class.
        overrides: Changes of the configuration.
        kind: Kind of the configuration, which decides on its recipes.
        more: Further arguments of `load_config`, which a configuration object does not need.

    Raises:
        UserError: The argument is none of these, or the configuration is invalid.
    """
    texts = [*_removals(config), *override_texts(overrides)]
    if isinstance(config, cls):
        return with_overrides(config, texts, "overrides") if texts else config
    return load_config(cls, config_source(config, cls, kind), texts, kind=kind, **more)


def config_source(config: object, cls: type[Config], kind: ConfigKind) -> str | Path | dict[str, Any]:
    """Return the argument for a configuration in a form that `load_config` takes.

    Raises:
        UserError: The argument is neither text, nor a path, nor a mapping.
    """
    if isinstance(config, Mapping):
        plain = _plain(config, "config")
        # `_plain` makes a dict of every mapping.
        assert isinstance(plain, dict)
        return plain
    if isinstance(config, str):
        return config
    if isinstance(config, os.PathLike):
        return Path(config)
    rule = f"it is the name of a recipe, the path of a TOML file, a dict of its content, or a {cls.__name__}"
    raise UserError(
        "config", f"got {_value_text(config)}", rule, f"give one, as `ple-rec {kind.verb} --config` takes it"
    )


def override_texts(overrides: Overrides) -> list[str]:
    """Return overrides as texts `key=value`.

    Raises:
        UserError: The argument is neither a list of texts nor a mapping, or a value cannot be written in TOML.
    """
    rule = 'it is a list of texts "key=value", or a dict of keys and values'
    if isinstance(overrides, Mapping):
        plain = {key: None if value is None else _plain(value, str(key)) for key, value in overrides.items()}
        return [f"{key}={'' if value is None else toml_value(value)}" for key, value in plain.items()]
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        fix = 'write overrides={"train.epochs": 2} or overrides=["train.epochs=2"]'
        raise UserError("overrides", f"got {_value_text(overrides)}", rule, fix)
    if odd := [each for each in overrides if not isinstance(each, str)]:
        raise UserError("overrides", f"got {_value_text(odd[0])}", rule, 'write for example "train.epochs=2"')
    return list(overrides)


def check_choice(name: str, value: T, known: Collection[T]) -> T:
    """Return a value if it is one of several.

    Raises:
        UserError: The value is none of them.
    """
    # `in` would accept 1 for True, and fail on arrays.
    if not any(isinstance(value, type(each)) and value == each for each in known):
        choices = [str(each) for each in known]
        rule = suggestion(value, choices) if isinstance(value, str) else f"known: {', '.join(choices)}"
        raise UserError(name, f"got {_value_text(value)}", rule, f"give {' or '.join(map(repr, known))}")
    return value


def check_count(name: str, value: object, least: int = 1) -> int:
    """Return a whole number as a Python int.

    Args:
        name: Name of the argument, for messages.
        value: Number of Python or NumPy.
        least: Smallest number that is allowed.

    Raises:
        UserError: The value is no whole number, or less than the smallest one.
    """
    whole = operator.index(value) if isinstance(value, SupportsIndex) and _is_single(value) else least - 1
    if whole < least:
        rule = f"it is a whole number from {least} on"
        raise UserError(name, f"got {_value_text(value)}", rule, "give for example 2")
    return whole


def check_number(name: str, value: object) -> float:
    """Return a number as a Python float.

    Raises:
        UserError: The value is no number, or is not finite, or is negative.
    """
    number = float(value) if isinstance(value, SupportsFloat) and _is_single(value) else math.nan
    if not 0 <= number < math.inf:
        raise UserError(name, f"got {_value_text(value)}", "it is a number from 0 on", "give for example 0.001")
    return number


def check_text(name: str, value: str) -> str:
    """Return a value if it is text.

    Raises:
        UserError: The value is no text, or is empty.
    """
    if not isinstance(value, str) or not value:
        raise UserError(name, f"got {_value_text(value)}", "it is text", "write it in quotes")
    return value


def check_list(name: str, value: Sequence[T]) -> list[T]:
    """Return texts or paths as a list.

    Raises:
        UserError: The value is a single text or path, a mapping or no iterable, or an entry is neither text nor a path.
    """
    if isinstance(value, str | os.PathLike | Mapping) or not isinstance(value, Iterable):
        one = repr(os.fspath(value)) if isinstance(value, str | os.PathLike) else '"one", "two"'
        raise UserError(name, f"got {_value_text(value)}", "it is a list", f"give {name}=[{one}]")
    parts = list(value)
    if odd := [part for part in parts if not isinstance(part, str | os.PathLike)]:
        raise UserError(name, f"holds {_value_text(odd[0])}", "it is a list of texts", "write each in quotes")
    return parts


def check_dict(name: str, value: object) -> Mapping[Any, Any]:
    """Return a value if it is a dict.

    Raises:
        UserError: The value is no dict.
    """
    if not isinstance(value, Mapping):
        raise UserError(name, f"got {_value_text(value)}", "it is a dict", 'give for example {"name": 2}')
    return value


def check_path(name: str, value: PathLike) -> Path:
    """Return a path on this machine.

    Raises:
        UserError: The value is neither text nor a path, is empty, has a null character, or is an address.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        rule = "it is a path, as text or as a pathlib.Path"
        raise UserError(name, f"got {_value_text(value)}", rule, 'give for example "runs/first"')
    if is_address(text := _without_null(name, os.fspath(value))):
        raise UserError(name, f"got the address {text}", "it is a path of this machine", "give a folder or a file")
    return Path(value)


def check_location(name: str, value: PathLike) -> Location:
    """Return a path on this machine, or an address in an object store.

    Raises:
        UserError: The value is neither, is empty, has a null character, or is an address that `pathlib` has changed.
    """
    if isinstance(value, Remote):
        return value
    if isinstance(value, Path) and value.parts and value.parts[0].endswith(":"):
        raise UserError(name, f"got {value}", "pathlib makes s3:/ of s3://", "give an address as text")
    if isinstance(value, str) and is_address(value):
        return location(_without_null(name, value))
    return check_path(name, value)


def check_log_source(name: str, value: PathLike) -> str:
    """Return the folder of raw log files, a path or an address, as text.

    Raises:
        UserError: The value is neither text, nor a path, nor an address, or has a null character.
    """
    return _without_null(name, value) if isinstance(value, str) else str(check_location(name, value))


def _without_null(name: str, text: str) -> str:
    """Return a path or an address if it has no null character.

    Raises:
        UserError: The text has a null character, which no file system and no store accepts.
    """
    if "\0" in text:
        raise UserError(name, f"got {_value_text(text)}", "a path has no null character", "take it out")
    return text


def _removals(config: object, *path: str) -> list[str]:
    """Return an override `key=` for each key that a dict sets to None.

    The override removes the key from the result, since a configuration on which the dict is based may set the key.
    """
    if not isinstance(config, Mapping):
        return [] if config is not None or not path else [f"{dotted_path(path)}="]
    return [text for key, value in config.items() for text in _removals(value, *path, str(key))]


def _is_single(value: object) -> bool:
    """Return True if a value is neither a bool nor an array."""
    return not isinstance(value, bool) and not getattr(value, "shape", ())


def _value_text(value: object) -> str:
    kind = type(value).__name__
    return f"{short_value(value)} ({kind})" if isinstance(value, str | int | float) else f"a {kind}"


def _plain(value: object, place: str) -> object:
    """Return a value converted to types that TOML has; keys with the value None are left out, since TOML has no null.

    Args:
        value: Value of any type, such as a NumPy array in a dict.
        place: Argument or key of the value, for messages.
    """
    if isinstance(value, Config):
        return value.model_dump(mode="json", exclude_none=True, round_trip=True)
    if isinstance(value, Mapping):
        return {str(key): _plain(part, f"{place}.{key}") for key, part in value.items() if part is not None}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # Arrays and numbers of NumPy have this method.
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(part, f"{place}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, str | int | float) or hasattr(value, "isoformat"):
        return value
    rule = "a configuration holds texts, numbers, true, false, lists and dicts"
    raise UserError(place, f"got {_value_text(value)}", rule, "write it as one of these")
