"""What prep takes from the log stands in `[found]` of `prep.toml`; the configuration there is what the user wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_prep.append import append_config
from data_prep.output.parent import Parent
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PREP_FILE, FoundValues, PrepConfig, ThresholdValues
from ple_rec.errors import UserError
from tests.data_prep.plain_logs import TOML, Logs
from tests.golden.steps import ARTEFACTS, HERE

DATASET = ARTEFACTS / "data" / "golden"  # of version 0.1.0, with a day 1, edges, a threshold and types of a CSV file
THRESHOLD = {"value": "play_time_ms", "quantile": 0.6, "by": "duration_ms", "bins": 2}
OPEN = TOML.replace(
    'label = "is_like"',
    'label = "duration_ms > threshold"\nthreshold = {value = "duration_ms", quantile = 0.5, by = "price", bins = 2}',
)


def test_a_dataset_keeps_the_configuration_of_the_user(tmp_path: Path) -> None:
    logs = Logs(tmp_path, OPEN + '\n[[sparse]]\nname = "length"\nvalue = "duration_ms"\nquantiles = 4\n')
    logs.prepare()
    written, config = load_config(PrepConfig, logs.out / PREP_FILE), load_config(PrepConfig, logs.toml)
    assert written.model_copy(update={"found": FoundValues()}) == config
    assert written.found.columns["log"]["duration_ms"] == "int64"
    assert written.found.model_copy(update={"columns": {}}) == FoundValues(
        day_1="2022-04-15",
        edges={"length": (1200.0, 2400.0, 3600.0)},
        thresholds={"like": ThresholdValues(edges=(6.0,), values=(1100.0, 3500.0), missing=2300.0)},
    )


def test_what_another_log_gave_does_not_count(tmp_path: Path) -> None:
    logs = Logs(tmp_path, OPEN + "\n[found.thresholds.like]\nedges = []\nvalues = [0.0]\n")
    logs.prepare()
    assert load_config(PrepConfig, logs.out / PREP_FILE).found.thresholds["like"].values == (1100.0, 3500.0)


# Files of version 0.1.0


@pytest.fixture(scope="module")
def parent() -> Parent:
    config = load_config(PrepConfig, DATASET / PREP_FILE)
    return Parent(DATASET, load_schema(DATASET), config, {}, {}, {}, {})


def given(*overrides: str) -> PrepConfig:
    return load_config(PrepConfig, HERE / "feed.toml", overrides)


def test_an_old_file_is_read_as_a_new_one(parent: Parent) -> None:
    assert parent.config.sparse == given().sparse
    assert parent.config.found == FoundValues(
        edges={"length": (24000.0, 44000.0)}, types={"log": {}, "user": {"user_id": "int64", "age": "string"}}
    )
    filled = parent.config.with_found_values()
    assert filled.sparse[4].edges == (24000.0, 44000.0)
    assert filled.tasks[0].threshold is not None
    assert filled.tasks[0].threshold.values == (11101.0, 25541.0)


def test_a_configuration_that_leaves_to_prep_what_a_dataset_has_is_that_of_the_dataset(parent: Parent) -> None:
    assert given().with_found_values_of(parent.config) == parent.config.with_found_values_of(parent.config)
    for day in (7, "2024-05-07"):
        child = append_config(parent, given(), day)
        assert child.found == parent.config.found
        assert child.tasks == parent.config.tasks


@pytest.mark.parametrize(
    ("number", "same", "other"),
    [
        ("split.day_1", "2024-05-01", "2024-05-02"),
        ("tasks[0].threshold.values", [11101.0, 25541.0], [11101.0, 25542.0]),
    ],
)
def test_a_number_that_is_given_is_compared(number: str, same: Any, other: Any, parent: Parent) -> None:
    append_config(parent, changed(number, same), 7)
    with pytest.raises(UserError, match="an appended day keeps every column's meaning") as caught:
        append_config(parent, changed(number, other), 7)
    shown = f"{number} = {shown_as(same)}, now {shown_as(other)}"
    assert caught.value.value == f"was prepared with {shown}"


def changed(number: str, value: Any) -> PrepConfig:
    """The configuration with a number that it else leaves to prep."""
    content = given().model_dump(mode="json", exclude_none=True)
    if number.startswith("split"):
        content["split"]["day_1"] = value
    else:
        content["tasks"][0]["threshold"] = THRESHOLD | {"edges": [35000.0], "values": value}
    return load_config(PrepConfig, content)


def shown_as(value: Any) -> str:
    return str(value).replace("'", '"') if isinstance(value, list) else f'"{value}"'


def test_a_key_column_of_the_name_of_a_setting_is_compared(parent: Parent) -> None:
    with pytest.raises(UserError, match=r'sides\.user\.on\.format = nothing, now "tab"'):
        append_config(parent, given("sides.user.on.format='tab'"), 7)
