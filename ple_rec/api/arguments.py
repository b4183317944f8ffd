"""What callers of the API give: configurations in several forms, choices, and errors that name arguments, not flags."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, SupportsFloat, SupportsIndex, TypeVar

from ple_rec.config.base import Config
from ple_rec.config.choices import RUNS, Kind
from ple_rec.config.load import load_config, with_overrides
from ple_rec.config.words import dotted, shortened, suggestion, toml_value
from ple_rec.errors import PleRecError, UserError, as_arguments
from ple_rec.storage import Location, Remote, is_address, location
from ple_rec.text.escapes import printable_lines

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=Config)

PathLike = str | os.PathLike[str] | Remote
Overrides = Sequence[str] | Mapping[str, Any]


def errors_name_arguments(call: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function of the API, so that its errors name arguments; they name flags of the command line below it."""

    @wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except PleRecError as error:
            raise error.reworded(_for_callers) from error.__cause__

    return wrapped


def _for_callers(part: str) -> str:
    """Return a part of an error for a notebook: with arguments, and with escapes of control characters."""
    return printable_lines(as_arguments(part))


def config_of(cls: type[C], config: object, overrides: Overrides = (), kind: Kind = RUNS, **more: Any) -> C:
    """Return the configuration that a caller means.

    Args:
        cls: Class of the configuration.
        config: Recipe's name, path of a TOML file, its content as a mapping, or an object of the class.
        overrides: Changes of it.
        kind: Kind of the configuration, whose recipes it may name.
        more: Further arguments of `load_config`.

    Raises:
        UserError: it is none of these, or is wrong.
    """
    texts = [*_unset(config), *override_texts(overrides)]
    if isinstance(config, cls):
        return with_overrides(config, texts, "overrides") if texts else config
    return load_config(cls, source_of(config, cls, kind), texts, recipes=kind, **more)


def source_of(config: object, cls: type[Config], kind: Kind) -> str | Path | dict[str, Any]:
    """Return a configuration as `load_config` takes it.

    Raises:
        UserError: it is neither text, nor a path, nor a mapping.
    """
    if isinstance(config, Mapping):
        plain = _plain(config, "config")
        assert isinstance(plain, dict)
        return plain
    if isinstance(config, str):
        return config
    if isinstance(config, os.PathLike):
        return Path(config)
    rule = f"it is the name of a recipe, the path of a TOML file, a dict of its content, or a {cls.__name__}"
    raise UserError("config", f"got {_shown(config)}", rule, f"give one, as `ple-rec {kind.verb} --config` takes it")


def override_texts(overrides: Overrides) -> list[str]:
    """Return overrides as `key=value`.

    Raises:
        UserError: they are no list of texts and no mapping, or hold a value that TOML has no text for.
    """
    rule = 'they are texts "key=value", or a dict of keys and values'
    if isinstance(overrides, Mapping):
        plain = {key: None if value is None else _plain(value, str(key)) for key, value in overrides.items()}
        return [f"{key}={'' if value is None else toml_value(value)}" for key, value in plain.items()]
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        fix = 'write overrides={"train.epochs": 2} or overrides=["train.epochs=2"]'
        raise UserError("overrides", f"got {_shown(overrides)}", rule, fix)
    if odd := [each for each in overrides if not isinstance(each, str)]:
        raise UserError("overrides", f"got {_shown(odd[0])}", rule, 'write for example "train.epochs=2"')
    return list(overrides)


def check_choice(name: str, value: T, known: Collection[T]) -> T:
    """Return a value that has to be one of a few.

    Raises:
        UserError: it is none of them.
    """
    if not any(isinstance(value, type(each)) and value == each for each in known):  # `1 in (True,)`, arrays raise
        choices = [str(each) for each in known]
        rule = suggestion(value, choices) if isinstance(value, str) else f"known: {', '.join(choices)}"
        raise UserError(name, f"got {_shown(value)}", rule, f"give {' or '.join(map(repr, known))}")
    return value


def check_count(name: str, value: object, least: int = 1) -> int:
    """Return a number that has to be a whole one, as a Python int.

    Args:
        name: Argument.
        value: Number, of Python or NumPy.
        least: Least number that is allowed.

    Raises:
        UserError: it is no such number.
    """
    whole = operator.index(value) if isinstance(value, SupportsIndex) and _is_single(value) else least - 1
    if whole < least:
        rule = f"it is a whole number from {least} on"
        raise UserError(name, f"got {_shown(value)}", rule, "give for example 2")
    return whole


def check_number(name: str, value: object) -> float:
    """Return a number that has to be finite and not negative, as a Python float.

    Raises:
        UserError: it is no such number.
    """
    number = float(value) if isinstance(value, SupportsFloat) and _is_single(value) else math.nan
    if not 0 <= number < math.inf:
        raise UserError(name, f"got {_shown(value)}", "it is a number from 0 on", "give for example 0.001")
    return number


def check_text(name: str, value: str) -> str:
    """Return a value that has to be text.

    Raises:
        UserError: it is none, or empty.
    """
    if not isinstance(value, str) or not value:
        raise UserError(name, f"got {_shown(value)}", "it is text", "write it in quotes")
    return value


def check_list(name: str, value: Sequence[T]) -> list[T]:
    """Return a value that has to be a list of texts or paths, as a list.

    Raises:
        UserError: it is no list, or holds something else.
    """
    if isinstance(value, str | os.PathLike | Mapping) or not isinstance(value, Iterable):
        one = repr(os.fspath(value)) if isinstance(value, str | os.PathLike) else '"one", "two"'
        raise UserError(name, f"got {_shown(value)}", "it is a list", f"give {name}=[{one}]")
    parts = list(value)
    if odd := [part for part in parts if not isinstance(part, str | os.PathLike)]:
        raise UserError(name, f"holds {_shown(odd[0])}", "it is a list of texts", "write each in quotes")
    return parts


def check_dict(name: str, value: object) -> Mapping[Any, Any]:
    """Return a value that has to be a dict.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, Mapping):
        raise UserError(name, f"got {_shown(value)}", "it is a dict", 'give for example {"name": 2}')
    return value


def path_of(name: str, value: PathLike) -> Path:
    """Return a path that a caller gives.

    Raises:
        UserError: it is neither text nor a path, or empty.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        rule = "it is a path, as text or as a pathlib.Path"
        raise UserError(name, f"got {_shown(value)}", rule, 'give for example "runs/first"')
    if is_address(text := _without_null(name, os.fspath(value))):
        raise UserError(name, f"got the address {text}", "it is a path of this machine", "give a folder or a file")
    return Path(value)


def place_of(name: str, value: PathLike) -> Location:
    """Return a path, or an address of a store, that a caller gives; errors as of `path_of` and `location`."""
    if isinstance(value, Remote):
        return value
    if isinstance(value, Path) and value.parts and value.parts[0].endswith(":"):
        raise UserError(name, f"got {value}", "pathlib makes s3:/ of s3://", "give an address as text")
    if isinstance(value, str) and is_address(value):
        return location(_without_null(name, value))
    return path_of(name, value)


def source_of_logs(name: str, value: PathLike) -> str:
    """Return the folder or the address of raw files, as a caller gives it; errors as of `place_of`."""
    return _without_null(name, value) if isinstance(value, str) else str(place_of(name, value))


def _without_null(name: str, text: str) -> str:
    """Return a path or an address, which holds no null character.

    Raises:
        UserError: it holds one, which no file system and no store takes.
    """
    if "\0" in text:
        raise UserError(name, f"got {_shown(text)}", "a path has no null character", "take it out")
    return text


def _unset(config: object, *path: str) -> list[str]:
    """Return overrides that take back what a dict sets to None, which its base may have."""
    if not isinstance(config, Mapping):
        return [] if config is not None or not path else [f"{dotted(path)}="]
    return [text for key, value in config.items() for text in _unset(value, *path, str(key))]


def _is_single(value: object) -> bool:
    """Return whether a number is no truth value and no array."""
    return not isinstance(value, bool) and not getattr(value, "shape", ())


def _shown(value: object) -> str:
    kind = type(value).__name__
    return f"{shortened(value)} ({kind})" if isinstance(value, str | int | float) else f"a {kind}"


def _plain(value: object, place: str) -> object:
    """Return a value as TOML has it: dicts, lists, texts, numbers; a key whose value is None is left out."""
    if isinstance(value, Config):
        return value.model_dump(mode="json", exclude_none=True, round_trip=True)
    if isinstance(value, Mapping):
        return {str(key): _plain(part, f"{place}.{key}") for key, part in value.items() if part is not None}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # arrays and numbers of NumPy
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(part, f"{place}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, str | int | float) or hasattr(value, "isoformat"):
        return value
    rule = "a configuration holds texts, numbers, true, false, lists and dicts"
    raise UserError(place, f"got {_shown(value)}", rule, "write it as one of these")
