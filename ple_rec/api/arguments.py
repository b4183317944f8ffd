"""What callers of the API give: configurations in several forms, choices, and errors that name arguments, not flags."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ple_rec.config.base import Config
from ple_rec.config.catalog import RUNS, Kind
from ple_rec.config.load import load_config, with_overrides
from ple_rec.config.words import dotted, shortened, suggestion, toml_value
from ple_rec.errors import PleRecError, UserError

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=Config)

PathLike = str | os.PathLike[str]
Overrides = Sequence[str] | Mapping[str, Any]

_COMMAND = re.compile(r"(ple-rec [^`]*)")  # is quoted as it is typed
_FLAG = re.compile(r"--([a-z][a-z-]*)")
_VALUED = re.compile(r"--(?!set )([a-z]+) ([^\s-]\S*)")
_ALL_FLAGS = re.compile(rf"{_VALUED.pattern}(?: {_VALUED.pattern})*")
_ARGUMENTS = {"set": "overrides", "from": "source", "out": "out", "auto_resume": 'resume="auto"', "tune": "trials"}
_SWITCHES = frozenset({"resume", "overwrite", "all_rows", "onnx", "profile"})


def face(call: Callable[P, T]) -> Callable[P, T]:
    """Let a function of the API name its arguments where the parts that it calls name flags of the command line."""

    @wraps(call)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except PleRecError as error:
            parts = [as_arguments(part) for part in (error.place, error.value, error.rule, error.fix)]
            PleRecError.__init__(error, *parts)
            raise

    return called


def as_arguments(text: str) -> str:
    """Return a message with arguments in the place of flags: `pass --overwrite` becomes `pass overwrite=True`.

    Commands stay as they are.
    """
    if _ALL_FLAGS.fullmatch(text):  # as a command line would have them
        return ", ".join(f'{_ARGUMENTS.get(name, name)}="{value}"' for name, value in _VALUED.findall(text))

    def argument(flag: re.Match[str]) -> str:
        name = flag[1].replace("-", "_")
        return f"{name}=True" if name in _SWITCHES else _ARGUMENTS.get(name, name)

    pieces = _COMMAND.split(text)
    return "".join(piece if i % 2 else _FLAG.sub(argument, piece) for i, piece in enumerate(pieces))


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
    if value not in known:
        choices = [str(each) for each in known]
        rule = suggestion(value, choices) if isinstance(value, str) else f"known: {', '.join(choices)}"
        raise UserError(name, f"got {_shown(value)}", rule, f"give {' or '.join(map(repr, choices))}")
    return value


def check_count(name: str, value: int) -> int:
    """Return a number that has to be a positive whole one.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(name, f"got {_shown(value)}", "it is a whole number from 1 on", "give for example 2")
    return value


def path_of(name: str, value: PathLike) -> Path:
    """Return a path that a caller gives.

    Raises:
        UserError: it is neither text nor a path, or empty.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        rule = "it is a path, as text or as a pathlib.Path"
        raise UserError(name, f"got {_shown(value)}", rule, 'give for example "runs/first"')
    return Path(value)


def _unset(config: object, *path: str) -> list[str]:
    """Return overrides that take back what a dict sets to None, which its base may have."""
    if not isinstance(config, Mapping):
        return [] if config is not None or not path else [f"{dotted(path)}="]
    return [text for key, value in config.items() for text in _unset(value, *path, str(key))]


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
