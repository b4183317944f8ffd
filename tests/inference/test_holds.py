"""No request holds the reader: what is done for one is counted, whatever its bytes; nothing here is timed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ple_rec.data import hash_index
from ple_rec.data.encode import Encoder
from ple_rec.inference.feature_parsing import MAX_BAG, MAX_VALUES
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.request_error import RequestError, json_excerpt
from ple_rec.inference.request_rows import MAX_ITEMS
from ple_rec.serving.http.batching import MAX_SEPARATORS, parse
from ple_rec.serving.http.errors import RefusedError

LARGE = 1 << 20
NONE_GIVEN: list[dict[str, Any]] = [{}] * MAX_ITEMS


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of texts that were looked at eight by eight, a number for each look-up."""
    found: list[int] = []
    text_keys = hash_index.text_keys

    def counted(offsets: hash_index.Keys, text: hash_index.Bytes) -> hash_index.Keys:
        found.append(len(text))
        return text_keys(offsets, text)

    monkeypatch.setattr(hash_index, "text_keys", counted)
    return found


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Feature and number of values of everything that was encoded."""
    found: list[tuple[str, int]] = []
    rows = Encoder.rows

    def counted(self: Encoder, name: str, values: pa.Array, place: str) -> pa.Array:
        found.append((name, len(values.flatten()) if pa.types.is_large_list(values.type) else len(values)))
        return rows(self, name, values, place)

    monkeypatch.setattr(Encoder, "rows", counted)
    return found


def test_a_text_longer_than_any_of_the_vocabulary_is_not_looked_at(ranker: Ranker, keyed: list[int]) -> None:
    text = "v1" + "x" * LARGE
    known, long, other = (
        ranker.read_rank({"user": {"city": each}, "items": [{"video_id": each, "history": ["v1", each]}]})
        for each in ("v1", text, "y" * LARGE)
    )
    assert sum(keyed) < 100
    assert long.ids["city"].values_V.tolist() == [0]
    assert long.ids["history"].values_V.tolist()[0] == known.ids["video_id"].values_V.tolist()[0]
    shared = {int(each.ids["video_id"].values_V[0]) for each in (long, other)}
    assert min(shared) > known.ids["video_id"].values_V[0]  # the row that its own hash says, of those for unknown ids


def test_what_the_user_has_for_all_items_is_encoded_once(
    ranker: Ranker, encoded: list[tuple[str, int]], keyed: list[int]
) -> None:
    user = {"video_id": "x" * LARGE, "history": ["v1", "v2"], "tags": {"values": ["t1"], "weights": [2]}, "price": 7}
    ranker.read_rank({"user": user, "items": NONE_GIVEN})
    assert {name for name, _ in encoded} >= {"video_id", "history", "tags"}
    of_user = {name: sum(count for one, count in encoded if one == name) for name in user}
    assert of_user == {"video_id": 1, "history": 2, "tags": 1, "price": 0}
    assert sum(keyed) < 100


def test_items_with_and_without_a_value_of_their_own_are_as_if_each_had_one(ranker: Ranker) -> None:
    tags = {"values": ["t1", "t2"], "weights": [2, -1]}
    shared: dict[str, Any] = {"history": ["v1", "v2", "v3"], "tags": tags, "price": 7.5, "hour": 5}
    own: list[dict[str, Any]] = [
        {},
        {"history": ["v4"], "hour": 7},
        {"tags": None, "price": None},
        {"history": [], "hour": None},
        {},
    ]
    short = ranker.read_rank({"user": shared, "items": own})
    whole = ranker.read_rank({"items": [shared | each for each in own]})
    for name, ids in whole.ids.items():
        found = short.ids[name]
        for part, other in ((ids.values_V, found.values_V), (ids.offsets_N, found.offsets_N)):
            np.testing.assert_array_equal(part, other)
        np.testing.assert_array_equal(ids.weights_V, found.weights_V)
    np.testing.assert_array_equal(whole.dense["price"], short.dense["price"])


@pytest.mark.parametrize(
    "document",
    [
        {"items": {"history": [["v1"] * MAX_BAG] * 21}},
        {"items": [{"history": ["v1"] * MAX_BAG}] * MAX_ITEMS},
        {"items": {"tags": [{"values": ["t1"] * MAX_BAG, "weights": [1] * MAX_BAG}] * 21}},
        {"items": NONE_GIVEN, "user": {"history": ["v1"] * 11}},
        {"items": [{"history": ["v1"]}, *NONE_GIVEN[1:]], "user": {"history": ["v1"] * 11}},
    ],
)
def test_the_bags_of_a_request_are_bounded_together(
    ranker: Ranker, encoded: list[tuple[str, int]], document: dict[str, Any]
) -> None:
    with pytest.raises(RequestError, match=rf"values up to here; the bags of a request have at most {MAX_VALUES:,}"):
        ranker.read_rank(document)
    assert sum(count for _, count in encoded if count > MAX_ITEMS) == 0


def test_bags_of_several_features_are_bounded_together(ranker: Ranker) -> None:
    bags = {"history": [["v1"] * 9] * MAX_ITEMS, "tags": [{"values": ["t1"] * 2, "weights": [1] * 2}] * MAX_ITEMS}
    with pytest.raises(RequestError, match="22,000 values up to here") as error:
        ranker.read_rank({"items": bags})
    assert error.value.field in ("items.history", "items.tags")
    assert ranker.read_rank({"items": bags | {"history": [["v1"] * 8] * MAX_ITEMS}}).rows == MAX_ITEMS


class _Watched(list[Any]):
    """A list that counts the values that are taken from it."""

    taken = 0

    def __iter__(self) -> Iterator[Any]:
        for value in super().__iter__():
            self.taken += 1
            yield value


def test_an_error_shows_the_beginning_of_a_value_and_reads_no_more(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = _Watched([None] * LARGE)
    with pytest.raises(RequestError, match=r"user: got \[null, null, .*\.\.\.; an object"):
        ranker.read_rank({"items": [{}], "user": many})
    assert many.taken < 40
    written: list[str] = []
    write = json.dumps

    def dumps(value: object, **settings: Any) -> str:
        written.append(write(value, **settings))
        return written[-1]

    monkeypatch.setattr("json.dumps", dumps)
    for value in ("x" * LARGE, ["x" * LARGE], {"x" * LARGE: 1}, {"a": {"b": ["x" * LARGE]}}):
        assert len(json_excerpt(value)) == 80
    assert sum(map(len, written)) < 400


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("three", '"three"'),
        ('"', '"\\""'),
        ("\xe9", '"\xe9"'),
        ({"uid": "x", "n": [1, 2.5, None]}, '{"uid": "x", "n": [1, 2.5, null]}'),
        ([], "[]"),
        ({}, "{}"),
    ],
)
def test_values_are_shown_as_json_has_them(value: object, text: str) -> None:
    assert json_excerpt(value) == text
    assert json.loads(text) == value


def nested(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_a_deep_value_is_no_bug(ranker: Ranker) -> None:
    with pytest.raises(RequestError, match=r"^user: got \[{77}\.\.\.; an object$"):
        ranker.read_rank({"items": [{}], "user": nested(900)})


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"1,", b'{"a":1},', b"[" * 500 + b"]" * 500 + b","])
def test_a_body_of_too_many_values_is_not_parsed(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    at_most = 50_000
    assert parse(b'{"user":[' + piece * (at_most // len(piece)) + b"1]}")
    monkeypatch.setattr("orjson.loads", lambda _: pytest.fail("it was parsed"))
    with pytest.raises(RefusedError) as error:
        parse(b'{"user":[' + piece * MAX_SEPARATORS + b"1]}")
    assert error.value.status == 413
    assert "commas and opening brackets" in str(error.value.value)


def test_the_largest_request_of_64_features_is_taken() -> None:
    row = {f"feature_{i}": "text" for i in range(64)}
    for items in ([row] * MAX_ITEMS, {name: ["text"] * MAX_ITEMS for name in row}):
        assert parse(json.dumps({"items": items}).encode())


@pytest.mark.parametrize("number", [b"1" * 400, b"-1e999", b"7" * 100_000 + b".5"])
def test_a_number_that_no_double_holds_is_quoted(number: bytes) -> None:
    with pytest.raises(RefusedError, match=r"a number is at most 1\.8e308 \(line 1, column") as error:
        parse(b'{"name": "\xc3\xa9", "items": [{"hour": ' + number + b"}]}")
    assert error.value.status == 400
    text = str(error.value.value)
    assert number.decode().startswith(text.removesuffix("..."))
    assert len(text) <= 80
