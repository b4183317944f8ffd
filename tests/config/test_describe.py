"""The listing of every key."""

from __future__ import annotations

import doctest
import sys
from typing import Annotated, Literal

from pydantic import Field

from ple_rec.config.base import Config, Fraction, Name, NonNegativeInt, PositiveInt, Sizes
from ple_rec.config.load import describe
from ple_rec.config.run import RunConfig


class Tower(Config):
    """One tower per task.

    The second paragraph is not for the listing.
    """

    hidden: Sizes = Field((64, 32), description="layer sizes")


class Ple(Config):
    """Progressive layered extraction."""

    variant: Literal["ple"]
    tower: Tower = Tower()


class Mmoe(Config):
    """Mixture of experts."""

    variant: Literal["mmoe"]
    experts: PositiveInt = Field(description="how many")
    tower: Tower = Tower()
    gate: Tower | None = Field(None, description="a gate with hidden layers")


class Table(Config):
    dim: Annotated[int, Field(gt=0, multiple_of=4)] | None = None


class Task(Config):
    name: Name
    kind: Literal["binary", "regression"] = "binary"


class Run(Config):
    seed: NonNegativeInt = Field(0, description="of everything that is drawn at random " * 4)
    dropout: Fraction = 0.0
    experts: PositiveInt | dict[Name, PositiveInt] = 1
    model: Annotated[Ple | Mmoe, Field(discriminator="variant")]
    tasks: tuple[Task, ...] = Field((), description="default: all")
    tables: dict[Name, Table] = Field({})


def test_whole_listing() -> None:
    assert describe(Run) == (
        """\
seed: a non-negative int, default 0
    of everything that is drawn at random of everything that is drawn at random of everything that
    is drawn at random of everything that is drawn at random
dropout: a number >= 0 and < 1, default 0.0
experts: a positive int or a table of positive ints, default 1

[model]  required; with variant = "mmoe"
  # Mixture of experts.
  experts: a positive int, required
      how many

[model]  required; with variant = "ple"
  # Progressive layered extraction.

[model.tower]  optional
  # One tower per task.
  hidden: a non-empty array of positive ints, default [64, 32]
      layer sizes

[model.gate]  optional; with variant = "mmoe"
  # a gate with hidden layers
  hidden: a non-empty array of positive ints, default [64, 32]
      layer sizes

[[tasks]]  optional
  # default: all
  name: a name, required
  kind: "binary" or "regression", default "binary"

[tables.NAME]  optional
  dim: an int > 0 and a multiple of 4, optional"""
    )


class Node(Config):
    label: str
    children: tuple[Node, ...] = ()


def test_the_example_of_the_docstring_runs() -> None:
    result = doctest.testmod(sys.modules[describe.__module__])
    assert (result.attempted, result.failed) == (2, 0)


def test_a_model_that_holds_itself_is_described_once() -> None:
    assert describe(Node) == "label: a string, required"


def test_every_field_of_a_run_has_a_line_and_fits_the_screen() -> None:
    lines = describe(RunConfig).splitlines()
    for heading in (
        "[data]  required",
        "[train]  required",
        "[[tasks]]  optional",
        "[embeddings.tables.NAME]  optional",
    ):
        assert heading in lines
    assert "  batch_size_per_rank: a positive int, optional" in lines
    assert max(map(len, lines)) <= 100
