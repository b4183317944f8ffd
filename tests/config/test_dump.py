"""Out as TOML and in again; fingerprints."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from ple_rec.config.base import Config, Name, PositiveInt
from ple_rec.config.load import dump_toml, fingerprint, load_config


class Ple(Config):
    variant: Literal["ple"]
    levels: tuple[tuple[PositiveInt, ...], ...] = ()


class Mmoe(Config):
    variant: Literal["mmoe"]
    experts: PositiveInt = 4


class Item(Config):
    name: str
    weight: float = 1.0
    by_name: dict[Name, int | Literal["all"]] = Field({})


class Run(Config):
    title: str = ""
    model: Annotated[Ple | Mmoe, Field(discriminator="variant")] = Mmoe(variant="mmoe")
    items: tuple[Item, ...] = ()
    table: dict[str, Item] = Field({})
    pair: tuple[int, float] = (1, 2.0)
    flag: bool | None = None
    steps: int | None = None


numbers = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**70), 2**70)
names = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,5}\Z")
items = st.builds(
    Item, name=st.text(), weight=numbers, by_name=st.dictionaries(names, integers | st.just("all"), max_size=2)
)
levels = st.lists(st.lists(st.integers(1, 512), max_size=3).map(tuple), max_size=3).map(tuple)
models = st.one_of(
    st.builds(Ple, variant=st.just("ple"), levels=levels),
    st.builds(Mmoe, variant=st.just("mmoe"), experts=st.integers(1, 9)),
)
runs = st.builds(
    Run,
    title=st.text(),
    model=models,
    items=st.lists(items, max_size=2).map(tuple),
    table=st.dictionaries(st.text(), items, max_size=2),
    pair=st.tuples(integers, numbers),
    flag=st.none() | st.booleans(),
    steps=st.none() | integers,
)


def loaded(text: str) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_bytes(text.encode())
        return load_config(Run, file)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(runs)
def test_round_trip(run: Run) -> None:
    text = dump_toml(run)
    again = loaded(text)
    assert again == run
    assert dump_toml(again) == text
    assert fingerprint(again) == fingerprint(run)


def test_every_field_in_its_order() -> None:
    assert dump_toml(Run(items=(Item(name="a"),), steps=3)) == (
        'title = ""\n'
        "items = [\n"
        '    { name = "a", weight = 1.0, by_name = {} },\n'
        "]\n"
        "pair = [\n    1,\n    2.0,\n]\n"
        "steps = 3\n"
        "\n"
        "[model]\n"
        'variant = "mmoe"\n'
        "experts = 4\n"
        "\n"
        "[table]\n"
    )


def test_none_must_be_the_default() -> None:
    class Surprise(Config):
        limit: int | None = 5

    with pytest.raises(ValueError, match=r"^Surprise: a field that may be None has another default"):
        dump_toml(Surprise(limit=None))


def test_fingerprint_is_stable_and_tells_configurations_apart() -> None:
    text = b'{"items":[],"model":{"experts":4,"variant":"mmoe"},"pair":[1,2.0],"table":{},"title":""}'
    assert fingerprint(Run()) == hashlib.sha256(text).hexdigest()[:16]
    assert fingerprint(Run(pair=(1, 2))) == fingerprint(Run())
    changes: list[dict[str, Any]] = [{}, {"steps": 1}, {"flag": True}, {"title": "1"}, {"pair": (1, 2.5)}]
    assert len({fingerprint(Run(**change)) for change in changes}) == len(changes)
