"""Answers: a ranking says of every item what a score says, alone or beside other requests, and is in its order."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
import torch

from ple_rec.inference.program import PROGRAM, read_weights
from ple_rec.inference.ranker import Ranker, latest_version
from ple_rec.inference.raw_query import _Statement
from tests.inference.exported import export_run


@pytest.fixture(scope="module")
def requests(ranker: Ranker) -> list[dict[str, Any]]:
    return [example["request"] for example in ranker.examples]


def predictions(rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    rows = sorted(rows, key=lambda row: int(row["index"])) if "index" in rows[0] else rows
    return np.array([[*row["predictions"].values()] for row in rows])


def ranked(ranker: Ranker, request: dict[str, Any], **more: Any) -> dict[str, Any]:
    (answer,) = ranker.answer([ranker.read_rank(request | more)])
    return answer


def test_a_ranking_is_the_scores_of_its_rows(ranker: Ranker, requests: list[dict[str, Any]]) -> None:
    for request in requests:
        rows = [request["user"] | item for item in request["items"]]
        (scored,) = ranker.answer([ranker.read_score({"rows": rows})])
        found = predictions(ranked(ranker, request)["items"])
        np.testing.assert_allclose(found, predictions(scored["rows"]), rtol=0, atol=1e-6)


def test_requests_together_are_as_alone(ranker: Ranker, requests: list[dict[str, Any]]) -> None:
    scores = {"rows": [requests[0]["user"] | item for item in requests[0]["items"]]}
    asked = [ranker.read_rank(request) for request in requests]
    mixed = [asked[0], ranker.read_score(scores), *asked[1:]]
    together, alone = ranker.answer(mixed), [ranker.answer([each])[0] for each in mixed]
    for one, other in zip(together, alone, strict=True):
        key = "items" if "items" in one else "rows"
        assert len(one[key]) == len(other[key])
        np.testing.assert_allclose(predictions(one[key]), predictions(other[key]), rtol=0, atol=1e-6)


def test_the_order_is_that_of_the_fused_score(ranker: Ranker, requests: list[dict[str, Any]]) -> None:
    answer = ranked(ranker, requests[0], explain=True, exponents={"like": 0.5, "watch": -2})
    assert answer["exponents"] == {"like": 0.5, "watch": -2.0}
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    for item in answer["items"]:
        by_hand = 0.5 * item["factors"]["like"] - 2 * item["factors"]["watch"]
        assert item["score"] == pytest.approx(by_hand, rel=1e-12)
        assert item["factors"]["like"] == pytest.approx(np.log(item["predictions"]["like"]), rel=1e-6)
    top = ranked(ranker, requests[0], top=2, exponents={"like": 0.5, "watch": -2})["items"]
    assert [item["index"] for item in top] == [item["index"] for item in answer["items"][:2]]


@pytest.mark.usefixtures("same_program")
def test_a_served_factor_is_in_units_of_its_scale(
    feed: Path, tmp_path: Path, requests: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fusion.toml"
    file.write_text('[tasks.like]\n[tasks.watch]\nlink = "sigmoid"\nscale = 0.01\n')
    scaled = Ranker(latest_version(export_run(feed / "run", tmp_path / "m", "--fusion", str(file))), threads=1)
    for item in ranked(scaled, requests[0], explain=True)["items"]:
        p = 1 / (1 + np.exp(-item["predictions"]["watch"] / 0.01))
        assert item["factors"]["watch"] == pytest.approx(np.log(p), rel=1e-5)
        assert item["score"] == pytest.approx(sum(item["factors"].values()), rel=1e-12)
    file.write_text("[tasks.like]\nscale = 2.0\n")
    export_run(feed / "run", tmp_path / "m", "--fusion", str(file), code=2)
    assert "tasks.like.scale: 2 on a binary task" in capsys.readouterr().err


@pytest.mark.usefixtures("same_program")
def test_a_request_is_fused_by_the_exponents_of_the_model_where_it_gives_none(
    feed: Path, tmp_path: Path, requests: list[dict[str, Any]]
) -> None:
    file = tmp_path / "fusion.toml"
    file.write_text("[tasks.like]\nexponent = 0.5\n[tasks.watch]\nexponent = -2.0\n")
    fused = Ranker(latest_version(export_run(feed / "run", tmp_path / "m", "--fusion", str(file))), threads=1)
    for given, like, watch in (({}, 0.5, -2.0), ({"like": 3}, 3.0, -2.0)):
        answer = ranked(fused, requests[0], explain=True, exponents=given)
        assert answer["exponents"] == {"like": like, "watch": watch}
        for item in answer["items"]:
            by_hand = like * item["factors"]["like"] + watch * item["factors"]["watch"]
            assert item["score"] == pytest.approx(by_hand, rel=1e-12)


def test_equal_scores_stay_in_the_order_of_the_request(ranker: Ranker, requests: list[dict[str, Any]]) -> None:
    item = requests[0]["items"][0]
    answer = ranked(ranker, {"user": requests[0]["user"], "items": [item] * 5})
    assert [item["index"] for item in answer["items"]] == [0, 1, 2, 3, 4]


def test_gates_are_those_of_the_first_item(ranker: Ranker, requests: list[dict[str, Any]]) -> None:
    answer = ranked(ranker, requests[0], explain=True)
    assert [gate["level"] for gate in answer["gates"]] == [1, 2]
    for gate in answer["gates"]:
        weights = np.array(gate["weights"])
        assert weights.shape == (len(gate["outputs"]), len(gate["experts"]))
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    best = requests[0]["items"][answer["items"][0]["index"]]
    alone = ranked(ranker, {"user": requests[0]["user"], "items": [best]}, explain=True)
    np.testing.assert_allclose(alone["gates"][0]["weights"], answer["gates"][0]["weights"], atol=1e-6)


def test_many_items_go_through_blocks(ranker: Ranker, requests: list[dict[str, Any]]) -> None:
    items = [item for request in requests for item in request["items"]] * 60
    request = {"user": requests[0]["user"], "items": items[:2000]}
    few = [ranked(ranker, request | {"items": items[begin : begin + 100]})["items"] for begin in range(0, 2000, 100)]
    many = predictions(ranked(ranker, request)["items"])
    assert len(many) == 2000
    np.testing.assert_allclose(many, np.concatenate([predictions(part) for part in few]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("counts", [(7, 60, 133, 1), (1, 1, 2, 1)], ids=["many items", "few"])
def test_blocks_may_begin_within_requests(
    feed_model: Path, requests: list[dict[str, Any]], grouped: bool, counts: tuple[int, ...]
) -> None:
    ranker = Ranker(latest_version(feed_model), threads=3)
    model = ranker._model
    model.block_rows = 25
    model.run_in_blocks(3)
    items = [item for request in requests for item in request["items"]]
    asked = []
    for own, count in zip(requests, counts, strict=False):
        items = items[5:] + items[:5]
        asked.append(ranker.read_rank({"user": own["user"], "items": [items[i % len(items)] for i in range(count)]}))
    assert len(asked) == len(counts)
    expected = torch.cat([ranker.score_rows([each], grouped=grouped).scores_BK for each in asked])
    together = ranker.score_rows(asked, grouped=grouped)
    torch.testing.assert_close(together.scores_BK, expected, rtol=0, atol=1e-6)
    rows = [own["user"] | items[i % len(items)] for own in requests for i in range(40)]
    scored = [ranker.score_rows([ranker.read_score({"rows": part})]).scores_BK for part in (rows, rows[:90], rows[90:])]
    torch.testing.assert_close(scored[0], torch.cat(scored[1:]), rtol=0, atol=1e-6)
    one = Ranker(latest_version(feed_model), threads=1)
    torch.testing.assert_close(one.score_rows(asked, grouped=grouped).scores_BK, expected, rtol=0, atol=1e-6)


def test_schemas_tell_the_features(ranker: Ranker) -> None:
    schemas = ranker.schemas()
    rows, columns = schemas["RankRequest"]["properties"]["items"]["oneOf"]
    item = rows["items"]
    assert item["properties"]["video_id"] == {"type": ["string", "null"]}
    assert item["properties"]["history"]["maxItems"] == 1000
    assert item["additionalProperties"] is False
    assert "user_id" not in item["properties"]
    assert columns["properties"]["history"]["items"] == item["properties"]["history"]
    assert (columns["additionalProperties"], set(columns["properties"])) == (False, set(item["properties"]))
    assert schemas["ScoreRequest"]["properties"]["rows"]["oneOf"][0]["items"]["properties"]["user_id"]["type"] == [
        "integer",
        "string",
        "boolean",
        "null",
    ]
    assert schemas["Ranked"]["required"] == ["model", "version", "items"]


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("form", ["rows", "columns"])
def test_answers_are_as_their_schemas_say(ranker: Ranker, form: str, explain: bool) -> None:
    names = [each.name for each in ranker.signature.inputs_of("item")]
    given: Any = {name: [None, None] for name in names} if form == "columns" else [dict.fromkeys(names)] * 2
    rank, score = {"items": given, "explain": explain}, {"rows": given, "explain": explain}
    schemas = ranker.schemas()
    answers = ranker.answer([ranker.read_rank(rank), ranker.read_score(score)])
    jsonschema_rs.validate(schemas["RankRequest"], rank)
    jsonschema_rs.validate(schemas["ScoreRequest"], score)
    for name, key, answer in (("Ranked", "items", answers[0]), ("Scored", "rows", answers[1])):
        jsonschema_rs.validate(schemas[name], answer)
        told = answer[key]
        assert isinstance(told, dict) is (form == "columns")
        assert ("factors" in (told if form == "columns" else told[0])) is explain
        wrong = {"score": 1.0} if form == "columns" else [{"score": [1.0]}]
        with pytest.raises(jsonschema_rs.ValidationError):
            jsonschema_rs.validate(schemas[name], answer | {key: wrong})


def test_weights_are_those_of_the_program(feed_model: Path) -> None:
    program = torch.export.load(latest_version(feed_model) / PROGRAM).state_dict
    weights = read_weights(latest_version(feed_model))
    assert list(weights) == list(program)
    for name, weight in program.items():
        assert weights[name].dtype == weight.dtype
        assert torch.equal(weights[name], weight)


def test_a_version_leaves_nothing_behind(feed_model: Path) -> None:
    """A server takes one version after the other for months."""
    counts = []
    for _ in range(3):
        one = Ranker(latest_version(feed_model), threads=1)
        one.answer([one.read_rank(example["request"]) for example in one.examples])
        del one
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[2] <= counts[1] + 20  # by torch.export.load it was some 450 a version


def statements() -> list[_Statement]:
    """Return the prepared queries of all rankers in this process."""
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is _Statement]


def test_queries_and_their_connections_go_with_the_ranker(feed_model: Path) -> None:
    before = statements()
    one = Ranker(latest_version(feed_model), threads=1)
    one.answer([one.read_rank(example["request"]) for example in one.examples])
    connections = [weakref.ref(each._connection) for each in statements() if each not in before]
    assert connections
    del one
    gc.collect()
    assert [each() for each in connections] == [None] * len(connections)
