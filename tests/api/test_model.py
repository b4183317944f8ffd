"""What an exported model answers, of rows in any form."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import ple_rec
from ple_rec.inference.ranker import Ranker

pytestmark = pytest.mark.usefixtures("no_charts")


def test_a_model_answers_as_the_server_does(model: ple_rec.Model) -> None:
    ranker = Ranker(model.path)
    document = {"user": {"user_id": 7, "hour": 3}, "items": [{"video_id": "v1", "price": 2.5}, {"video_id": "v2"}, {}]}
    (expected,) = ranker.answer([ranker.read_rank(document | {"exponents": {"like": 2}, "top": 2})])
    found = model.rank(document["user"], document["items"], {"like": 2.0}, top=2)  # type: ignore[arg-type]
    flat = [{"index": each["index"], "score": each["score"]} | each["predictions"] for each in expected["items"]]
    assert found.to_pylist() == flat
    rows = [{"user_id": 7, "video_id": "v1", "price": 2.5, "history": ["v1", "v2"]}, {"user_id": 8}]
    (expected,) = ranker.answer([ranker.read_score({"rows": rows})])
    flat = [{"score": each["score"]} | each["predictions"] for each in expected["rows"]]
    assert model.score(rows).to_pylist() == flat
    assert model.tasks == {"like": "binary", "watch": "regression"}
    assert model.exponents == {"like": 1.0, "watch": 1.0}


def test_rows_may_have_any_form(model: ple_rec.Model) -> None:
    columns = {"user_id": [7, 8, 9], "price": [1.5, None, 2.0]}
    expected = model.score(columns)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    arrays = {"user_id": np.array([7, 8, 9]), "price": np.array([1.5, np.nan, 2.0])}
    frame = pa.table(columns).to_pandas()
    for each in (
        rows,
        tuple(rows),
        arrays,
        pa.table(columns),
        frame,
        frame.iloc[[0, 1, 2]].set_index(np.array([5, 6, 7])),
    ):
        assert model.score(each).equals(expected)


def test_columns_of_a_table_that_the_model_does_not_read_are_left_out(model: ple_rec.Model) -> None:
    columns: dict[str, Any] = {"user_id": [7, 8], "price": [1.5, 2.0]}
    expected = model.score(columns)
    frame = pd.DataFrame(columns | {"clicked": [0, 1], "odd": [1, "a"], "object": [object(), object()]})
    for rows in (frame, frame.set_index("clicked"), pa.table(columns | {"clicked": [0, 1], "none": [None, None]})):
        assert model.score(rows).equals(expected)
        ranked = model.rank({"hour": 3}, frame[["price", "clicked", "odd"]])
        assert ranked.num_rows == 2
    for misspelt in (frame.rename(columns={"price": "prise"}), {**columns, "clicked": [0, 1]}, [{"clicked": 0}]):
        with pytest.raises(ple_rec.UserError, match=r"(prise|clicked)(\[0\])?: .*no feature of the model"):
            model.score(misspelt)


def test_more_rows_than_a_request_may_have(model: ple_rec.Model) -> None:
    users = [i % 60 for i in range(4500)]
    scored = model.score({"user_id": users})
    assert len(scored) == 4500
    np.testing.assert_allclose(scored["like"][:60], scored["like"][4440:], rtol=1e-6)
    ranked = model.rank({"hour": 3}, {"video_id": [f"v{i % 20}" for i in range(4500)]}, top=4100)
    scores = ranked["score"].to_numpy()
    assert len(scores) == 4100
    assert (np.diff(scores) <= 0).all()
    assert len(set(ranked["index"].to_pylist())) == 4100
    with pytest.raises(ple_rec.UserError, match=r"rows.user_id\[100\] \(of rows from 4,000 on\): got \"x\""):
        model.score({"user_id": [*users[:4100], "x"]})


def test_raw_columns_in_any_form_answer_as_the_features_computed_from_them(
    model: ple_rec.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    noon = 1_714_550_400_000  # 2024-05-01 08:00 UTC, which is 16:00 at +08:00.
    features = {"user_id": [7, 8], "hour": [16, 16], "price": [1.5, None], "minutes": [2.0, None], "city": [None, "c"]}
    columns: dict[str, Any] = {
        "user_id": [7, 8],
        "time_ms": [noon, noon],
        "price": [1.5, None],
        "videos.length": [120, None],
        "users.city": [None, "c"],
    }
    expected = model.score(features | {"price_bin": features["price"]})
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for each in (columns, rows, pa.table(columns), pd.DataFrame(columns)):
        assert model.score(each, form="raw").equals(expected)
    assert capsys.readouterr().err == ""
    unread = {"clicked": [0, 1], "spam": [0, 0]}
    for each in (columns | unread, [row | {"clicked": 1, "spam": 0} for row in rows], pa.table(columns | unread)):
        assert model.score(each, form="raw").equals(expected)
        assert capsys.readouterr().err.count("no feature of the model reads the columns clicked, spam, so they") == 1
    owners = {row["name"]: row["of"] for row in model.raw_columns.to_pylist()}
    items = {name: values for name, values in columns.items() if owners[name] == "item"}
    ranked = model.rank({"user_id": 7, "clicked": 1, "time_ms": noon}, items | unread, form="raw")
    assert len(ranked) == 2
    assert capsys.readouterr().err.count("clicked") == 1
    with pytest.raises(ple_rec.UserError, match=r"rows.time_ms\[1\]: got null; every row needs a value; as ms"):
        model.score(columns | {"time_ms": [noon, None]}, form="raw")
    with pytest.raises(ple_rec.UserError, match="form: got 'rows'"):
        model.score(columns, form="rows")  # type: ignore[arg-type]
    raw = {row["name"]: row for row in model.raw_columns.to_pylist()}
    assert raw["time_ms"] == {
        "name": "time_ms",
        "type": "int64",
        "of": "user" if "hour" in of_user(model) else "item",
        "required": True,
        "features": ["hour"],
    }
    assert {"RankRequest", "RawRankRequest", "ScoreRequest", "RawScoreRequest", "Ranked", "Scored"} == {*model.schemas}
    assert "- Of an item: `" in model.card.partition("## Raw columns")[2]


def of_user(model: ple_rec.Model) -> set[str]:
    return {row["name"] for row in model.features.to_pylist() if row["of"] == "user"}


def test_more_text_than_a_raw_request_may_have(model: ple_rec.Model) -> None:
    noon = 1_714_550_400_000
    rows = {"time_ms": [noon] * 40, "video_id": ["v1" * 100_000] * 39 + ["v1"]}
    assert len(model.score(rows, form="raw")) == 40


def weighted(count: int) -> dict[str, list[Any]]:
    return {"values": ["a"] * count, "weights": [0.5] * count}


def test_more_values_in_bags_than_a_request_may_have(model: ple_rec.Model) -> None:
    bags: list[list[str] | None] = [[f"v{i % 20}" for i in range(1000)], None] * 35
    rows = {"history": bags, "tags": [weighted(500), None] * 35, "user_id": [1] * 70}
    scored = model.score(rows)
    assert len(scored) == 70
    np.testing.assert_allclose(scored["like"][:2], scored["like"][68:], rtol=1e-6)
    ranked = model.rank({"tags": weighted(900)}, {"history": bags})
    assert sorted(ranked["index"].to_pylist()) == list(range(70))
    as_dicts = [{"history": each, "tags": weighted(900)} for each in bags]
    # A ranking multiplies what its items share once, so that its sums have another order.
    np.testing.assert_allclose(ranked.sort_by("index")["score"], model.score(as_dicts)["score"], rtol=1e-6)
    with pytest.raises(ple_rec.UserError, match=r"rows\.history\[0\].*: got 1,001 values; at most 1,000"):
        model.score({"history": [["a"] * 1001]})


def test_calls_side_by_side_leave_every_thread_its_number_of_threads(model: ple_rec.Model) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    numbers, start = set[int](), threading.Barrier(4)

    def score(_: int) -> int:
        start.wait()
        model.score({"user_id": [7, 8]})
        return torch.get_num_threads()

    try:
        for _ in range(30):
            with ThreadPoolExecutor(4) as pool:  # new threads, which take over the default of the process
                numbers |= set(pool.map(score, range(4)))
            with ThreadPoolExecutor(1) as later:
                numbers.add(later.submit(torch.get_num_threads).result())
    finally:
        torch.set_num_threads(before)
    assert numbers == {2}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (datetime(2024, 1, 1), "datetime.datetime(2024, 1, 1, 0, 0)"),
        (Decimal("3.5"), "Decimal('3.5')"),
        (b"x", "b'x'"),
        (pd.Timestamp("2024-01-01"), "Timestamp("),
        ({1: 2}, "{"),
    ],
)
def test_values_that_json_does_not_know_are_shown(model: ple_rec.Model, value: object, shown: str) -> None:
    with pytest.raises(ple_rec.UserError, match=re.escape(shown)) as caught:
        model.score([{"price": value}])
    assert caught.value.place == "rows[0].price"
    with pytest.raises(ple_rec.UserError, match="got "):
        model.score([{value if isinstance(value, bytes) else 3: 1}])
    with pytest.raises(ple_rec.UserError, match=r"exponents\.like: got "):
        model.rank({}, [{}], {"like": value})  # type: ignore[dict-item]


def test_half_a_character_is_no_text(model: ple_rec.Model) -> None:
    with pytest.raises(ple_rec.UserError, match=r"rows.video_id\[0\]: .*ud800.*; a text of whole characters"):
        model.score({"video_id": ["\ud800"]})


def test_missing_values_of_pandas_and_scalars_of_arrow(model: ple_rec.Model) -> None:
    rows = [{"user_id": 7, "price": 1.5}, {"user_id": 7}, {"user_id": 7}]
    shown = [{"user_id": pa.scalar(7), "price": np.float32(1.5)}]
    shown += [{"user_id": np.int64(7), "price": missing} for missing in (pd.NaT, pd.NA)]
    assert model.score(shown).equals(model.score(rows))
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["user_id", "user_id"])
    with pytest.raises(ple_rec.UserError, match=r"rows\.user_id: two columns"):
        model.score(twice)


@pytest.mark.parametrize(
    ("user", "items", "message"),
    [
        (7, [{}], "user: got a int; it holds the values of one user"),
        ({}, [], "items: got 0 objects; a list of 1 to 2,000 objects"),
        ({}, [{"vide_id": 1}], r'items\[0\].vide_id: got 1; no feature of the model; did you mean "video_id"\?'),
        ({}, [3], r"items\[0\]: got 3; an object"),
        ({}, 3, "items: got a int; rows are a list of dicts"),
        ({}, {"video_id": 3}, "items.video_id: got a int; a column is a list of values"),
        (
            {},
            {"video_id": ["v1", "v2"], "price": [1.0]},
            "items: video_id has 2 values, price has 1 values; columns have the same length",
        ),
        ({"user_id": "seven"}, [{}], "user.user_id: got "),
    ],
)
def test_a_bad_request_is_told(model: ple_rec.Model, user: Any, items: Any, message: str) -> None:
    with pytest.raises(ple_rec.UserError, match=message):
        model.rank(user, items)
    with pytest.raises(ple_rec.UserError, match=r"exponents\.lik: got 2\.0"):
        model.rank({}, [{}], {"lik": 2.0})
    with pytest.raises(ple_rec.UserError, match=r"top: got 0 \(int\); it is a whole number from 1 on"):
        model.rank({}, [{}], top=0)


def test_a_version_and_the_folder_of_versions_load(model: ple_rec.Model) -> None:
    for path in (model.path, model.path.parent.parent):
        assert repr(ple_rec.load_model(path)) == repr(model)
    assert model.card.startswith("# ")
    assert model.features["name"].to_pylist()[:2] == ["user_id", "video_id"]
