"""`[split]` of a preparation: rules that assign rows to train, valid and test.

`[split]` is a union that the key `by` selects: days, a hash, a column, or shares of one range of days (`held_out`). The
table `[append]` says how prep splits a day that `ple-rec prep --append` adds later.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, Tag, field_validator, model_validator

from ple_rec.config.base import BY_TYPE, Config, NonNegativeInt, PositiveInt, Split
from ple_rec.config.prep_inputs import Expression, iso_date

Share = Annotated[float, Field(gt=0, lt=1)]
Day = Annotated[Annotated[PositiveInt, Tag("integer")] | Annotated[str, Tag("string")], BY_TYPE]


def _ordinal(day: Day) -> int:
    """Return a number that ascends with time; numbers of dates are not comparable with those of numbered days."""
    return day if isinstance(day, int) else date.fromisoformat(day).toordinal()


class DaySplit(Config):
    """Splits by the day of a row; needs `[time]`. Vocabularies and statistics see the training days only."""

    by: Literal["day"]
    day_1: str | None = Field(None, description="date of day 1; default: the earliest day of the log")
    train: tuple[Day, Day] = Field(description="first and last day, numbers from 1 or dates")
    valid: tuple[Day, Day] | None = Field(None, description="first and last day, unless `valid_share` is set")
    valid_share: Share | None = Field(None, description="share of the test days' rows that goes to valid instead")
    valid_hash: Expression | None = Field(
        None,
        description="expression whose hash selects rows for valid_share; equal values stay together; default: `group`",
    )
    test: tuple[Day, Day] = Field(description="first and last day")
    empty_days: tuple[Day, ...] = Field((), description="days of train, valid and test that may have no rows")

    @field_validator("day_1")
    @classmethod
    def _day_1_is_a_date(cls, text: str | None) -> str | None:
        return None if text is None else iso_date(text)

    @field_validator("train", "valid", "test", "empty_days")
    @classmethod
    def _days_are_days(cls, days: tuple[Day, ...] | None) -> tuple[Day, ...] | None:
        for day in days or ():
            if isinstance(day, str):
                iso_date(day)
        return days

    @model_validator(mode="after")
    def _one_valid(self) -> DaySplit:
        if (self.valid is None) == (self.valid_share is None):
            raise ValueError("give exactly one of `valid` and `valid_share`")
        if self.valid_hash is not None and self.valid_share is None:
            raise ValueError("`valid_hash` belongs to `valid_share`")
        types = {type(day) for ends in self.ranges.values() for day in ends}
        # Numbered days and dates can be compared only when the date of day 1 is known.
        if len(types) == 1 and (problems := self.order_problems(_ordinal)):
            raise ValueError("\n".join(problems))
        return self

    @property
    def ranges(self) -> dict[Split, tuple[Day, Day]]:
        """First and last day of every split that has days of its own."""
        range_or_none: dict[Split, tuple[Day, Day] | None] = {
            "train": self.train,
            "valid": self.valid,
            "test": self.test,
        }
        return {split: ends for split, ends in range_or_none.items() if ends is not None}

    def order_problems(self, day_number: Callable[[Day], int]) -> list[str]:
        """Return problems of the order of the ranges: a model must not be judged on its training days or earlier ones.

        Args:
            day_number: Function from a day to a number that ascends with time.
        """
        problems = []
        numbers = {split: (day_number(first), day_number(last)) for split, (first, last) in self.ranges.items()}
        for split, (first, last) in self.ranges.items():
            if numbers[split][0] > numbers[split][1]:
                problems.append(f"{split}: {first} comes after {last}; a range is its first and its last day")
            if split != "train" and numbers[split][0] <= numbers["train"][1]:
                ends = f"it begins on {first}, train ends on {self.train[1]}"
                problems.append(f"{split}: {ends}; valid and test come after train, so move the ranges apart")
        valid, test = numbers.get("valid"), numbers["test"]
        if valid is not None and valid[0] <= test[1] and test[0] <= valid[1]:
            problems.append("valid and test share days; a day lies in one split, so move the ranges apart")
        return problems

    def named_days(self) -> tuple[Day, ...]:
        """Return every day that the split names."""
        return (*(day for ends in self.ranges.values() for day in ends), *self.empty_days)


class HashSplit(Config):
    """Splits by a hash of a value, for example so that all rows of a user lie in one split, whatever their time."""

    by: Literal["hash"]
    value: Expression = Field(description="expression to hash; rows of equal value stay together")
    valid: Share = Field(description="share of the values")
    test: Share = Field(description="share of the values")
    seed: NonNegativeInt = Field(0, description="seed of the hash; another seed gives other splits")

    @model_validator(mode="after")
    def _something_to_train(self) -> HashSplit:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid = {self.valid} and test = {self.test} leave nothing to train")
        return self


class ColumnSplit(Config):
    """Splits from a column of the log."""

    by: Literal["column"]
    value: Expression = Field(
        description="expression of the text train, valid or test; a row with another value is a bad row"
    )


class HeldOutSplit(Config):
    """Split of a range of days that holds out shares of its groups; `--append` replaces a day split by it."""

    by: Literal["held_out"]
    day_1: str | None = Field(None, description="date of day 1; default: the earliest day of the log")
    days: tuple[Day, Day] = Field(description="first and last day, numbers from 1 or dates")
    valid: Share = Field(0.05, description="share of the values of `hash`")
    test: Share = Field(0.05, description="share of the values of `hash`")
    hash: Expression | None = Field(
        None, description="expression whose hash selects rows: rows of equal value stay together; default: `group`"
    )
    seed: str = Field("", description="seed of the hash, any text; --append writes the day")

    @field_validator("day_1")
    @classmethod
    def _day_1_is_a_date(cls, text: str | None) -> str | None:
        return None if text is None else iso_date(text)

    @field_validator("days")
    @classmethod
    def _days_are_days(cls, days: tuple[Day, Day]) -> tuple[Day, Day]:
        for day in days:
            if isinstance(day, str):
                iso_date(day)
        return days

    @model_validator(mode="after")
    def _something_to_train(self) -> HeldOutSplit:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid = {self.valid} and test = {self.test} leave nothing to train")
        return self

    def named_days(self) -> tuple[Day, ...]:
        """Return every day that the split names."""
        return self.days


class AppendConfig(Config):
    """Shares of an appended day (`ple-rec prep --append`) that are held out for valid and test."""

    valid: Share = Field(0.05, description="share of the groups")
    test: Share = Field(0.05, description="share of the groups")

    @model_validator(mode="after")
    def _something_to_train(self) -> AppendConfig:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid = {self.valid} and test = {self.test} leave nothing to train")
        return self


SplitConfig = Annotated[DaySplit | HeldOutSplit | HashSplit | ColumnSplit, Field(discriminator="by")]
