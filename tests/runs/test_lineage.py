"""What differs between the data of a checkpoint and another dataset, in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ple_rec.data.columns import Selection
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.runs.lineage import describe_data, describe_differences, input_changes
from ple_rec.training.checks import select_run_columns
from tests.training.small import small_config, write_small


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetDirectory:
    return DatasetDirectory(write_small(tmp_path_factory.mktemp("trained-on") / "data"))


@pytest.fixture
def selection(dataset: DatasetDirectory) -> Selection:
    return select_run_columns(small_config(Path(str(dataset.path))), dataset)


def test_what_differs(dataset: DatasetDirectory, selection: Selection) -> None:
    recorded = describe_data(dataset.schema, selection)
    assert recorded["dataset"] == dataset.schema.fingerprint
    assert input_changes(recorded, selection) == []
    alike = "tasks, features and tables are alike, rows and vocabularies are not"
    assert describe_differences(recorded, selection) == alike
    user = selection.table_rows["user"]
    grown = replace(selection, table_rows={**selection.table_rows, "user": user + 5})
    assert describe_differences(recorded, grown) == f"table user had {user:,} rows, has {user + 5:,} rows"
    name = f"{selection.tasks[0].name} ({selection.tasks[0].kind})"
    fewer = replace(selection, tasks=selection.tasks[1:])
    assert describe_differences(recorded, fewer) == f"tasks: gone: {name}"
    turned = replace(selection, tasks=selection.tasks[::-1])
    assert describe_differences(recorded, turned).startswith("tasks were ")
    assert describe_differences({"dataset": "x"}, fewer) == alike
