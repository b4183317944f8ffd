"""The errors a user can meet, each with its exit code and a message of one shape: place, value, rule, fix."""

from __future__ import annotations


class PleRecError(Exception):
    """An error whose cause lies outside the program; printed without a traceback.

    The message reads `place: value; rule. Fix: fix`, for example
    `data/census: no _SUCCESS file; a dataset directory without it is incomplete. Fix: run ...`.

    Args:
        place: Where: a file, a row group, a configuration key, a column.
        value: What was found there.
        rule: What is allowed, and why where that is not plain.
        fix: What to do about it.
    """

    exit_code = 1

    def __init__(self, place: str, value: str, rule: str, fix: str) -> None:
        super().__init__(f"{place}: {value}; {rule}. Fix: {fix}")
        self.place, self.value, self.rule, self.fix = place, value, rule, fix

    def __reduce__(self) -> tuple[type[PleRecError], tuple[str, str, str, str]]:
        """Pickle by the four parts, so that a worker process can hand the error to its parent."""
        return type(self), (self.place, self.value, self.rule, self.fix)


class UserError(PleRecError):
    """The user's input (configuration, flags, paths, installation) is wrong."""

    exit_code = 2


class UnavailableError(UserError):
    """A file, or an object store, cannot be read or written as things are; later it may."""


class DataError(PleRecError):
    """The data breaks a rule: a label outside {0, 1}, an id outside its table, a damaged file."""

    exit_code = 3


class PreemptedError(PleRecError):
    """The run was asked to stop and did; run again, it goes on."""

    exit_code = 75


class DivergedError(PleRecError):
    """Training produced a loss or a gradient that is not finite."""

    exit_code = 4
