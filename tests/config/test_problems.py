"""Every kind of problem, by its whole text."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from ple_rec.config.base import BY_TYPE, Config, Fraction, Name, PositiveFloat, PositiveInt, Sizes, Split
from ple_rec.config.load import ConfigError, load_config
from ple_rec.config.problems import parse_document
from ple_rec.errors import UserError


class Ple(Config):
    variant: Literal["ple"]
    levels: PositiveInt = 2
    own_experts: PositiveInt


class HardSharing(Config):
    variant: Literal["hard_sharing"]
    bottom: Sizes = (8,)


class Task(Config):
    name: Name
    weight: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _not_both(self) -> Task:
        if self.name == "both" and self.weight == 2.0:
            raise ValueError("weight = 2.0 does not go with `both`")
        return self


class Train(Config):
    steps: PositiveInt
    batch_size_per_rank: PositiveInt = 4096
    dropout: Fraction = 0.0
    betas: tuple[Fraction, float] = (0.9, 0.999)
    threads: Annotated[
        Annotated[Literal["auto"], Tag("auto")] | Annotated[PositiveInt, Tag("int")],
        Discriminator(lambda value: value if isinstance(value, str) else "int"),
    ] = "auto"
    experts: Annotated[
        Annotated[PositiveInt, Tag("integer")] | Annotated[dict[Name, PositiveInt], Tag("object")], BY_TYPE
    ] = 1
    optimizer: Literal["adam", "sgd"] = "adam"
    dim: Annotated[int, Field(gt=0, multiple_of=4)] = 16
    tag: Annotated[str, Field(max_length=3)] = ""
    compiled: bool = False
    note: str | None = None

    @field_validator("note")
    @classmethod
    def _no_blank(cls, note: str | None) -> str | None:
        if note == "":
            raise ValueError
        if note is not None and " " in note:
            raise ValueError("blanks are not allowed")
        return note


class Run(Config):
    model: Annotated[Ple | HardSharing, Field(discriminator="variant")]
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    train: Train
    rows: dict[Split, PositiveInt] = Field({})

    @model_validator(mode="after")
    def _fits(self) -> Run:
        if len(self.tasks) == 2:
            raise ValueError("two tasks are one too many\ntwo tasks are one too few")
        return self


def document(**changes: Any) -> dict[str, Any]:
    raw = {"model": {"variant": "ple", "own_experts": 1}, "tasks": [{"name": "a"}], "train": {"steps": 1}}
    return raw | changes


def problems(raw: dict[str, Any]) -> list[str]:
    return parse_document(Run, raw)[1]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("steps", True, "got true (bool); expected a positive int"),
        ("steps", 1.0, "got 1.0 (float); expected a positive int"),
        ("steps", "10", 'got "10" (string); expected a positive int'),
        ("steps", [1, 2], "got [1, 2] (array); expected a positive int"),
        ("steps", {"a": 1}, "got {a = 1} (table); expected a positive int"),
        ("steps", 0, "got 0; must be > 0"),
        ("dropout", 1, "got 1; must be >= 0 and < 1"),
        ("dropout", float("nan"), "got nan; must be finite"),
        ("dropout", float("-inf"), "got -inf; must be finite"),
        ("dropout", True, "got true (bool); expected a number >= 0 and < 1"),
        ("dim", 6, "got 6; must be > 0 and a multiple of 4"),
        ("compiled", 1, "got 1 (int); expected a bool"),
        ("tag", "long", 'got "long"; must have at most 3 characters'),
        ("note", 3, "got 3 (int); expected a string"),
        ("note", "", 'got ""; not valid'),
        ("note", "a b", 'got "a b"; blanks are not allowed'),
        ("optimizer", "adma", 'got "adma"; did you mean "adam"? (known: adam, sgd)'),
        ("optimizer", "lamb1", 'got "lamb1"; expected "adam" or "sgd"'),
        ("optimizer", 3, 'got 3; expected "adam" or "sgd"'),
        ("threads", 0, "got 0; must be > 0"),
        ("threads", "many", 'got "many" (string); expected "auto" or a positive int'),
        ("experts", "x" * 80, f'got "{"x" * 56}... (string); expected a positive int or a table of positive ints'),
    ],
)
def test_value(key: str, value: Any, text: str) -> None:
    assert problems(document(train={"steps": 1, key: value})) == [f"train.{key}: {text}"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": {}}, ["train.steps: missing; expected a positive int"]),
        ({"train": {"steps": 1, "betas": [0.5]}}, ["train.betas[1]: missing; expected a number"]),
        ({"train": {"steps": 1, "betas": [1, 2, 3]}}, ["train.betas: got [1, 2, 3]; must have exactly 2 items"]),
        (
            {"train": {"steps": 1, "betas": 1}},
            ["train.betas: got 1 (int); expected an array [number >= 0 and < 1, number]"],
        ),
        ({"train": {"steps": 1, "experts": {"a": 0}}}, ["train.experts.a: got 0; must be > 0"]),
        (
            {"train": {"steps": 1, "experts": {"a b": 1}}},
            ['train.experts."a b": not a key here; must be a name (letters, digits and _; no digit first)'],
        ),
        ({"tasks": []}, ["tasks: got []; must have at least 1 item"]),
        ({"tasks": {"a": 1}}, ["tasks: got {a = 1} (table); expected a non-empty array of tables"]),
        (
            {"tasks": [{"name": "1a"}]},
            ['tasks[0].name: got "1a"; must be a name (letters, digits and _; no digit first)'],
        ),
        ({"tasks": [{"name": "both", "weight": 2.0}]}, ["tasks[0]: weight = 2.0 does not go with `both`"]),
        (
            {"tasks": [{"name": "a"}, {"name": "b"}]},
            ["two tasks are one too many", "two tasks are one too few"],
        ),
        ({"rows": {"trian": 1}}, ["rows.trian: unknown key; did you mean `train`?"]),
        ({"rows": {"holdout": 1}}, ["rows.holdout: unknown key; known: train, valid, test"]),
        ({"rows": {"test": 0}}, ["rows.test: got 0; must be > 0"]),
    ],
)
def test_place(changes: dict[str, Any], expected: list[str]) -> None:
    assert problems(document(**changes)) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"variant": "pel"}, 'model.variant: got "pel"; did you mean "ple"? (known: hard_sharing, ple)'),
        ({"variant": "zzz"}, 'model.variant: got "zzz"; known: hard_sharing, ple'),
        ({"variant": 3}, "model.variant: got 3; known: hard_sharing, ple"),
        ({}, "model.variant: missing; known: hard_sharing, ple"),
        ("ple", 'model: got "ple" (string); expected a table with variant = "hard_sharing" or "ple"'),
        ({"variant": "ple"}, "model.own_experts: missing; expected a positive int"),
        ({"variant": "ple", "own_experts": 0}, "model.own_experts: got 0; must be > 0"),
        (
            {"variant": "hard_sharing", "own_experts": 1},
            "model.own_experts: unknown key; known: variant, bottom",
        ),
        ({"variant": "hard_sharing", "bottom": [8, 0]}, "model.bottom[1]: got 0; must be > 0"),
    ],
)
def test_tagged_union(model: Any, expected: str) -> None:
    assert problems(document(model=model)) == [expected]


def test_missing_union_names_its_variants() -> None:
    raw = document()
    del raw["model"]
    assert problems(raw) == ['model: missing; expected a table with variant = "hard_sharing" or "ple"']


def test_unknown_key_known_elsewhere() -> None:
    assert problems(document(compiled=True)) == ["compiled: unknown key; did you mean `train.compiled`?"]
    assert problems(document(weight=2.0)) == ["weight: unknown key; did you mean `tasks[].weight`?"]
    assert problems(document(xyz=2.0)) == ["xyz: unknown key; known: model, tasks, train, rows"]


def test_an_array_with_bad_items_is_not_also_too_short() -> None:
    assert problems(document(tasks=[{"name": 1}])) == ["tasks[0].name: got 1 (int); expected a name"]


def test_a_document_of_python_may_hold_tuples() -> None:
    assert problems(document(tasks=({"name": "a", "wieght": 2.0}, {"name": 1}), rows=(1,))) == [
        "tasks[0].wieght: unknown key; did you mean `weight`?",
        "tasks[1].name: got 1 (int); expected a name",
        "rows: got [1] (array); expected a table of positive ints",
    ]


def test_all_problems_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "ple.toml"
    file.write_text(
        "[train]\nbatchsize_per_rank = 8\nsteps = true\n"
        '[[tasks]]\nname = "a"\n[[tasks]]\nname = "b"\nweight = 0.0\n'
        '[model]\nvariant = "ple"\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_config(Run, file)
    assert str(caught.value) == (
        f"{file}: 4 problems\n"
        "  train.batchsize_per_rank: unknown key; did you mean `batch_size_per_rank`?\n"
        "  train.steps: got true (bool); expected a positive int\n"
        "  tasks[1].weight: got 0.0; must be > 0\n"
        "  model.own_experts: missing; expected a positive int"
    )


def test_config_error_is_a_user_error_that_pickles() -> None:
    error = ConfigError.from_problems("a.toml", ["x: missing; expected an int"])
    assert isinstance(error, UserError)
    assert error.exit_code == 2
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ConfigError
    assert str(copy) == str(error) == "a.toml: 1 problem\n  x: missing; expected an int"
