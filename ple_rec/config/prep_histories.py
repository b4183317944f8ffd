"""Histories of a preparation: what a user did before a row of the log, such as the last videos that they liked.

An *event* is a row of the log for which `where` is true. The history of a row has the last `length` events with the key
of the row whose time is earlier than the time of the row minus `delay`, the oldest first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from ple_rec.config.base import Config, Name, PositiveInt
from ple_rec.config.prep_columns import SparseSpec
from ple_rec.config.prep_inputs import Expression

_DURATION = re.compile(r"(\d{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# With it, times in nanoseconds stay within int64.
_MAX_DELAY = "36500d"
# Names that an event has besides those of its items: in side tables its key and time, in requests its age.
_EVENT_WORDS = ("key", "time", "age")
_AGES = ("1m", "10m", "1h", "6h", "1d", "3d", "7d", "30d")


def duration_seconds(text: str) -> int:
    """Return the seconds of a duration such as `90s`, `10m`, `1h` or `7d`.

    Raises:
        ValueError: The text is no duration, or is negative.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        negative = "; a history has no event at the time of its row or later" if text.startswith("-") else ""
        raise ValueError(f'got {text!r}{negative}; write a whole number of s, m, h or d, such as "0s", "10m" or "1d"')
    return int(match[1]) * _SECONDS[match[2]]


class HistorySpec(Config):
    """History of each row: the last events with the same key before the time of the row, the oldest first."""

    name: Name
    key: Expression = Field(description="integer or text, such as user_id; the events of a row have the key of the row")
    items: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        description="names of single-valued sparse features, whose values are stored with each event"
    )
    where: Expression | None = Field(None, description="condition of events, e.g. is_like = 1; default: every row")
    length: PositiveInt = Field(le=1000, description="most events of a history; these are the last ones")
    delay: str = Field(
        "0s", description='a row sees an event only if it is later by more than this time, e.g. "1h"; default: none'
    )
    ages: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)] = Field(
        _AGES, description="boundaries of the buckets of an event's age, the time from the event to the row"
    )

    @field_validator("delay")
    @classmethod
    def _delay_is_duration(cls, text: str) -> str:
        if duration_seconds(text) > duration_seconds(_MAX_DELAY):
            raise ValueError(f"got {text!r}; write at most {_MAX_DELAY!r}")
        return text

    @field_validator("ages")
    @classmethod
    def _ages_ascend(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        seconds = [duration_seconds(text) for text in texts]
        if seconds[0] == 0 or any(later <= earlier for earlier, later in pairwise(seconds)):
            raise ValueError(
                f"got {', '.join(texts)}; each age is longer than the one before it, and the first is not 0"
            )
        return texts

    @model_validator(mode="after")
    def _items_differ(self) -> HistorySpec:
        if twice := [name for i, name in enumerate(self.items) if name in self.items[:i]]:
            raise ValueError(f"items: {twice[0]!r} is listed twice")
        return self

    @property
    def delay_seconds(self) -> int:
        """Length of the time before a row, in seconds, whose events the history of the row leaves out."""
        return duration_seconds(self.delay)

    @property
    def age_edges(self) -> tuple[int, ...]:
        """Boundaries of the buckets of an event's age, in seconds."""
        return tuple(duration_seconds(text) for text in self.ages)


def history_problems(
    histories: Iterable[HistorySpec], sparse: Iterable[SparseSpec], time_unit: str | None, sides: Iterable[str] = ()
) -> list[str]:
    """Return the problems of the histories of a configuration.

    Args:
        histories: Histories of the configuration.
        sparse: Sparse features of the configuration.
        time_unit: Unit of `[time]`; None if the configuration has no `[time]`.
        sides: Names of the side tables, and of the tables in which rates are counted.
    """
    histories, features = list(histories), {feature.name: feature for feature in sparse}
    problems = (
        []
        if time_unit is not None or not histories
        else ["histories need [time], by which events are in order; add it"]
    )
    names = [history.name for history in histories]
    problems += [f"history {name!r} is listed twice" for name in sorted({n for n in names if names.count(n) > 1})]
    # A model has a side table with the events of each history, under its name.
    sides_by_lower = {side.lower(): side for side in sides}
    for i, history in enumerate(histories):
        if (side := sides_by_lower.get(history.name.lower())) is not None:
            problems.append(f"histories[{i}].name: got {history.name!r}; table {side!r} has this name; use another one")
        if time_unit == "date" and history.delay_seconds % _SECONDS["d"]:
            problems.append(
                f'histories[{i}].delay: got {history.delay!r}; with time.unit = "date" a history ends on a day before '
                'the row, so write a number of days, such as "1d", or drop it'
            )
        for j, item in enumerate(history.items):
            place = f"histories[{i}].items[{j}]: got {item!r}"
            if item not in features:
                problems.append(f"{place}; it names a sparse feature. Add the feature, which has the item's table")
            elif item in _EVENT_WORDS:
                problems.append(
                    f"{place}; an event has the words {', '.join(_EVENT_WORDS)} besides its items. Give the feature "
                    "another name"
                )
            elif features[item].bag:
                problems.append(f"{place}, a bag; an event has one value of each item. Name a single-valued feature")
    return problems
