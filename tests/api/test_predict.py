"""Predictions of rows in memory, whose columns may have any type, and predictions beside their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import ple_rec
from ple_rec.api.predictions import load_preparation
from tests.inference.feed import LABELS, LAST, TASKS, day_of, same
from tests.tiny import write_tiny

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.fixture(scope="module")
def day() -> pa.Table:
    return day_of(LAST).drop_columns([*LABELS])


def with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def test_predictions_beside_their_labels_give_a_metric(run: ple_rec.Run) -> None:
    found = run.predict(labels=True)
    expected = run.predict()
    added = ["label_like", "label_watch", "in_space_watch"]
    assert found.column_names == [*expected.column_names, *added]
    assert found.select(expected.column_names).equals(expected)
    rows = run.dataset.read("test")
    assert found["label_like"].to_pylist() == rows["label_like"].to_pylist()
    inside = found.filter(found["in_space_watch"]).to_pandas()
    assert 0 < len(inside) < len(found)
    error = np.mean((inside["watch"] - inside["label_watch"]) ** 2)
    assert error == pytest.approx(run.metrics["test"]["tasks"]["watch"]["mse"], rel=1e-5)


def test_labels_come_with_ids_and_of_several_splits(run: ple_rec.Run) -> None:
    found = run.predict(split=["valid", "test"], ids=["label_like", "hour"], labels=True)
    assert found.column_names == ["group", "label_like", "hour", "split", *TASKS, "label_watch", "in_space_watch"]
    assert len(found) == run.dataset.rows["valid"] + run.dataset.rows["test"]
    assert found["hour"].to_pylist()[-3:] == run.dataset.read("test")["hour"].to_pylist()[-3:]


def test_raw_logs_have_no_labels(run: ple_rec.Run, day: pa.Table) -> None:
    with pytest.raises(ple_rec.UserError, match=r'^labels: got True for raw logs; .*such as ids=\["clicked"\]'):
        run.predict(day, labels=True)


def test_a_dataset_that_was_not_prepared_from_logs_reads_columns_of_its_features_names(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    prep, place = load_preparation(tmp_path / "data")
    assert place == str(tmp_path / "data" / "schema.toml")
    assert [feature.source for feature in (*prep.sparse, *prep.dense)] == ["user", "age"]


def test_a_column_with_the_name_of_a_task_is_carried_under_a_name_of_its_own(
    run: ple_rec.Run, feed: Path, day: pa.Table
) -> None:
    named = day.append_column("like", pa.array(range(len(day)))).append_column("score", pa.array(range(len(day))))
    ids = ["like", "price", "score"]
    found = run.predict(named, ids=ids, no_group=True, source=feed / "raw", all_rows=True)
    assert found.column_names == ["input_like", "price", "input_score", *TASKS]
    assert found["input_like"].to_pylist() == found["input_score"].to_pylist() == list(range(len(day)))
    both = named.append_column("input_like", day["price"])
    with pytest.raises(ple_rec.UserError, match='ids: got "input_like"; a column with the name of a prediction'):
        run.predict(both, ids=["like", "input_like"], source=feed / "raw")


def test_columns_without_any_value_are_missing_everywhere(run: ple_rec.Run, feed: Path, day: pa.Table) -> None:
    typed = untyped = day.append_column("session", pa.nulls(len(day)))
    for name in ("user_id", "video_id", "history", "price"):
        typed = with_column(typed, name, pa.nulls(len(day), day.schema.field(name).type))
        untyped = with_column(untyped, name, pa.nulls(len(day)))
    of_pandas = untyped.to_pandas().assign(user_id=np.nan, video_id=np.nan)
    expected, *found = (run.predict(r, source=feed / "raw", ids=["session"]) for r in (typed, untyped, of_pandas))
    assert all(same(each, expected) for each in found)
    assert found[0]["session"].null_count == len(expected)


def test_a_column_without_a_type_that_an_expression_reads_is_refused(
    run: ple_rec.Run, feed: Path, day: pa.Table
) -> None:
    with pytest.raises(ple_rec.DataError, match=r"the table, column 'spam': type null; no row has a value"):
        run.predict(with_column(day, "spam", pa.nulls(len(day))), source=feed / "raw")


ODD: dict[str, Any] = {
    "mixed": [1, "a"],
    "objects": [object(), object()],
    "complex": [1j, 2j],
    "offsets": [pd.DateOffset(days=1), pd.DateOffset(months=1)],
    "empty": [{}, {}],
    "large": [2**70, 1],
}


def test_columns_that_the_model_does_not_read_may_have_any_type(
    run: ple_rec.Run, feed: Path, day: pa.Table, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run.predict(day, source=feed / "raw")
    odd = {name: values * (len(day) // 2) for name, values in ODD.items()}
    frame = day.to_pandas()
    columns = {name: day[name] for name in day.column_names}
    union = pa.UnionArray.from_sparse(pa.array([0] * len(day), pa.int8()), [day["price"].combine_chunks()])
    for rows, left_out in (
        (frame.assign(**odd), ODD),
        (pd.concat([frame, frame[["spam", "spam"]].set_axis(["x", "x"], axis=1)], axis=1), ["x"]),
        (columns | odd, ODD),
        (day.append_column("union", union), ["union"]),
    ):
        capsys.readouterr()
        assert same(run.predict(rows, source=feed / "raw"), expected)
        said = capsys.readouterr().err
        assert all(
            f"warning: the column {name!r} is left out, since Parquet cannot hold it" in said for name in left_out
        )
    carried = frame.assign(label=odd["mixed"])
    refused: list[tuple[pd.DataFrame, str, dict[str, Any]]] = [
        (frame.assign(price=odd["mixed"]), "price", {}),
        (pd.concat([frame, frame[["price"]]], axis=1), "price", {}),
        (carried, "label", {"ids": ["label"]}),
    ]
    for rows, name, more in refused:
        with pytest.raises(ple_rec.UserError) as caught:
            run.predict(rows, source=feed / "raw", **more)
        assert caught.value.place == "data"
        assert caught.value.value == f"column {name!r} of a DataFrame"
    assert "left out" not in capsys.readouterr().err
    assert same(run.predict(carried, source=feed / "raw"), expected)


def test_every_row_of_a_list_may_have_columns_of_its_own(run: ple_rec.Run, feed: Path, day: pa.Table) -> None:
    rows = day.slice(0, 4).to_pylist()
    del rows[0]["history"]
    found = run.predict(rows, source=feed / "raw", all_rows=True)
    expected = run.predict([rows[0] | {"history": None}, *rows[1:]], source=feed / "raw", all_rows=True)
    assert same(found, expected)
