"""Vectors after training: export, requests by key and by numbers, predictions from a dataset and from raw logs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

import ple_rec
from ple_rec.cli import main
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import VectorFeature, VectorTable
from ple_rec.data.integrity import Digests
from ple_rec.data.vector_lookup import VectorLookup
from ple_rec.data.vectors import FrozenTable
from ple_rec.errors import UserError
from ple_rec.inference.feature_parsing import MAX_VECTOR_NUMBERS
from ple_rec.inference.load_version import load_ranker
from ple_rec.inference.model_dir import latest_version
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.request_error import RequestError
from ple_rec.training.run import train
from tests.data_prep.feed_logs import read
from tests.data_prep.plain_logs import DAY_ROWS, day_of
from tests.data_prep.vector_logs import LOG_WIDTH, VECTORS, WIDTH, content, taste, vector_day, vector_logs, write_videos
from tests.inference.delta_versions import Days
from tests.reports.without_charts import without_charts
from tests.serving.http.running import running
from tests.training.small import small_config

# Videos with a vector in the side table.
KNOWN = ("v0", "v2", "v3", "v9")


def train_run(root: Path, **data: Any) -> Path:
    """A run in `root / "run"` on the dataset in `root / "out"`."""
    changes = {"train": {"batch_size": 8, "steps": 12, "report_every": 6}, "data": data, "model": {"vector_dim": 4}}
    with without_charts():
        train(small_config(root / "out", changes | {"data": {"virtual_shards": 1} | data}), root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw logs, the dataset, a run and its exported model; the user has the log's vector."""
    root = tmp_path_factory.mktemp("vectors")
    vector_logs(root).prepare()
    run = train_run(root)
    assert main(["export", str(run), "--out", str(root / "model"), "--examples", "3", "--user-features", "taste"]) == 0
    return root


@pytest.fixture(scope="module")
def ranker(root: Path) -> Ranker:
    return Ranker(latest_version(root / "model"))


def scores(ranker: Ranker, rows: list[dict[str, Any]]) -> list[float]:
    (answer,) = ranker.answer([ranker.read_score({"rows": rows})])
    return [row["predictions"]["like"] for row in answer["rows"]]


def test_the_signature_says_what_a_value_is(ranker: Ranker) -> None:
    inputs = {each.name: each for each in ranker.signature.inputs}
    assert (inputs["taste"].vector, inputs["taste"].type, inputs["taste"].of) == (LOG_WIDTH, "number", "user")
    assert (inputs["content"].vector, inputs["content"].type, inputs["content"].of) == (WIDTH, "text", "item")
    assert [each.name for each in ranker.signature.sparse] == ["video_id"]
    described = ranker.signature.describe_inputs(ranker.table_rows)
    assert described["items"][-1] == {"name": "content", "type": "text", "vector": WIDTH}


def test_files_and_card_of_a_version(root: Path, ranker: Ranker) -> None:
    version = latest_version(root / "model")
    copied = (version / "vectors" / "content.parquet").read_bytes()
    assert copied == (root / "out" / "vectors" / "content.parquet").read_bytes()
    assert "vectors/content.parquet" in (version / "manifest.json").read_text()
    card = (version / "MODEL_CARD.md").read_text()
    assert f"`content` (vector of {WIDTH} numbers, or text as key of its table)" in card
    assert f"`taste` (vector of {LOG_WIDTH} numbers)" in card
    for task in ranker.description["card"]["check"]["tasks"].values():
        assert task["largest"] < 1e-6


def test_examples_have_keys_of_frozen_tables_and_numbers_of_the_log(ranker: Ranker) -> None:
    for example in ranker.examples:
        request = example["request"]
        assert request["user"]["taste"] is None or len(request["user"]["taste"]) == LOG_WIDTH
        assert {item["content"] for item in request["items"]} <= {*KNOWN, None}
        (answer,) = ranker.answer([ranker.read_rank(request)])
        assert len(answer["items"]) == len(request["items"])


def test_a_key_stands_for_its_vector(ranker: Ranker) -> None:
    for video in KNOWN:
        row = {"video_id": "v0", "price": 1.0, "taste": [1.0, 2.0, 3.0]}
        by_key, by_numbers = scores(ranker, [row | {"content": video}, row | {"content": content(video)}])
        assert by_key == by_numbers
    different = scores(ranker, [{"content": video} for video in KNOWN])
    assert len(set(different)) == len(KNOWN)


def test_a_delta_shares_vectors_that_have_not_changed(root: Path, tmp_path: Path) -> None:
    days = Days(tmp_path, latest_version(root / "model"))
    days.add()

    def reverse_vectors(version: Path) -> None:
        file = version / "vectors/content.parquet"
        table = pq.read_table(file)
        vectors = table["vector"].take(pa.array(range(len(table))[::-1]))
        pq.write_table(table.set_column(table.column_names.index("vector"), "vector", vectors), file)

    days.add(change=reverse_vectors)
    whole = [Ranker(days.whole(i)) for i in (2, 3)]
    first = Ranker(days.version(1))
    second = first.with_delta(days.version(2))
    third = second.with_delta(days.version(3))
    assert not (days.version(2) / "vectors/content.parquet").exists()
    assert second.arrays.vectors["content"] is first.arrays.vectors["content"]
    rows = [{"content": video} for video in KNOWN]
    assert scores(second, rows) == scores(whole[0], rows)
    assert scores(third, rows) == scores(whole[1], rows)
    assert scores(third, rows) != scores(second, rows)


def test_null_and_unknown_keys_are_missing(ranker: Ranker) -> None:
    by_null, by_unknown, by_absence, by_video_without = scores(
        ranker, [{"content": None}, {"content": "nobody"}, {"price": None}, {"content": "v1"}]
    )
    assert by_null == by_unknown == by_absence == by_video_without


def test_a_ranking_has_the_scores_of_its_rows(ranker: Ranker) -> None:
    """The user's vector is projected once; an item's may stand in `user`, for items that have none."""
    user = {"taste": [0.5, -1.0, 2.0], "content": "v3"}
    items: list[dict[str, Any]] = [{"video_id": "v1", "content": "v2"}, {"video_id": "v0"}, {"content": [1, 2.5, 3, 4]}]
    ranked = ranker.read_rank({"user": user, "items": items})
    (answer,) = ranker.answer([ranked])
    found = {item["index"]: item["predictions"]["like"] for item in answer["items"]}
    expected = scores(ranker, [user | item for item in items])
    assert [found[i] for i in range(3)] == pytest.approx(expected, abs=1e-6)
    assert ranked.dense["taste"].shape == (1, LOG_WIDTH)
    assert ranked.dense["content"].tolist() == [content("v2"), content("v3"), [1, 2.5, 3, 4]]


def test_columns_are_lists_of_vectors(ranker: Ranker) -> None:
    columns = {"content": ["v0", None, content("v2")], "taste": [[1, 2, 3], None, [4, 5, 6]]}
    request = ranker.read_score({"rows": columns})
    assert np.isnan(request.dense["taste"][1]).all()
    assert request.dense["content"][2].tolist() == content("v2")


NUMBER = "a number that fp32 can hold"
WRONG: dict[str, tuple[Any, str]] = {
    "width": ({"taste": [1.0, 2.0]}, "rows[1].taste: got 2 values; a list of 3 numbers"),
    "text for a list": ({"taste": "v0"}, 'rows[1].taste: got "v0"; a list of 3 numbers, or null'),
    "number for a list": ({"taste": 3}, "rows[1].taste: got 3; a list of 3 numbers, or null"),
    "texts": ({"taste": ["a", "b", "c"]}, f'rows[1].taste[0]: got "a"; {NUMBER}'),
    "null inside": ({"taste": [1, None, 2]}, f"rows[1].taste[1]: got null; {NUMBER}"),
    "true": ({"taste": [1, 2, True]}, f"rows[1].taste[2]: got true; {NUMBER}"),
    "beyond fp32": ({"taste": [1, 1e39, 2]}, f"rows[1].taste[1]: got 1e+39; {NUMBER}"),
    "integer for a text key": ({"content": 7}, "rows[1].content: got 7; a text, or null where it is missing"),
    "object": ({"content": {"a": 1}}, "rows[1].content: got "),
}


@pytest.mark.parametrize(("row", "words"), WRONG.values(), ids=WRONG)
def test_wrong_values_are_refused(row: dict[str, Any], words: str, ranker: Ranker) -> None:
    with pytest.raises(RequestError) as caught:
        ranker.read_score({"rows": [{}, row]})
    assert str(caught.value).startswith(words)


def test_numbers_of_a_request_are_limited(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_VECTOR_NUMBERS >= 2000 * 2048
    monkeypatch.setattr("ple_rec.inference.feature_parsing.MAX_VECTOR_NUMBERS", 40)
    ranker.read_score({"rows": [{}] * 5})
    with pytest.raises(RequestError, match=r"the vectors of a request have at most 40 numbers") as caught:
        ranker.read_score({"rows": [{}] * 6})
    assert "42 numbers up to here" in str(caught.value)
    with pytest.raises(RequestError, match=r"^user\.content: got 44 numbers"):
        ranker.read_rank({"user": {"content": "v0"}, "items": [{}] * 11})


def test_the_schemas_accept_what_the_parser_reads(ranker: Ranker) -> None:
    schema = ranker.schemas()["ScoreRequest"]
    good: list[dict[str, Any]] = [{"content": "v0"}, {"content": [1, 2, 3, 4.5]}, {"content": None, "taste": [1, 2, 3]}]
    for row in [*good, {}]:
        jsonschema_rs.validate(schema, {"rows": [row]})
        ranker.read_score({"rows": [row]})
    bad: list[dict[str, Any]] = [{"content": 3}, {"content": [1, 2]}, {"taste": "v0"}, {"taste": [1, 2, "3"]}]
    for row in bad:
        with pytest.raises(jsonschema_rs.ValidationError):
            jsonschema_rs.validate(schema, {"rows": [row]})
        with pytest.raises(RequestError):
            ranker.read_score({"rows": [row]})


def test_the_program_takes_vectors_as_third_argument(root: Path, ranker: Ranker) -> None:
    program = torch.export.load(latest_version(root / "model") / "dense.pt2").module()
    request = ranker.read_score({"rows": [{"taste": [1, 2, 3], "content": "v2"}, {"price": 3.0}]})
    vectors = torch.from_numpy(np.concatenate([request.dense["taste"], request.dense["content"]], axis=1))
    dense = torch.from_numpy(request.dense["price"])[:, None]
    table = ranker._lookups._tables["video_id"]
    embedded = table.pool(torch.tensor(request.ids["video_id"].values_V))
    found, _ = program(embedded, dense, vectors)
    assert found[:, 0].tolist() == pytest.approx(
        scores(ranker, [{"taste": [1, 2, 3], "content": "v2"}, {"price": 3.0}])
    )


def predict(root: Path, out: Path, *argv: str) -> pa.Table:
    assert main(["predict", str(root / "run"), "--out", str(out), *argv]) == 0
    return pq.read_table(out)


def test_predictions_of_the_dataset_are_those_of_the_exported_model(root: Path, ranker: Ranker, tmp_path: Path) -> None:
    found = predict(root, tmp_path / "out")
    rows = read(root / "out", "test")
    raw = dict(enumerate(pq.read_table(root / "out" / "vocab" / "video_id.parquet")["raw"].to_pylist(), 1))
    keys = pq.read_table(root / "out" / "vectors" / "content.parquet")["key_id"].to_pylist()
    requests = [
        {
            "video_id": raw[row["video_id"]],
            "price": row["price"],
            "taste": row["taste"],
            "content": keys[row["content"] - 1] if row["content"] else None,
        }
        for row in rows.to_pylist()
    ]
    assert found["like"].to_pylist() == pytest.approx(scores(ranker, requests), abs=1e-6)
    metrics = json.loads((root / "run" / "metrics.json").read_text())["test"]["tasks"]["like"]
    labels = rows["label_like"].to_pylist()
    losses = [-math.log(p if y else 1 - p) for p, y in zip(found["like"].to_pylist(), labels, strict=True)]
    assert metrics["logloss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_raw_logs_give_the_predictions_of_the_dataset(root: Path, tmp_path: Path) -> None:
    of_dataset = predict(root, tmp_path / "dataset", "--ids", "log_day", "video_id", "group")
    found = predict(
        root,
        tmp_path / "raw",
        "--data",
        str(root / "raw/log/day 4.parquet"),
        "--from",
        str(root / "raw"),
        "--ids",
        "user_id",
    )
    # The test split is sorted by user.
    order = pc.sort_indices(found["user_id"])
    assert found["like"].take(order).to_pylist() == pytest.approx(of_dataset["like"].to_pylist(), abs=1e-6)


def test_a_new_key_of_the_side_table_has_its_vector(root: Path, ranker: Ranker, tmp_path: Path) -> None:
    """A cold item: neither the dataset nor the exported model knows it."""
    vector = [3.0, 1.0, -2.0, 9.0]
    logs = vector_logs(tmp_path / "new")
    write_videos(logs, [{"id": "v77", "embedding": vector}])
    day = vector_day(4).set_column(1, "video_id", pa.array(["v77"] * DAY_ROWS))
    pq.write_table(day, tmp_path / "cold.parquet")
    found = predict(root, tmp_path / "out", "--data", str(tmp_path / "cold.parquet"), "--from", str(logs.raw))
    rows = [
        {"video_id": "v77", "price": price, "taste": taste(3 * DAY_ROWS + i), "content": vector}
        for i, price in enumerate(day_of(4)["price"].to_pylist())
    ]
    assert found["like"].to_pylist() == pytest.approx(scores(ranker, rows), abs=1e-6)
    without = scores(ranker, [row | {"content": None} for row in rows])
    assert found["like"].to_pylist() != pytest.approx(without, abs=1e-6)


def test_frames_have_columns_of_lists(root: Path, tmp_path: Path, ranker: Ranker) -> None:
    model = ple_rec.load_model(root / "model")
    table = pa.table({"video_id": ["v0", "v1"], "taste": [[1.0, 2.0, 3.0], None], "content": [content("v2"), None]})
    expected = scores(ranker, table.to_pylist())
    assert model.score(table)["like"].to_pylist() == pytest.approx(expected, abs=1e-6)
    frame = table.to_pandas()
    assert model.score(frame)["like"].to_pylist() == pytest.approx(expected, abs=1e-6)
    ranked = model.rank({"taste": np.array([1.0, 2.0, 3.0])}, {"content": ["v0", "v2"]})
    assert len(ranked) == 2
    assert "vector of 4, or text" in model._repr_html_()
    predicted = ple_rec.load_run(root / "run").predict(vector_day(4).to_pandas(), source=root / "raw")
    expected_rows = predict(
        root, tmp_path / "out", "--data", str(root / "raw/log/day 4.parquet"), "--from", str(root / "raw")
    )
    assert predicted["like"].to_pylist() == expected_rows["like"].to_pylist()


def test_http_requests(root: Path, ranker: Ranker, tmp_path: Path) -> None:
    with running(root / "model", tmp_path) as server:
        taste_row = {"taste": [1, 2, 3]}
        rows: list[dict[str, Any]] = [taste_row | {"content": value} for value in ("v2", content("v2"))]
        answer = server.post("/v1/score", {"rows": rows})
        assert answer.status == 200
        first, second = (row["predictions"]["like"] for row in answer.json()["rows"])
        assert first == second == pytest.approx(scores(ranker, rows)[0], abs=1e-6)
        refused = server.post("/v1/score", {"rows": [{"taste": [1, 2]}]})
        assert refused.status == 422
        assert "rows[0].taste" in refused.body.decode()
        assert server.get("/v1/model").json()["signature"]["user"] == [
            {"name": "taste", "type": "number", "vector": LOG_WIDTH}
        ]


def test_a_run_without_vectors_has_a_program_of_two_arguments(root: Path, tmp_path: Path) -> None:
    config = load_config(RunConfig, root / "run" / "config.toml")
    data = config.data.model_copy(update={"vectors": ()})
    with without_charts():
        train(config.model_copy(update={"data": data}), tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "model")]) == 0
    version = latest_version(tmp_path / "model")
    assert not (version / "vectors").exists()
    program = torch.export.load(version / "dense.pt2")
    assert len(program.graph_signature.user_inputs) == 2
    assert [each.name for each in Ranker(version).signature.inputs] == ["video_id", "price"]


def _frozen(folder: Path, table: pa.Table, keys: tuple[str, ...] = ("id",), *, dated: bool = False) -> FrozenTable:
    (folder / "vectors").mkdir()
    pq.write_table(table, folder / "vectors" / "v.parquet")
    described = VectorTable(keys=keys, rows=len(table), dated=dated)
    return FrozenTable(Digests(folder, {}), VectorFeature(name="v", width=1, table=described))


def _lists(values: list[float]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), 1)


@pytest.mark.parametrize("text", [False, True])
def test_look_up_of_many_keys(text: bool, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).permutation(np.arange(-500, 4500) * 7919)
    keys: Any = [f"k{n}" for n in numbers] if text else numbers
    lookup = VectorLookup(_frozen(tmp_path, pa.table({"key_id": keys, "vector": _lists([float(n) for n in numbers])})))
    assert lookup.kind == ("text" if text else "int")
    asked = pa.array([*list(keys[::3]), None, "k" if text else 1])
    found = lookup.vectors(asked)[:, 0]
    assert np.array_equal(found, np.array([*numbers[::3], np.nan, np.nan], np.float32), equal_nan=True)


def test_the_newest_vector_of_a_key_is_found(tmp_path: Path) -> None:
    days = pa.array([3, 1, 2, 1], pa.int32())
    table = pa.table({"key_id": [5, 5, 6, 6], "day": days, "vector": _lists([1.0, 2.0, 3.0, 4.0])})
    lookup = VectorLookup(_frozen(tmp_path, table, dated=True))
    assert lookup.vectors(pa.array([6, 5])).tolist() == [[3.0], [1.0]]


def test_an_empty_table_has_no_key(tmp_path: Path) -> None:
    table = pa.table({"key_id": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32(), 1))})
    assert np.isnan(VectorLookup(_frozen(tmp_path, table)).vectors(pa.array(["a", None]))).all()


def test_a_delta_shares_frozen_tables_that_have_not_changed(root: Path, tmp_path: Path) -> None:
    model, export = tmp_path / "model", ["export", str(root / "run"), "--out", str(tmp_path / "model")]
    for argv in (["--precision", "int8"], ["--precision", "int8", "--delta", "v1"]):
        assert main([*export, *argv, "--auc-loss", "1", "--user-features", "taste"]) == 0
    assert not (model / "versions/v2/vectors").exists()
    rows = [{"video_id": video, "content": video} for video in (*KNOWN, "none")]
    whole, delta = (load_ranker(model / "versions" / name, threads=1) for name in ("v1", "v2"))
    assert scores(delta, rows) == scores(whole, rows)
    assert {table["changed"] for table in delta.description["tables"]} == {0}
    assert main(["export", "--squash", "v2", "--out", str(model)]) == 0
    name = "vectors/content.parquet"
    assert (model / "versions/v3" / name).read_bytes() == (model / "versions/v1" / name).read_bytes()
    assert scores(load_ranker(model / "versions/v3", threads=1), rows) == scores(whole, rows)


@pytest.mark.parametrize("kind", ["dated", "two keys"])
def test_export_of_other_frozen_tables(kind: str, tmp_path: Path) -> None:
    """A dated table is read by its newest vectors; without a single key, a value is a list."""
    rows: list[dict[str, Any]]
    if kind == "dated":
        logs = vector_logs(tmp_path, VECTORS.replace("[[vectors]]", 'day = "day"\n\n[[vectors]]', 1))
        days = ("2022-04-15", "2022-04-18")
        rows = [
            {"id": v, "day": day, "embedding": [float(i), 1, 2, 3]} for i, day in enumerate(days) for v in ("v0", "v1")
        ]
    else:
        logs = vector_logs(tmp_path, VECTORS.replace('{id = "video_id"}', '{id = "video_id", user = "user_id"}'))
        rows = [{"id": f"v{i % 5}", "user": i % 7, "embedding": [i / 4, 1.0, 2.0, 3.0]} for i in range(35)]
    write_videos(logs, rows)
    logs.prepare()
    run = train_run(tmp_path)
    assert main(["export", str(run), "--out", str(tmp_path / "model"), "--examples", "2"]) == 0
    ranker = Ranker(latest_version(tmp_path / "model"))
    (feature,) = (each for each in ranker.signature.inputs if each.name == "content")
    assert feature.type == ("text" if kind == "dated" else "number")
    if kind == "dated":
        assert ranker.read_score({"rows": [{"content": "v1"}]}).dense["content"].tolist() == [[1, 1, 2, 3]]
    else:
        with pytest.raises(RequestError, match="a list of 4 numbers"):
            ranker.read_score({"rows": [{"content": "v1"}]})


def test_an_unknown_user_feature_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["export", str(root / "run"), "--out", str(tmp_path / "model"), "--user-features", "tast"]
    assert main(argv) == UserError("", "", "", "").exit_code
    assert "features of the model: video_id, price, taste, content" in capsys.readouterr().err
