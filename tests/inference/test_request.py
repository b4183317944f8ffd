"""What a request may hold, and the field that an error names."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as s

from ple_rec.inference.feature_parsing import MAX_BAG
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.request_error import RequestError
from ple_rec.inference.request_rows import MAX_ITEMS
from ple_rec.inference.value_types import integer_array
from tests.inference.feed import FIRST_USER

USER = {"user_id": FIRST_USER + 3, "city": "city 1"}
ITEM = {"video_id": "v1", "hour": 3, "price_bin": 0.2, "price": 0.2, "minutes": 2.0, "history": ["v1", "v2"]}


def body(**changes: Any) -> dict[str, Any]:
    return {"user": USER, "items": [ITEM, ITEM | changes]}


@pytest.mark.parametrize(
    ("document", "field", "rule"),
    [
        (None, "body", "an object with user, items"),
        ([], "body", "an object"),
        ({"user": USER}, "items", "the key is missing; a list of 1 to 2,000"),
        ({"items": []}, "items", "got 0 objects; a list of 1 to 2,000"),
        ({"items": 3}, "items", "a list of 1 to 2,000"),
        ({"items": {}}, "items", "got {}; a list of 1 to 2,000 objects, feature: value; or one object, "),
        ({"items": {"hour": 3}}, "items.hour", "got 3; a list with the hour of all items"),
        ({"items": {"hour": None}}, "items.hour", "got null; a list with the hour of all items"),
        ({"items": {"hour": []}}, "items.hour", "got a list of 0; 1 to 2,000 values"),
        ({"items": {"hour": [1] * (MAX_ITEMS + 1)}}, "items.hour", "got a list of 2,001; 1 to 2,000 values"),
        ({"items": {"hour": [1, 2], "price": [1]}}, "items.price", "got a list of 1; as many values as items.hour: 2"),
        ({"items": {"hour": [1, 2], "price": []}}, "items.price", "got a list of 0; as many values as items.hour: 2"),
        ({"items": {"hours": [1]}}, "items.hours", 'got [1]; no feature of the model; did you mean "hour"?'),
        ({"items": {"city": ["a"]}}, "items.city", "it is a feature of the user, and belongs in `user`"),
        ({"items": {"hour": [3, "three"]}}, "items.hour[1]", 'got "three"; an integer'),
        ({"items": {"history": [[], ["v1", 2]]}}, "items.history[1][1]", "got 2; a text"),
        ({"items": {"tags": [{"values": ["t1"], "weights": []}]}}, "items.tags[0]", "as many weights as values"),
        ({"items": [{}] * (MAX_ITEMS + 1)}, "items", "got 2,001 objects"),
        ({"items": [ITEM, 3]}, "items[1]", "an object, feature: value"),
        ({"items": [{"hour": 3}, {"hours": 3}]}, "items[1].hours", 'no feature of the model; did you mean "hour"?'),
        ({"items": [{}, {"hour": 3}, {"hour": "x"}]}, "items[2].hour", 'got "x"; an integer'),
        ({"items": [{}, {"hour": "x"}], "user": {"hour": 3}}, "items[1].hour", 'got "x"; an integer'),
        ({"items": [{}, {"hour": 3}], "user": {"hour": "x"}}, "user.hour", 'got "x"; an integer'),
        ({"items": [{"hour": 3}], "user": {"hour": "x"}}, "user.hour", 'got "x"; an integer'),
        ({"items": [ITEM], "user": []}, "user", "an object"),
        ({"items": [ITEM], "usr": {}}, "usr", "keys: user, items, exponents, top, explain, form"),
        ({"items": [ITEM], "user": {"userid": 1}}, "user.userid", 'no feature of the model; did you mean "user_id"?'),
        ({"items": [ITEM], "user": {"x" * 5000: 1}}, f"user.{'x' * 77}...", "no feature of the model; features: "),
        (body(user_id=4), "items[1].user_id", "it is a feature of the user, and belongs in `user`"),
        (body(z=4), "items[1].z", "no feature of the model; features: history, hour, minutes"),
        (body(video_id=4), "items[1].video_id", "got 4; a text, or null"),
        (body(video_id=["v1"]), "items[1].video_id", "a text"),
        (body(hour="three"), "items[1].hour", 'got "three"; an integer (5, "5", or true for 1), or null'),
        (body(hour="3.0"), "items[1].hour", "an integer"),
        (body(hour="03"), "items[1].hour", "an integer"),
        (body(hour="3\n"), "items[1].hour", "an integer"),
        (body(hour="\u0663"), "items[1].hour", "an integer"),
        (body(hour="9" * 5000), "items[1].hour", "an integer"),
        (body(hour=2.5), "items[1].hour", "got 2.5; an integer"),
        (body(price="cheap"), "items[1].price", 'got "cheap"; a number, or null'),
        (body(price_bin=True), "items[1].price_bin", "a number"),
        (body(video_id=True), "items[1].video_id", "a text"),
        (body(price=1e39), "items[1].price", "a number that fp32 can hold"),
        (body(price=10**400), "items[1].price", "a number that fp32 can hold"),
        (body(price=math.inf), "items[1].price", "a number that fp32 can hold"),
        (body(price_bin=[]), "items[1].price_bin", "a number"),
        (body(history="v1"), "items[1].history", "a list, with each value a text"),
        (body(history=["v1", 2]), "items[1].history[1]", "got 2; a text"),
        (body(history=["v1"] * (MAX_BAG + 1)), "items[1].history", "at most 1,000 values"),
        (body(tags=["t1"]), "items[1].tags", "an object with values, weights"),
        (body(tags={"values": ["t1"], "weights": []}), "items[1].tags", "as many weights as values"),
        (body(tags={"values": ["t1"], "weights": ["a"]}), "items[1].tags.weights[0]", "a finite number"),
        (body(tags={"values": [1], "weights": [1]}), "items[1].tags.values[0]", "a text"),
        (body() | {"top": 0}, "top", "1 or more"),
        (body() | {"top": True}, "top", "1 or more"),
        (body() | {"explain": 1}, "explain", "true or false"),
        (body() | {"exponents": {"lik": 1}}, "exponents.lik", 'did you mean "like"? factors: like, watch'),
        (body() | {"exponents": {"like": "1"}}, "exponents.like", "a number from -1000 to 1000"),
        (body() | {"exponents": {"like": math.nan}}, "exponents.like", "a number from -1000 to 1000"),
        (body() | {"exponents": []}, "exponents", "an object"),
    ],
)
def test_errors_name_the_field(ranker: Ranker, document: object, field: str, rule: str) -> None:
    with pytest.raises(RequestError, match=re.escape(rule)) as error:
        ranker.read_rank(document)
    assert error.value.field == field
    assert len(str(error.value)) < 400


def test_columns_are_rows(ranker: Ranker) -> None:
    rows = [ITEM, ITEM | {"hour": None, "price": 7.5, "history": []}, ITEM | {"hour": "4", "tags": None}]
    columns = {name: [row.get(name) for row in rows] for name in [*ITEM, "tags"]}
    user = USER | {"minutes": 9.0}
    for more in ({}, {"top": 2, "explain": True}):
        # Each alone: equal rows at other places of one product need not have equal bits.
        by_row, by_column = (
            ranker.answer([ranker.read_rank({"user": user, "items": items} | more)])[0] for items in (rows, columns)
        )
        items, told = by_row.pop("items"), by_column.pop("items")
        assert by_row == by_column
        keys = ["index", "score", *(("predictions", "factors") if more else ("predictions",))]
        assert list(told) == keys
        for i, item in enumerate(items):
            assert (item["index"], item["score"]) == (told["index"][i], told["score"][i])
            for key in keys[2:]:
                assert item[key] == {name: values[i] for name, values in told[key].items()}
    whole = {name: [*values, None] for name, values in columns.items()} | {"city": ["city 1", None, "x", "city 2"]}
    by_row, by_column = (
        ranker.answer([ranker.read_score({"rows": rows})])[0]
        for rows in ([dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)], whole)
    )
    assert [row["score"] for row in by_row["rows"]] == by_column["rows"]["score"]
    assert by_row["missing"] == by_column["missing"] == ["user_id"]


@pytest.mark.parametrize("user", [{}, {"hour": 5, "price": 1.5}])
def test_rows_of_other_names_are_rows_with_what_they_lack(ranker: Ranker, user: dict[str, Any]) -> None:
    """As many names in each row, but others; and what a row does not have is the user's, where that has it."""
    uneven = ranker.read_rank({"user": user, "items": [{"hour": 3}, {"price": 2.0}, {"hour": None}]})
    lacking = {"hour": None, "price": None} | user
    whole = ranker.read_rank({"items": [lacking | {"hour": 3}, lacking | {"price": 2.0}, lacking | {"hour": None}]})
    assert uneven.ids["hour"].values_V.tolist() == whole.ids["hour"].values_V.tolist()
    np.testing.assert_array_equal(uneven.dense["price"], whole.dense["price"])
    assert uneven.missing == whole.missing


def test_what_columns_leave_out_is_the_users(ranker: Ranker) -> None:
    by_column = ranker.read_rank({"user": USER | {"hour": 5}, "items": {"price": [1.0, 2.0]}})
    by_row = ranker.read_rank({"user": USER, "items": [{"hour": 5, "price": price} for price in (1.0, 2.0)]})
    assert by_column.ids["hour"].values_V.tolist() == by_row.ids["hour"].values_V.tolist()
    assert by_column.missing == by_row.missing
    assert "hour" not in by_column.missing


def test_rows_of_scores_hold_every_feature(ranker: Ranker) -> None:
    request = ranker.read_score({"rows": [USER | ITEM, {}]})
    assert request.rows == 2
    with pytest.raises(RequestError, match=r"rows\[1\].usr: got 3; no feature of the model; ") as error:
        ranker.read_score({"rows": [{}, {"usr": 3}]})
    assert error.value.field == "rows[1].usr"


@pytest.mark.parametrize("value", [FIRST_USER, str(FIRST_USER), float(FIRST_USER), True, 1, -5, 2**70, "9" * 39])
def test_a_remembered_value_of_a_user_is_the_one_that_was_read(ranker: Ranker, value: object) -> None:
    by_user = [ranker.read_rank({"user": {"user_id": value}, "items": [ITEM]}).ids["user_id"] for _ in range(2)]
    by_row = ranker.read_score({"rows": [{"user_id": value}]}).ids["user_id"]
    assert by_user[0].values_V.tolist() == by_user[1].values_V.tolist() == by_row.values_V.tolist()
    assert by_user[0] is by_user[1] or isinstance(value, float)
    for _ in range(2):  # nor does an error turn into a value
        with pytest.raises(RequestError, match=r"user.city: got .*; a text, or null"):
            ranker.read_rank({"user": {"city": value if not isinstance(value, str) else 1}, "items": [ITEM]})


def test_a_value_is_not_remembered_for_an_equal_one_of_another_type(ranker: Ranker) -> None:
    ranker.read_rank({"user": {"price_bin": 1}, "items": [ITEM]})
    with pytest.raises(RequestError, match=r"user.price_bin: got true; a number"):
        ranker.read_rank({"user": {"price_bin": True}, "items": [ITEM]})


def test_missing_null_and_unknown_are_values(ranker: Ranker) -> None:
    request = ranker.read_rank(
        {
            "user": {"user_id": 2**70, "city": None},
            "items": [{}, {"hour": -(2**63), "video_id": None, "history": [None], "price": None}],
        }
    )
    assert request.ids["user_id"].values_V.tolist() == [0]
    assert request.ids["city"].values_V.tolist() == [0]
    assert request.ids["hour"].values_V.tolist() == [0, 0]
    assert request.ids["video_id"].values_V.tolist() == [0, 0]
    assert request.ids["history"].values_V.tolist() == [0]
    offsets = request.ids["history"].offsets_N
    assert offsets is not None
    assert offsets.tolist() == [0, 0, 1]
    assert np.isnan(request.dense["price"]).all()


def test_an_integer_may_stand_as_text(ranker: Ranker) -> None:
    values = [FIRST_USER, FIRST_USER + 1, -5, 2**70, None]
    numbers, texts = (
        ranker.read_score({"rows": [{"user_id": each} for each in given]}).ids["user_id"].values_V.tolist()
        for given in (values, [value if value is None else str(value) for value in values])
    )
    assert texts == numbers
    assert len(set(numbers)) == 3
    assert numbers[2:] == [0, 0, 0]


_WHOLE = s.integers(-(2**70), 2**70)


@given(s.lists(_WHOLE | s.booleans() | s.none() | _WHOLE.map(float) | _WHOLE.map(str), max_size=5))
@settings(deadline=None)
def test_a_column_of_integers_is_what_its_values_stand_for(values: list[Any]) -> None:
    whole = [None if value is None else int(value) for value in values]
    known = [value if value is not None and -(2**63) <= value < 2**63 else None for value in whole]
    assert integer_array(values, str).to_pylist() == known


def test_truth_values_of_dense_features_are_numbers(ranker: Ranker) -> None:
    rows = ranker.read_rank({"items": [{"price": price} for price in (True, False, None, 3)]})
    np.testing.assert_array_equal(rows.dense["price"], np.array([1, 0, np.nan, 3], np.float32))


def test_truth_values_are_integers_as_in_logs(ranker: Ranker) -> None:
    given_hours = [[True, False, None, 3], [1, 0, None, 3]]
    truth, numbers = (ranker.read_rank({"items": [{"hour": hour} for hour in hours]}) for hours in given_hours)
    assert truth.ids["hour"].values_V.tolist() == numbers.ids["hour"].values_V.tolist()
    assert len(set(truth.ids["hour"].values_V.tolist())) == 4


def test_no_user_is_a_user_of_whom_nothing_is_known(ranker: Ranker) -> None:
    users: list[dict[str, Any]] = [{"user": None}, {"user": {}}, {}]
    null, empty, absent = (ranker.read_rank({"items": [ITEM]} | user) for user in users)
    for name in ("user_id", "city"):
        assert null.ids[name].values_V.tolist() == empty.ids[name].values_V.tolist() == [0]
        assert absent.ids[name].values_V.tolist() == [0]


@pytest.mark.parametrize("value", [2**53 + 1, 2**60, 2**64 - 1, 10**400], ids=["53", "60", "64", "1329 bits"])
def test_integers_beyond_those_of_a_double_are_numbers(ranker: Ranker, value: int) -> None:
    prices = [value, -value, 1e30, -1e30]
    request = ranker.read_rank({"items": [{"price_bin": price} for price in prices]})
    largest, smallest, *others = request.ids["price_bin"].values_V.tolist()
    assert [largest, smallest] == others
    assert largest > smallest > 0


def test_weights_that_are_integers_are_numbers(ranker: Ranker) -> None:
    tags = [{"values": ["t1", "t2"], "weights": weights} for weights in ([2**24 + 1, -1], [float(2**24), -1.0])]
    found, wanted = (ranker.read_rank({"items": [{"tags": each}]}).ids["tags"].weights_V for each in tags)
    assert found is not None
    assert wanted is not None
    assert found.tolist() == wanted.tolist()


def test_items_share_what_the_user_object_says_of_them(ranker: Ranker) -> None:
    given_once = ranker.read_rank({"user": USER | {"hour": 5}, "items": [{}, {"hour": 7}, {"hour": None}]})
    each = ranker.read_rank({"user": USER, "items": [{"hour": 5}, {"hour": 7}, {"hour": None}]})
    assert given_once.ids["hour"].values_V.tolist() == each.ids["hour"].values_V.tolist()


def test_what_nobody_gave_is_missing(ranker: Ranker) -> None:
    items = [each.name for each in ranker.signature.inputs_of("item")]
    whole: dict[str, Any] = dict.fromkeys(items)  # null is given
    user: dict[str, Any] = dict.fromkeys(each.name for each in ranker.signature.inputs_of("user"))
    assert ranker.read_rank({"user": user, "items": [whole, whole]}).missing == ()
    assert ranker.read_score({"rows": [user | whole, user | whole]}).missing == ()
    without = {name: None for name in items if name not in ("price", "hour")}
    assert ranker.read_rank({"user": user, "items": [without, whole]}).missing == ()
    request = ranker.read_rank({"user": {"hour": 3}, "items": [without, without]})
    assert request.missing == (*user, "price")
    scored = ranker.read_score({"rows": [user | without, user | without]})
    assert set(scored.missing) == {"price", "hour"}
    answers = ranker.answer([request, scored, ranker.read_rank({"user": user, "items": [whole]})])
    assert [answer.get("missing") for answer in answers] == [list(request.missing), list(scored.missing), None]


JSON = s.recursive(
    s.none() | s.booleans() | s.integers() | s.floats() | s.text(max_size=5),
    lambda inner: s.lists(inner, max_size=3) | s.dictionaries(s.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ["user", "items", "exponents", "top", "explain"]


@settings(deadline=None, derandomize=True, max_examples=150)
@given(s.data())
def test_nothing_else_is_raised(ranker: Ranker, data: s.DataObject) -> None:
    features = [each.name for each in ranker.signature.inputs]
    row = s.dictionaries(s.sampled_from(features), JSON, max_size=4)
    columns = s.dictionaries(s.sampled_from(features), s.lists(JSON, max_size=2) | JSON, max_size=4)
    document = data.draw(
        JSON
        | s.fixed_dictionaries(
            {"items": s.lists(row, max_size=3) | columns}, optional=dict.fromkeys(NAMES[2:], JSON) | {"user": row}
        )
    )
    try:
        request = ranker.read_rank(document)
    except RequestError:
        return
    (answer,) = ranker.answer([request])
    items = answer["items"]
    scores = items["score"] if request.form == "columns" else [item["score"] for item in items]
    assert len(scores) == min(request.rows, request.top or request.rows)
    assert all(map(math.isfinite, scores))
