"""What cyclopts refuses, as a message of one shape: place, value, rule, fix."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from cyclopts import (
    App,
    Argument,
    ArgumentCollection,
    CoercionError,
    ConsumeMultipleError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
)

from ple_rec.errors import UserError

_NOUNS: Mapping[str, str] = {"float": "a number", "int": "an int", "bool": "no value, or true or false"}
_SEE = "run `ple-rec --help`"
_CONFIGURED = ("train", "plan", "repeat")  # verbs whose --set may be of any key of a run


def unknown_verb(word: str, known: Sequence[str]) -> UserError:
    """Return the refusal of the first word of a command line.

    Args:
        word: The word.
        known: Names of the verbs.
    """
    return UserError("command line", f'unknown verb "{word}"', _suggestion(word, known), _SEE)


def refusal(error: CycloptsError, app: App, argv: Sequence[str]) -> UserError:
    """Return what is wrong with a command line.

    Args:
        error: The error of cyclopts.
        app: The command line.
        argv: Its words.
    """
    words, path, _ = app.parse_commands(list(argv))
    verb, command = " ".join(words), path[-1]
    see = f"run `ple-rec {verb} --help`"
    if isinstance(error, UnknownCommandError):
        word, known = (error.unused_tokens or [""])[0], [name for name in command if not name.startswith("-")]
        if not verb:
            return UserError("command line", f'got "{word}" as its verb', _suggestion(word, known), _SEE)
        return UserError(verb, f'unknown action "{word}"', _suggestion(word, known), see)
    flags = _flags(command.assemble_argument_collection()) if command.default_command else []
    unknown = _unknown_word(error, flags)
    if unknown is not None:
        if "--" in argv and unknown in argv[argv.index("--") :]:
            return UserError(verb, f'unknown argument "{unknown}"', "behind -- no word is a flag", "leave out the --")
        return _unknown_argument(verb, unknown, flags, see)
    if error.argument is None:
        return UserError(verb, str(error).rstrip("."), "the command line has another form", see)
    if isinstance(error, MissingArgumentError):
        arguments = command.assemble_argument_collection().filter_by(show=True)
        return _missing(error, error.argument, arguments, verb, argv, see)
    if isinstance(error, CoercionError):
        return _bad_value(error, error.argument, see)
    return UserError(error.argument.name, str(error).rstrip("."), "the command line has another form", see)


def _missing(
    error: MissingArgumentError,
    argument: Argument,
    arguments: ArgumentCollection,
    verb: str,
    argv: Sequence[str],
    see: str,
) -> UserError:
    """Return the refusal of arguments that are not there, or of one that has too few values."""
    words = {word.partition("=")[0] for word in argv}
    if words.isdisjoint(argument.names):
        first = next(at for at, each in enumerate(arguments) if each.name == argument.name)
        names = [each.name for each in arguments[first:] if each.required and words.isdisjoint(each.names)]
        if len(names) > 1:
            return UserError(verb, f"{', '.join(names)} missing", "they are needed", see)
        return UserError(
            verb, f"{names[0]} missing", "it is needed", _where_it_went(error, argument, arguments, argv) or see
        )
    if isinstance(error, ConsumeMultipleError):
        return UserError(argument.name, "no value", "it takes one or more", see)
    number, _ = argument.token_count()
    takes = "it takes one" if number == 1 else f"it takes {number} of them"
    return UserError(argument.name, "too few values" if error.tokens_so_far else "no value", takes, see)


def _where_it_went(
    error: MissingArgumentError, argument: Argument, arguments: ArgumentCollection, argv: Sequence[str]
) -> str:
    """Return the fix where other words of the command line may be the missing argument; empty where none may."""
    greedy = [each for each in arguments if each.parameter.consume_multiple]
    before, words = [each.name for each in greedy if each.name in argv], error.unused_tokens or []
    if argument.index is not None and before:
        return f"write {argument.name} before {before[0]}, which takes every word after it"
    if argument.index is None and words and not any(word.startswith("-") for word in words):
        return f"write {argument.name} {shlex.join(words if argument in greedy else words[:1])}"
    return ""


def _bad_value(error: CoercionError, argument: Argument, see: str) -> UserError:
    """Return the refusal of a value; that of a reader of `options` says what it takes."""
    name, value = argument.name, ""
    if error.token is not None:
        name, value = error.token.keyword or name, error.token.value
    if choices := argument.get_choices():
        return UserError(name, f"got {value!r}", _suggestion(value, choices), see)
    if said := re.fullmatch(r"(got .*?); (.*?)(?:; (did you .*))?", str(error.msg)):
        return UserError(name, said[1], said[2], said[3] or see)
    kind = getattr(error.target_type, "__name__", "value")
    return UserError(name, f"got {value!r}", f"expected {_NOUNS.get(kind, kind)}", see)


def _unknown_word(error: CycloptsError, flags: Sequence[str]) -> str | None:
    """Return the first word that no argument takes; without one None.

    A flag that is misspelt is named before what is missing without it.
    """
    if isinstance(error, UnknownOptionError):
        return error.token.keyword or error.token.value
    left = list(error.unused_tokens or ())
    if isinstance(error, MissingArgumentError):
        left = [word for word in left if re.match("--.", word) and word.partition("=")[0] not in flags]
    elif isinstance(error, CoercionError):
        return None
    return left[0] if left else None


def _unknown_argument(place: str, word: str, flags: Sequence[str], see: str) -> UserError:
    fix = see
    if "=" in word and "--set" in flags and not word.startswith("-"):
        fix = f"write --set {word}"
    if "--config" in flags and (word.endswith(".toml") or word in _recipes()):
        fix = f"write --config {word}"
    if place in _CONFIGURED and word.startswith("--"):
        from ple_rec.config.describe import setting_of
        from ple_rec.config.run import RunConfig

        fix = setting_of(RunConfig, word, hidden=["topology"]) or fix  # `plan` has flags of these
    return UserError(place, f'unknown argument "{word}"', _suggestion(word, flags), fix)


def _flags(arguments: ArgumentCollection) -> list[str]:
    names = [name for argument in arguments.filter_by(parse=True) for name in argument.positives]
    return [name for name in names if name.startswith("--")]


def _suggestion(word: str, known: Sequence[str]) -> str:
    from ple_rec.config.words import suggestion

    return suggestion(word, known) if known else "it takes no more"


def _recipes() -> list[str]:
    from ple_rec.config.choices import recipe_names

    return recipe_names()
