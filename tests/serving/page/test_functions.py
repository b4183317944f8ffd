"""Functions of the page by themselves, in the browser: scores and orders as numpy has them, texts that can be used."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ple_rec.config.fusion import FusionConfig
from ple_rec.ranking.lists import CandidateLists
from ple_rec.ranking.metrics import MetricName, build_metric

Script = Callable[..., Any]


@pytest.mark.parametrize("seed", range(3))
def test_scores_and_order_are_those_of_numpy(script: Script, seed: int) -> None:
    rng = np.random.default_rng(seed)
    log_NK = np.log(rng.choice([0.125, 0.25, 0.5, 1.0], size=(300, 3)))  # with many ties
    exponents = dict(zip("abc", rng.choice([-1.0, 0.0, 0.5, 2.0], 3).tolist(), strict=True))
    indices = rng.permutation(300).tolist()
    items = [
        {"index": i, "factors": dict(zip("abc", row, strict=True))}
        for i, row in zip(indices, log_NK.tolist(), strict=True)
    ]
    expression = """(() => {
      const table = fusion.tableOf(given.items), sums = fusion.scores(table, given.exponents);
      const order = fusion.orderOf(sums, table.indices);
      return {sums: [...sums], order, ranks: [...fusion.ranksOf(order)]};
    })()"""
    found = script(expression, items=items, exponents=exponents)
    sums_N = np.array(found["sums"])
    np.testing.assert_allclose(sums_N, log_NK @ np.array(list(exponents.values())), rtol=1e-12, atol=1e-12)
    assert len(set(found["sums"])) < 300
    assert found["order"] == np.lexsort((indices, -sums_N)).tolist()
    assert found["ranks"] == np.argsort(found["order"]).tolist()


def test_a_comparison_has_what_is_among_the_first_of_either_order(script: Script) -> None:
    rng = np.random.default_rng(7)
    a, b = rng.permutation(50).tolist(), rng.permutation(50).tolist()
    lines = script("fusion.compared(given.a, given.b, 10)", a=a, b=b)
    assert sorted(lines) == sorted({*a[:10], *b[:10]})
    assert len(lines) > 10
    count = script("fusion.moved(fusion.ranksOf(given.a), fusion.ranksOf(given.b))", a=a, b=b)
    assert count == np.sum(np.argsort(a) != np.argsort(b))


@pytest.mark.parametrize("depth", [1, 4, 10, 30])
def test_the_mean_label_is_that_of_fuse(script: Script, depth: int) -> None:
    rng = np.random.default_rng(depth)
    order, label_N = rng.permutation(20), rng.random(20)
    in_space_N = rng.random(20) < 0.6
    labels = [{"watch": label if inside else None} for label, inside in zip(label_N.tolist(), in_space_N, strict=True)]
    lists = CandidateLists.from_groups(np.zeros(20, np.int64))
    own_N = np.where(in_space_N, label_N, 0.0)[lists.row_N]
    metric = build_metric(MetricName("watch", "mean", depth), lists, own_N)
    ordered = lists.order_rows(-np.argsort(order)[None, lists.row_N].astype(float))
    mean = "fusion.meanAt(given.order, given.labels, 'watch', given.depth)"
    found = script(mean, order=order.tolist(), labels=labels, depth=depth)
    assert found == pytest.approx(metric.mean(ordered)[0], rel=1e-12)


def test_the_copied_toml_is_that_of_a_fusion(script: Script) -> None:
    exponents = {"vtr": 1, "sh are": -0.35, "rare": 1e-7, "length": 0.5}
    text = script("fusion.asToml(Object.keys(given), given, 'Exponents for \"x\" v3')", **exponents)
    document = tomllib.loads(text)
    assert document.pop("length") == {"exponent": 0.5}
    assert document == {"tasks": {name: {"exponent": exponents[name]} for name in ("vtr", "sh are", "rare")}}
    del document["tasks"]["sh are"]  # which is no name of a task
    assert FusionConfig.model_validate(document, strict=True).tasks["rare"].exponent == 1e-7


@pytest.mark.parametrize("secured", [False, True])
def test_the_copied_command_sends_the_request(script: Script, secured: bool) -> None:
    request = {"user": {"name": "it's $HOME `id` \\ \" \u00e9\n"}, "items": [{"id": None}], "exponents": {"vtr": -1}}
    text = script(
        "fusion.asCurl('http://127.0.0.1:8000', given.request, given.secured)", request=request, secured=secured
    )
    words = shlex.split(text)
    assert words[:3] == ["curl", "-sS", "http://127.0.0.1:8000/v1/rank"]
    assert json.loads(words[words.index("-d") + 1]) == request
    assert ("Authorization: Bearer $PLE_REC_TOKEN" in words) is secured


def test_an_item_is_told_by_what_differs(script: Script) -> None:
    feed = [
        {
            "tab": 1,
            "hour": 3 + i % 2,
            "author_fans": i,
            "author_id": 7 * i,
            "video_id": 90 - i,
            "video_seconds": 12.5 + i,
        }
        for i in range(4)
    ]
    found = script("items.telling(given.feed, 'video_id')", feed=feed)
    assert found == ["author_fans", "video_seconds", "hour"]
    assert script("items.detailOf(given, 'video_seconds', 'video_id')", **feed[0]) == "seconds 12.5"


def test_the_id_of_an_item_is_its_feature_of_the_largest_table(script: Script) -> None:
    features = [
        {"name": "category_id", "type": "int", "rows": 30},
        {"name": "clicked", "type": "int", "rows": 5000, "bag": True},
        {"name": "sku", "type": "text", "rows": 5000},
        {"name": "shop", "type": "int", "rows": 900},
        {"name": "price", "type": "number", "dense": True},
    ]
    identity = "items.idOf(given.features)"
    assert script(identity, features=features) == "sku"
    assert script(identity, features=[features[1], features[4]]) == ""
    assert script(identity, features=[]) == ""


def test_an_item_is_named_by_its_raw_value_and_never_like_an_id_where_it_has_none(script: Script) -> None:
    title = "[items.titleOf(given.item, 2, given.title), items.shortTitleOf(given.item, 2, given.title)]"
    for value in (3, "7012345678901234567", "<b>"):
        assert script(title, item={"item_id": value}, title="item_id") == [f"item_id {value}", str(value)]
    for item, name in (({"item_id": None}, "item_id"), ({"item_id": ""}, "item_id"), ({}, "item_id"), ({}, "")):
        assert script(title, item=item, title=name) == ["no. 3 of the request"] * 2


def test_pasted_ids_are_not_rounded(script: Script) -> None:
    signature = {
        "user": [{"name": "id", "type": "int"}],
        "items": [{"name": "ids", "type": "int"}, {"name": "x", "type": "number"}, {"name": "t", "type": "text"}],
    }
    text = """{"user": {"id": 7012345678901234567}, "top": 1e30, "items": [
      {"ids": [1, -7012345678901234567, 9007199254740991, 9007199254740992], "x": 7012345678901234567},
      {"id": 7012345678901234568, "ids": null, "t": "\\"9007199254740993"}]}"""
    found = script("pasted.parsed(given.text, given.signature)", text=text, signature=signature)
    assert found["user"] == {"id": "7012345678901234567"}
    assert found["top"] == 1e30
    assert found["items"] == [
        {"ids": [1, "-7012345678901234567", 9007199254740991, "9007199254740992"], "x": 7012345678901234567.0},
        {"id": "7012345678901234568", "ids": None, "t": '"9007199254740993'},
    ]
    columns = """{"items": {"ids": [7012345678901234567, 5], "x": [0.5, null]}, "top": 1}"""
    assert script("pasted.parsed(given.text, given.signature)", text=columns, signature=signature) == {
        "items": [{"ids": "7012345678901234567", "x": 0.5}, {"ids": 5, "x": None}],
        "top": 1,
    }
    others = ("null", "[]", '{"items": 3}', '{"user": null, "items": [null, 7]}')
    for other in (
        *others,
        '{"items": {}}',
        '{"items": {"x": [1], "y": [1, 2]}}',
        '{"items": {"x": 1}}',
        '{"items": "ab"}',
    ):
        assert script("pasted.parsed(given.text, null)", text=other) == json.loads(other)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0.000"),
        (0.4567, "0.457"),
        (1, "1.000"),
        (-2.3456, "-2.346"),
        (0.0123, "0.012"),
        (0.00098, "0.00098"),
        (1.2e-6, "1.2e-6"),
        (123.4, "123"),
        (None, "\u2013"),
    ],
)
def test_numbers_are_short(script: Script, number: float | None, text: str) -> None:
    assert script("items.decimal(given.number)", number=number) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "\u2013"), (4711, "4711"), (1.77777779, "1.778"), (["12", 3], "12 3"), ([], "none"), ({"a": 1}, '{"a":1}')],
)
def test_raw_values_are_readable(script: Script, value: object, text: str) -> None:
    assert script("items.shown(given.value)", value=value) == text
