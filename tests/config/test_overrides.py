"""`--set a.b[1].c=value`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from ple_rec.config.base import Config, Name, PositiveFloat, PositiveInt
from ple_rec.config.load import ConfigError, load_config
from ple_rec.config.overrides import MISSING, parse_override
from ple_rec.errors import UserError


class Ple(Config):
    variant: Literal["ple"]
    levels: PositiveInt = 2


class Mmoe(Config):
    variant: Literal["mmoe"]
    experts: PositiveInt = 4


class Task(Config):
    name: Name
    weight: PositiveFloat = 1.0


class Train(Config):
    steps: PositiveInt | None = None
    epochs: PositiveInt | None = None


class Deep(Config):
    note: str = ""


class Inner(Config):
    deep: Deep = Deep()


class Run(Config):
    inner: Inner | None = None
    model: Annotated[Ple | Mmoe, Field(discriminator="variant")] = Ple(variant="ple")
    tasks: tuple[Task, ...] = ()
    train: Train = Train()
    rows: dict[str, PositiveInt] = Field({})
    note: str | None = None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.toml"
    path.write_text(
        '[train]\nepochs = 3\n[model]\nvariant = "ple"\nlevels = 3\n[[tasks]]\nname = "a"\n[[tasks]]\nname = "b"\n'
    )
    return path


def problems(file: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(Run, file, overrides)
    return str(caught.value).split("\n  ")[1:]


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a=true", ("a",), True),
        ("a.b=1", ("a", "b"), 1),
        ("a[1].c=0.5", ("a", 1, "c"), 0.5),
        ("a[0][2]=[1, 2]", ("a", 0, 2), [1, 2]),
        ('a="1"', ("a",), "1"),
        ("a={b = 1}", ("a",), {"b": 1}),
        ("a=plain text", ("a",), "plain text"),
        ("a= s3://x=y ", ("a",), "s3://x=y"),
        ("a=[1, 2", ("a",), "[1, 2"),
        ("a=1\nb = 2", ("a",), "1\nb = 2"),
        (' a."b.c" = 1', ("a", "b.c"), 1),
        ("a.1=1", ("a", "1"), 1),
        ("a=", ("a",), MISSING),
    ],
)
def test_parse(text: str, path: tuple[str | int, ...], value: Any) -> None:
    override = parse_override(text)
    assert (override.path, override.value) == (path, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("steps", "no `=`"), ("a..b=1", "`a..b` is no place"), ("=1", "`` is no place"), ("a[x]=1", "`a[x]` is no place")],
)
def test_bad_syntax(file: Path, text: str, value: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(Run, file, [text])
    assert str(caught.value) == (
        f"--set {text}: {value}; an override reads key.key[0].key=value. Fix: write for example --set train.steps=100"
    )


def test_not_utf_8(file: Path) -> None:
    with pytest.raises(UserError, match=r"^--set note: bytes that are not UTF-8; an override is UTF-8 text"):
        load_config(Run, file, ["note=\udcff"])


def test_overrides_of_every_kind(file: Path) -> None:
    config = load_config(
        Run, file, ["tasks[1].weight=2", "rows.x=1", "rows.x=2", "rows.y=3", "note=hello", "tasks[0].name=c"]
    )
    assert config.tasks == (Task(name="c"), Task(name="b", weight=2.0))
    assert (config.rows, config.note) == ({"x": 2, "y": 3}, "hello")


def test_nothing_after_the_sign_takes_the_key_away(file: Path) -> None:
    assert load_config(Run, file, ["train.epochs=", "train.steps=5", "rows.x="]).train == Train(steps=5)
    assert load_config(Run, file, ["tasks[0]="]).tasks == (Task(name="b"),)
    assert problems(file, "tasks[0].name=") == ["tasks[0].name: missing; expected a name"]


def test_another_variant_drops_the_keys_of_the_old_one_in_any_order(file: Path) -> None:
    for overrides in (["model.variant=mmoe", "model.experts=8"], ["model.experts=8", "model.variant=mmoe"]):
        assert load_config(Run, file, overrides).model == Mmoe(variant="mmoe", experts=8)
    assert problems(file, "model.variant=mmoe", "model.levels=1") == [
        "model.levels: unknown key; known: variant, experts"
    ]
    assert problems(file, "model.variant=pel") == ['model.variant: got "pel"; did you mean "ple"? (known: mmoe, ple)']


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("trian.steps=1", "trian: unknown key; did you mean `train`?"),
        ("train.stepz=1", "train.stepz: unknown key; did you mean `steps`?"),
        ("taks[0].weight=1", "taks: unknown key; did you mean `tasks`?"),
        ("tasks[0].wieght=1", "tasks[0].wieght: unknown key; did you mean `weight`?"),
        ("steps=1", "steps: unknown key; did you mean `train.steps`?"),
        ("tasks[2].weight=1", "tasks[2].weight: no item 2; tasks has 2 items"),
        ("train[0]=1", "train[0]: train is {epochs = 3} (table); an index needs an array there"),
        ("tasks.weight=1", 'tasks.weight: tasks is [{name = "a"}, {name = "b"}] (array), not a table'),
        ("train.epochs.x=1", "train.epochs.x: train.epochs is 3 (int), not a table"),
        ("train.epochs=[1", 'train.epochs: got "[1" (string); expected a positive int'),
        ("train.epochs=true", "train.epochs: got true (bool); expected a positive int"),
    ],
)
def test_no_place_or_no_fit(file: Path, override: str, text: str) -> None:
    assert problems(file, override) == [text]


def test_overrides_of_one_place_make_one_change(file: Path) -> None:
    """Each is put over those before it: a value that was set whole, taken away, or changed in part."""
    assert load_config(Run, file, ['tasks=[{name = "c"}]', "tasks[0].weight=2"]).tasks == (Task(name="c", weight=2.0),)
    assert load_config(Run, file, ["rows={x = 1, y = 2}", "rows.x=", "rows.z=3"]).rows == {"y": 2, "z": 3}
    assert load_config(Run, file, ["train=", "train.steps=5"]).train == Train(steps=5)
    assert load_config(Run, file, ["rows.x=1", "rows="]).rows == {}
    assert load_config(Run, file, ["tasks[0]=", "tasks[1].weight=2"]).tasks == (Task(name="b", weight=2.0),)
    assert problems(file, "tasks=", "tasks[0].weight=2") == [
        "tasks[0].weight: tasks is not set; an index needs an array there"
    ]


def test_a_table_replaces_and_a_key_of_it_merges(file: Path) -> None:
    file.write_text("[rows]\nx = 1\n")
    assert load_config(Run, file, ["rows.y=2"]).rows == {"x": 1, "y": 2}
    assert load_config(Run, file, ["rows={y = 2}"]).rows == {"y": 2}


def test_what_is_taken_away_from_a_table_that_is_not_there_makes_none(file: Path) -> None:
    assert load_config(Run, file, ["inner.deep.note="]).inner is None
    assert load_config(Run, file, ["inner.deep.note=x"]).inner == Inner(deep=Deep(note="x"))


def test_whatever_an_override_would_put_under_an_unknown_key_is_said_once(file: Path) -> None:
    """Beside a mistake that shows the whole table, the value of which is the file's."""
    assert problems(file, "train.steps=", "train.kind[2]=", "train.epochs=") == [
        "train.kind: unknown key; known: steps, epochs"
    ]
    file.write_text("tasks = [[{}]]\n")
    assert problems(file, "tasks[0][0].name=a", "tasks[0].x=1") == [
        "tasks[0].x: tasks[0] is [{}] (array), not a table",
        'tasks[0]: got [{name = "a"}] (array); expected a table',
    ]


def test_an_index_into_what_is_not_set(tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.touch()
    assert problems(empty, "tasks[0].weight=1") == ["tasks[0].weight: tasks is not set; an index needs an array there"]


def test_problems_of_overrides_and_of_the_file_come_together(file: Path) -> None:
    file.write_text("[train]\nsteps = 0\n")
    assert problems(file, "train.stepz=1", "train.epochs=0") == [
        "train.steps: got 0; must be > 0",
        "--set train.stepz: unknown key; did you mean `steps`?",
        "--set train.epochs: got 0; must be > 0",
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epoch=2", "train.epoch: unknown key; did you mean `epochs`?"),
        ("train.epochs=two", 'train.epochs: got "two" (string); expected a positive int'),
        ("model.experts=8", "model.experts: unknown key; known: variant, levels"),
    ],
)
def test_what_only_an_override_spoils_is_not_blamed_on_the_file(file: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Run, file, [override])
    assert str(caught.value).startswith(f"--set: 1 problem\n  {said}")
    assert file.name not in str(caught.value)
