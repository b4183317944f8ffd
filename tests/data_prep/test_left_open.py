"""What prep finds, it writes into `prep.toml`; a configuration that leaves it to prep is still the same one."""

from __future__ import annotations

from typing import Any

import pytest

from data_prep.append import appended
from data_prep.numbers import left_open
from data_prep.parent import Parent
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PREP_FILE, PrepConfig
from ple_rec.errors import UserError
from tests.golden.steps import ARTEFACTS, HERE

DATASET = ARTEFACTS / "data" / "golden"  # of version 0.1.0, with a day 1, edges, a threshold and types of a CSV file
THRESHOLD = {"value": "play_time_ms", "quantile": 0.6, "by": "duration_ms", "bins": 2}


@pytest.fixture(scope="module")
def parent() -> Parent:
    config = load_config(PrepConfig, DATASET / PREP_FILE)
    return Parent(DATASET, load_schema(DATASET), config, {})


def given(*overrides: str) -> PrepConfig:
    return load_config(PrepConfig, HERE / "feed.toml", overrides)


def test_a_configuration_equals_that_of_its_dataset_but_for_what_was_found(parent: Parent) -> None:
    assert parent.config != given()
    assert left_open(parent.config, given()) == given()
    assert left_open(parent.config, parent.config).split == parent.config.split
    for day in (7, "2024-05-07"):
        assert appended(parent, given(), day).sparse == parent.config.sparse
        assert appended(parent, given(), day).tasks == parent.config.tasks


@pytest.mark.parametrize(
    ("number", "same", "other"),
    [
        ("split.day_1", "2024-05-01", "2024-05-02"),
        ("sparse[4].edges", [24000.0, 44000.0], [24000.0]),
        ("tasks[0].threshold.values", [11101.0, 25541.0], [11101.0, 25542.0]),
    ],
)
def test_a_number_that_is_given_is_compared(number: str, same: Any, other: Any, parent: Parent) -> None:
    appended(parent, changed(number, same), 7)
    with pytest.raises(UserError, match="an appended day keeps every column's meaning") as caught:
        appended(parent, changed(number, other), 7)
    shown = f"{number} = {shown_as(same)}, now {shown_as(other)}"
    assert caught.value.value == f"was prepared with {shown}"


def changed(number: str, value: Any) -> PrepConfig:
    """The configuration with a number that it else leaves to prep."""
    content = given().model_dump(mode="json", exclude_none=True)
    if number.startswith("split"):
        content["split"]["day_1"] = value
    elif number.startswith("sparse"):
        del content["sparse"][4]["quantiles"]
        content["sparse"][4]["edges"] = value
    else:
        content["tasks"][0]["threshold"] = THRESHOLD | {"edges": [35000.0], "values": value}
    return load_config(PrepConfig, content)


def shown_as(value: Any) -> str:
    return str(value).replace("'", '"') if isinstance(value, list) else f'"{value}"'


def test_a_key_column_of_the_name_of_a_setting_is_compared(parent: Parent) -> None:
    with pytest.raises(UserError, match=r'sides\.user\.on\.format = nothing, now "tab"'):
        appended(parent, given("sides.user.on.format='tab'"), 7)
