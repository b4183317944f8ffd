"""Histories of requests: what a client sends, what a server looks up by key, and what an error says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as s

import ple_rec
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from ple_rec.config.raw_form import RawHistory, RawQuery
from ple_rec.config.side_table import INFO_FILE, TABLE_FILE, SideTableInfo
from ple_rec.inference.feature_parsing import MAX_BAG, MAX_VALUES
from ple_rec.inference.history_lookup import HistoryLookup
from ple_rec.inference.load_version import load_ranker, load_side_tables
from ple_rec.inference.model_dir import latest_version
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.request import ModelRequest
from ple_rec.inference.request_error import RequestError
from ple_rec.inference.side_table import SideTable
from tests.inference.feed import FIRST_USER, LABELS, day_of
from tests.inference.history_feed import SIZES
from tests.inference.rates_feed import LAST_DAY
from tests.inference.side_feed import city_of

USER = FIRST_USER + 3
VALUES = (
    s.none() | s.booleans() | s.integers(-2, 2) | s.floats(allow_nan=False, allow_infinity=False) | s.text(max_size=2)
)
OLD = {"video_id": "v1", "price_bin": 0.2, "hour": 3, "age": 90_000}
NEW = {"video_id": "v2", "price_bin": -0.4, "hour": 5, "age": 60}
TIMES: dict[str, dict[str, Any]] = {"features": {}, "raw": {"time_ms": 1_650_420_000_000}}
ITEM = {"video_id": "v1", "hour": 3, "price": 0.2}


@pytest.fixture(scope="module")
def ranker(history_model: Path) -> Ranker:
    """The model without its side tables."""
    return load_ranker(latest_version(history_model), 1)


@pytest.fixture(scope="module")
def server(history_model: Path) -> Ranker:
    """The model with its side tables."""
    version = latest_version(history_model)
    loaded, misfits = load_side_tables(load_ranker(version, 1), version)
    assert misfits == []
    return loaded


def ids(request: ModelRequest, name: str = "liked") -> list[dict[str, list[int]]]:
    """The ids of the columns of a history in each row of a request."""
    columns = {key: each for key, each in request.ids.items() if key.startswith((f"{name}.", f"{name}_age"))}
    lists = {
        key.removeprefix(f"{name}.").removeprefix(f"{name}_"): np.split(each.values_V, each.offsets_N[1:-1])
        for key, each in columns.items()
        if each.offsets_N is not None
    }
    rows = len(next(iter(lists.values())))
    return [{key: values[i].tolist() for key, values in lists.items()} for i in range(rows)]


def test_events_are_read_as_the_features_of_their_items(ranker: Ranker) -> None:
    user_values = {"user_id": USER, "liked": [OLD, NEW]}
    request = ranker.read_rank({"user": user_values, "items": [ITEM]})
    (user,) = ids(request)
    for name in ("video_id", "price_bin", "hour"):
        alone = [ranker.read_score({"rows": [{name: event[name]}]}).ids[name].values_V[0] for event in (OLD, NEW)]
        assert user[name] == alone
    assert user["age"] == [4, 1]  # Edges are 1 h, 6 h, 1 d and 2 d.
    assert set(request.missing) == {"city", "seen_in_city", "price_bin", "tags", "history", "minutes"}
    # Scores of a ranking are those of the rows.
    ranked = ranker.answer([request])[0]["items"][0]["predictions"]
    scored = ranker.answer([ranker.read_score({"rows": [ITEM | user_values]})])[0]["rows"][0]["predictions"]
    assert ranked == pytest.approx(scored, abs=1e-6)


def test_the_requests_of_the_page_fit_its_example(repository: Path) -> None:
    page = (repository / "docs" / "serve.md").read_text()
    section = page[page.index("## Histories") : page.index("## Errors")]
    sent, looked_up = map(json.loads, re.findall(r"^```json\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    config = load_config(PrepConfig, repository / "docs" / "examples" / "feed_histories.toml")
    clicked = config.histories[0]
    assert [set(event) for event in sent["user"][clicked.name]] == [{*clicked.items, "age"}] * 2
    assert config.time is not None
    assert {clicked.key, config.time.value} <= looked_up["user"].keys()


@pytest.mark.parametrize("value", [None, []])
def test_an_empty_history_is_that_of_a_user_without_events(ranker: Ranker, value: object) -> None:
    request = ranker.read_rank({"user": {"liked": value}, "items": [ITEM, ITEM]})
    assert ids(request) == [{"video_id": [], "price_bin": [], "hour": [], "age": []}]
    assert "liked" not in request.missing


def test_the_last_events_of_a_longer_list_are_used(ranker: Ranker) -> None:
    events = [NEW | {"video_id": f"v{i}", "age": 100_000 - i} for i in range(9)]
    rows = [{"liked": events}, {"liked": events[-4:]}, {"liked": events[:2]}]
    longer, last, short = ids(ranker.read_score({"rows": rows}))
    assert longer == last
    assert len(longer["age"]) == 4
    assert len(short["age"]) == 2
    columns = {"liked": [row["liked"] for row in rows]}
    assert ids(ranker.read_score({"rows": columns})) == [longer, last, short]


def test_unknown_and_missing_items_have_the_rows_of_the_feature(ranker: Ranker) -> None:
    events = [{"video_id": "never seen", "age": 7}, {"video_id": None, "hour": "4", "age": 0.5}]
    ((user),) = ids(ranker.read_rank({"user": {"liked": events}, "items": [ITEM]}))
    unknown = ranker.read_score({"rows": [{"video_id": "never seen"}]}).ids["video_id"].values_V[0]
    assert unknown > 0  # Unknown videos share rows by their hash.
    assert user["video_id"] == [unknown, 0]
    assert user["price_bin"] == [0, 0]
    assert user["hour"][0] == 0 < user["hour"][1]


@pytest.mark.parametrize(
    ("liked", "field", "rule"),
    [
        ("v1", "user.liked", 'got "v1"; a list of events, objects with video_id, price_bin, hour, age'),
        ({"video_id": ["v1"]}, "user.liked", "a list of events, objects with video_id"),
        ([OLD, "v1"], "user.liked[1]", "an object with video_id, price_bin, hour, age"),
        ([OLD | {"video": "v1"}], "user.liked[0].video", "no such key; keys: video_id, price_bin, hour, age"),
        ([OLD, NEW | {"video_id": 2}], "user.liked[1].video_id", "got 2; a text, or null where it is missing"),
        ([OLD, {"video_id": "v1"}], "user.liked[1].age", "got null; a number of seconds from the event to the request"),
        ([OLD, NEW | {"age": -1}], "user.liked[1].age", "got -1; a number of seconds from the event to the request, 0"),
        (
            [OLD, NEW | {"age": "5"}],
            "user.liked[1].age",
            'got "5"; a number of seconds from the event to the request, 0',
        ),
        ([OLD | {"age": "1h"}], "user.liked[0].age", 'got "1h"; a number'),
        ([OLD | {"age": True}], "user.liked[0].age", "got true; a number"),
        ([OLD | {"age": float("nan")}], "user.liked[0].age", "got NaN; a number of seconds"),
        ([NEW, OLD], "user.liked[1].age", "got 90000; at most 60, the age of the event before it, since the oldest "),
        ([NEW] * (MAX_BAG + 1), "user.liked", "got 1,001 events; at most 1,000 events"),
    ],
)
@pytest.mark.parametrize("form", ["features", "raw"])
def test_errors_name_the_event(ranker: Ranker, form: str, liked: object, field: str, rule: str) -> None:
    with pytest.raises(RequestError, match=re.escape(rule)) as error:
        ranker.read_rank({"form": form, "user": {"liked": liked} | TIMES[form], "items": [{"video_id": "v1"}]})
    assert error.value.field == field


def test_a_history_of_the_user_does_not_belong_to_an_item(ranker: Ranker) -> None:
    with pytest.raises(RequestError, match="it is a feature of the user, and belongs in `user`"):
        ranker.read_rank({"items": [ITEM | {"liked": []}]})


def test_a_request_has_a_largest_number_of_events(ranker: Ranker) -> None:
    rows = [{"liked": [NEW] * MAX_BAG}] * (MAX_VALUES // MAX_BAG)
    assert ranker.read_score({"rows": rows}).rows == 20
    with pytest.raises(RequestError, match=r"got 20,001 values up to here; .* an event of a history is one value"):
        ranker.read_score({"rows": [*rows, {"liked": [NEW]}]})


EVENTS = s.none() | s.lists(
    s.dictionaries(s.sampled_from(["video_id", "price_bin", "hour", "age", "video"]), VALUES, max_size=4) | VALUES,
    max_size=2,
)


@given(liked=EVENTS)
@example(liked=[{"age": 10**400}])
@example(liked=[{"age": 0, "hour": True}])
@example(liked=[{"age": 0}] * (MAX_BAG + 1))
@settings(deadline=None, derandomize=True, max_examples=150, suppress_health_check=list(HealthCheck))
def test_the_parser_takes_what_its_schema_says(ranker: Ranker, liked: Any) -> None:
    message = ""
    try:
        ranker.read_score({"rows": [{"liked": liked}]})
    except RequestError as error:
        message = str(error)
    if "the oldest comes first" not in message:  # JSON schemas cannot say this.
        schema = ranker.schemas()["ScoreRequest"]
        assert jsonschema_rs.is_valid(schema, {"rows": [{"liked": liked}]}) is (message == ""), message


def test_schemas_describe_events(ranker: Ranker, server: Ranker) -> None:
    for name in ("RankRequest", "RawRankRequest"):
        schema = server.schemas()[name]["properties"]["user"]["properties"]["liked"]
        assert schema["type"] == ["array", "null"]
        assert schema["items"]["required"] == ["age"]
        assert list(schema["items"]["properties"]) == ["video_id", "price_bin", "hour", "age"]
    inputs = ranker.signature.describe_inputs(ranker.table_rows)
    (liked,) = (each for each in inputs["user"] if each["name"] == "liked")
    assert liked["events"]["length"] == 4
    assert server.raw_form is not None
    raw = server.raw_form.describe(server.raw_columns)["user"]
    assert {"name": "liked", "type": "events", "features": ["liked"], "required": False} in raw


def _expected(feed: Path, row: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The history of a row as a client would send it, from the raw events of the dataset."""
    length, delay = SIZES[name]
    key = row["user_id"] if name == "liked" else city_of(row["user_id"]) if row["user_id"] < FIRST_USER + 10 else None
    events = pq.read_table(feed / "data" / "histories" / f"{name}.parquet").to_pylist()
    earlier = [each for each in events if each["key"] == key and each["time"] < row["time_ms"] - delay]
    return [
        {column.removeprefix("item_"): each[column] for column in each if column.startswith("item_")}
        | {"age": row["time_ms"] // 1000 - each["time"] // 1000}
        for each in earlier[-length:]
    ]


def test_a_server_looks_up_the_events_of_a_key(history_feed: Path, server: Ranker) -> None:
    day = day_of(LAST_DAY + 1).drop_columns([*LABELS, "spam"]).to_pylist()
    day[7]["user_id"] = FIRST_USER + 99  # Not a user of the log, so without events and without a city.
    expected = [{name: _expected(history_feed, row, name) for name in SIZES} for row in day]
    assert {len(each["liked"]) for each in expected} >= {0, 4}
    assert {len(each["seen_in_city"]) for each in expected} == {0, 3}
    looked_up = server.read_score({"form": "raw", "rows": day})
    sent = server.read_score({"form": "raw", "rows": [row | own for row, own in zip(day, expected, strict=True)]})
    assert looked_up.events_as_of == "2022-04-20"
    assert sent.events_as_of is None
    for name in SIZES:
        assert ids(looked_up, name) == ids(sent, name)
    # Rows without a history of their own are looked up, the others are not.
    mixed = [row | (own if i % 2 else {}) for i, (row, own) in enumerate(zip(day, expected, strict=True))]
    other = [row | ({"liked": [NEW]} if i == 4 else {}) for i, row in enumerate(mixed)]
    for name in SIZES:
        assert ids(server.read_score({"form": "raw", "rows": mixed}), name) == ids(sent, name)
    found = ids(server.read_score({"form": "raw", "rows": other}))
    assert [i for i, (one, two) in enumerate(zip(found, ids(sent), strict=True)) if one != two] == [4]
    assert looked_up.unknown["liked"] == pytest.approx(np.mean([not each["liked"] for each in expected]))
    assert looked_up.unknown["liked"] > 0


def test_a_ranking_looks_the_history_of_its_user_up_once(history_feed: Path, server: Ranker) -> None:
    row = day_of(LAST_DAY + 1).to_pylist()[0]
    events = _expected(history_feed, row, "liked")
    assert len(events) == 4
    user = {"user_id": row["user_id"], "time_ms": row["time_ms"]}
    items = [{"video_id": f"v{i}"} for i in range(5)]
    request = server.read_rank({"form": "raw", "user": user, "items": items})
    sent = {"form": "raw", "user": user | {"liked": events}, "items": items}
    assert ids(request) == ids(server.read_rank(sent))
    assert len(ids(request)) == 1
    answer = server.answer([request])[0]
    assert answer["events_as_of"] == "2022-04-20"
    assert [each["predictions"] for each in answer["items"]] == [
        each["predictions"] for each in server.answer([server.read_rank(sent)])[0]["items"]
    ]


def test_a_look_up_needs_a_time_and_a_key(server: Ranker) -> None:
    body = {"form": "raw", "user": {"user_id": USER}, "items": [{"video_id": "v1"}]}
    with pytest.raises(RequestError, match="every row needs a value; as ms it must lie between") as error:
        server.read_rank(body)
    assert error.value.field == "user.time_ms"
    sent = body | {"user": {"user_id": USER, "time_ms": 1_650_420_000_000, "liked": [], "seen_in_city": None}}
    assert server.read_rank(sent).events_as_of is None
    no_key = body | {"user": {"user_id": None, "time_ms": 1_650_420_000_000}}
    request = server.read_rank(no_key)
    assert ids(request)[0]["age"] == []
    assert "liked" not in request.unknown


def test_without_tables_the_history_is_missing(ranker: Ranker) -> None:
    user = {"time_ms": 1_650_420_000_000}
    request = ranker.read_rank({"form": "raw", "user": user, "items": [{"video_id": "v1"}]})
    assert {"liked", "seen_in_city"} <= set(request.missing)
    assert ids(request)[0]["age"] == []


def test_a_table_has_the_events_that_later_rows_can_see(history_model: Path) -> None:
    tables = {each["name"]: each for each in ple_rec.load_model(history_model).side_tables.to_pylist()}
    assert tables["liked"]["as_of"] == tables["seen_in_city"]["as_of"] == "2022-04-20"
    for name, (length, delay) in SIZES.items():
        table = pq.read_table(history_model / "tables" / name / "v1" / "table.parquet")
        early = 1_650_384_000_000 - delay  # 2022-04-20 at +08:00.
        for times in table["time"].to_pylist():
            assert times == sorted(times)
            assert sum(time < early for time in times) <= length


TIMES_OF_A_KEY = [3_000, 8_999, 9_498, 9_499, 9_500, 9_501]


@pytest.mark.parametrize(
    ("unit", "delay", "seen", "ages"),
    [
        ({"units_per_second": 1000}, 0, ["v1", "v2", "v3"], [1, 0, 0]),
        ({"units_per_second": 1000}, 500, ["v0", "v1"], [6, 1]),
        ({}, 0, ["v1", "v2", "v3"], [501, 2, 1]),
        ({"seconds_per_unit": 86_400}, 1, ["v0", "v1", "v2"], [6_500 * 86_400, 501 * 86_400, 2 * 86_400]),
    ],
)
def test_times_are_compared_in_the_unit_of_the_log(
    ranker: Ranker, tmp_path: Path, unit: dict[str, int], delay: int, seen: list[str], ages: list[int]
) -> None:
    videos = [f"v{i}" for i in range(len(TIMES_OF_A_KEY))]
    pq.write_table(pa.table({"key": ["a"], "time": [TIMES_OF_A_KEY], "video_id": [videos]}), tmp_path / TABLE_FILE)
    kinds = {"key": "string", "time": "list<int64>", "video_id": "list<string>"}
    info = SideTableInfo(name="seen_in_city", key_columns=("key",), columns=kinds, rows=1, bytes=0)
    (tmp_path / INFO_FILE).write_text(info.model_dump_json())
    (feature,) = (each for each in ranker.signature.inputs if each.name == "seen_in_city")
    raw = RawHistory(name="seen_in_city", of="user", query=RawQuery(sql="", columns=()), delay=delay, **unit)
    lookup = HistoryLookup(feature, raw, ranker.arrays.encoder, SideTable(tmp_path))
    found, unknown = lookup.find(pa.table({"key": ["a", "b", None], "time": [9_500] * 3}))
    assert unknown.tolist() == [False, True, False]
    assert found.offsets_N.tolist() == [0, len(seen), len(seen), len(seen)]
    assert feature.events is not None
    buckets = [1 + sum(edge <= age for edge in feature.events.age_edges) for age in ages]
    assert found.columns["seen_in_city_age"].values_V.tolist() == buckets
    expected = ranker.read_score({"rows": {"video_id": seen}}).ids["video_id"].values_V
    np.testing.assert_array_equal(found.columns["seen_in_city.video_id"].values_V, expected)
