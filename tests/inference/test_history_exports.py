"""Exports of models with histories, by their mean and by attention: scores of the run, programs, deltas, tables."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from ple_rec.analysis.analyze import analyze
from ple_rec.cli import main
from ple_rec.config.choices import TablePrecision
from ple_rec.config.model import HISTORY_HIDDEN
from ple_rec.config.prep import PrepConfig
from ple_rec.config.problems import parse_document
from ple_rec.inference.export import histories_of_items
from ple_rec.inference.load_version import load_ranker
from ple_rec.inference.lookups import RequestLookups
from ple_rec.inference.model_dir import latest_version
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.request import ModelRequest
from tests.inference.delta_feed import program_writer
from tests.inference.exported import PRECISIONS, export_run
from tests.inference.feed import TASKS, TOML

KINDS = ("mean", "din")
# One pair that changes places is much AUC in a few rows.
SMALL = ("--auc-loss", "1")
# Bounds of the differences of scores; few of a run of six steps are far from 0.5.
BOUNDS = {"fp32": 2e-7, "fp16": 1e-4, "int8": 1e-3, "int4": 2e-2}


@pytest.fixture(autouse=True, scope="module")
def _programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ple_rec.inference.export.write_program", program_writer(tmp_path_factory.mktemp("programs")))
        yield


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, history_feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export in fp32 of a run of each kind, with examples."""
    return export_run(history_feed / str(request.param), tmp_path_factory.mktemp("model") / str(request.param))


@pytest.fixture(scope="module")
def ranker(model: Path) -> Ranker:
    """The export in memory."""
    return load_ranker(latest_version(model), 1)


def _card(model: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((latest_version(model) / "model.json").read_text())["card"]
    return card


def _bodies(ranker: Ranker) -> list[dict[str, Any]]:
    """Bodies of the examples; one of them has no events, and another one fewer than there may be."""
    bodies = [dict(each["request"]) for each in ranker.examples]
    bodies[1] |= {"user": bodies[1]["user"] | {"liked": []}}
    bodies[2] |= {"user": bodies[2]["user"] | {"liked": bodies[2]["user"]["liked"][:3]}}
    return bodies


def _requests(ranker: Ranker) -> list[ModelRequest]:
    return [ranker.read_rank(body) for body in _bodies(ranker)]


def _row_requests(ranker: Ranker) -> list[ModelRequest]:
    """Requests for the scores of the rows of the same bodies."""
    bodies = _bodies(ranker)
    return [ranker.read_score({"rows": [item | body["user"] for item in body["items"]]}) for body in bodies]


def _scores(ranker: Ranker, requests: list[ModelRequest], *, grouped: bool = True) -> Tensor:
    return ranker.score_rows(requests, grouped=grouped).scores_BK


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_run(history_feed: Path, tmp_path: Path, kind: str, precision: TablePrecision) -> None:
    out = export_run(history_feed / kind, tmp_path / "m", "--precision", precision, *SMALL)
    differences = [task["largest"] for task in _card(out)["check"]["tasks"].values()]
    assert max(differences) <= BOUNDS[precision]
    if precision != "fp32":
        assert max(differences) > 0


@pytest.mark.parametrize(
    ("key", "user_features", "of_items"),
    [
        ("user_id", ["user_id", "city"], False),
        ("user_id", ["city"], False),  # The run has dropped the id, which is the group.
        ("user_id % 3", ["user_id"], False),
        ("users.city", ["user_id"], True),
        ("video_id", ["user_id"], True),
        ("concat(user_id, '|', video_id)", ["user_id"], True),
        ("pair", ["user_id"], True),
    ],
)
def test_a_history_belongs_to_the_items_if_its_key_reads_one(
    key: str, user_features: list[str], of_items: bool
) -> None:
    toml = TOML.replace("[derived]", "[derived]\npair = \"concat(video_id, '|', user_id)\"")
    history = f'\n[[histories]]\nname = "h"\nkey = "{key}"\nitems = ["video_id"]\nlength = 3\n'
    config, problems = parse_document(PrepConfig, tomllib.loads(toml + history))
    assert config is not None, problems
    assert histories_of_items(config, user_features) == ({"h"} if of_items else set())


def test_histories_change_the_scores(ranker: Ranker) -> None:
    example = next(each for each in ranker.examples if each["request"]["user"]["liked"])["request"]
    without = example | {"user": example["user"] | {"liked": [], "seen_in_city": []}}
    one, other = (_scores(ranker, [ranker.read_rank(body)]) for body in (example, without))
    assert (one - other).abs().max() > 1e-6


def test_a_ranking_has_the_scores_of_its_rows(ranker: Ranker) -> None:
    requests = _requests(ranker)
    assert {len(each.ids["liked_age"].values_V) for each in requests} == {0, 3, 4}
    together = _scores(ranker, requests)
    torch.testing.assert_close(together, _scores(ranker, _row_requests(ranker)), rtol=0, atol=1e-6)
    torch.testing.assert_close(together, _scores(ranker, requests, grouped=False), rtol=0, atol=1e-6)
    alone = torch.cat([_scores(ranker, [each]) for each in requests])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_attention_is_computed_in_pieces(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, rows = _requests(ranker), _row_requests(ranker)
    whole = _scores(ranker, requests), _scores(ranker, rows)
    monkeypatch.setattr("ple_rec.inference.lookups._ATTENDED_EVENTS", 9)
    for scores, each in zip(whole, (requests, rows), strict=True):
        torch.testing.assert_close(_scores(ranker, each), scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dense", ["bf16", "auto"])
def test_matrix_products_in_bf16(history_feed: Path, tmp_path: Path, dense: str) -> None:
    out = export_run(history_feed / "din", tmp_path / "m", "--dense", dense, *SMALL)
    check = _card(out)["check"]
    assert check["dense"] == "bf16"
    assert 0 < max(task["largest"] for task in check["tasks"].values()) < 5e-2


def _arguments(ranker: Ranker, rows: int) -> tuple[Any, ...]:
    """Arguments of the program for the first rows of an example, and the scores of the ranker."""
    user, items = (ranker.examples[0]["request"][key] for key in ("user", "items"))
    request = ranker.read_score({"rows": [item | user for item in items[:rows]]})
    lookups: RequestLookups = ranker._lookups
    embedded = torch.cat([lookups._pool_column(column, [request]) for column in lookups._pooled], dim=1)
    dense = torch.stack([torch.from_numpy(request.dense[each.name]) for each in ranker.signature.dense], dim=1)
    arguments: list[Any] = [embedded, dense]
    if ranker._model.histories:
        events = []
        for history in ranker._model.histories:
            columns = [request.ids[column.name] for column in history.columns()]
            rows_VW = torch.cat(
                [
                    lookups._tables[column.name].pool(torch.tensor(ids.values_V))
                    for column, ids in zip(history.columns(), columns, strict=True)
                ],
                dim=1,
            )
            padded = torch.zeros(request.rows, history.length, rows_VW.shape[1])
            offsets = columns[0].offsets_N
            assert offsets is not None
            for i in range(request.rows):
                padded[i, : offsets[i + 1] - offsets[i]] = rows_VW[offsets[i] : offsets[i + 1]]
            events.append(padded)
        arguments += [None, events]
    return *arguments, _scores(ranker, [request])


def test_the_program_has_attention(model: Path, ranker: Ranker) -> None:
    program = torch.export.load(latest_version(model) / "dense.pt2").module()
    for rows in (1, 4):
        *arguments, expected = _arguments(ranker, rows)
        torch.testing.assert_close(program(*arguments)[0], expected, rtol=1e-5, atol=1e-6)


def test_onnx_has_attention(history_feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from ple_rec.inference.program import write_program

    monkeypatch.setattr("ple_rec.inference.export.write_program", write_program)
    ranker = load_ranker(latest_version(export_run(history_feed / "din", tmp_path / "m", "--onnx")), 1)
    file = latest_version(tmp_path / "m") / "dense.onnx"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["embedded", "dense", "liked", "seen_in_city"]
    for rows in (1, 4):
        embedded, dense, _, events, expected = _arguments(ranker, rows)
        values = {"embedded": embedded, "dense": dense, "liked": events[0], "seen_in_city": events[1]}
        (found,) = session.run(None, {name: each.numpy() for name, each in values.items()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-6)


def test_the_card_counts_attention(history_feed: Path, model: Path, ranker: Ranker) -> None:
    parameters = sum(each.numel() for each in ranker._model.attentions.parameters())
    assert (parameters > HISTORY_HIDDEN[0]) is (model.name == "din")
    text = (latest_version(model) / "MODEL_CARD.md").read_text()
    assert "`liked` (last 4 events of video_id, price_bin, hour, each with its age)" in text
    assert "- Events of histories: as of 2022-04-20 at the export: liked (" in text


def test_a_delta_has_the_scores_of_a_whole_version(history_feed: Path, tmp_path: Path) -> None:
    run = history_feed / "din"
    export_run(run, tmp_path / "m", "--precision", "int8", "--checkpoint", "step-3", *SMALL)
    delta = ("--precision", "int8", "--checkpoint", "step-6", *SMALL)
    export_run(run, tmp_path / "m", *delta, "--delta", "v1", "--delta-share", "10")
    export_run(run, tmp_path / "whole", *delta)
    whole, changed = (load_ranker(latest_version(tmp_path / name), 1) for name in ("whole", "m"))
    assert json.loads((latest_version(tmp_path / "m") / "model.json").read_text())["delta"]["base"] == "v1"
    assert torch.equal(_scores(whole, _requests(whole)), _scores(changed, _requests(changed)))
    older = load_ranker(tmp_path / "m" / "versions" / "v1", 1)
    assert not torch.equal(_scores(whole, _requests(whole)), _scores(older, _requests(older)))
    assert main(["export", "--squash", "v2", "--out", str(tmp_path / "m")]) == 0
    squashed = load_ranker(latest_version(tmp_path / "m"), 1)
    assert squashed.version == "v3"
    assert torch.equal(_scores(whole, _requests(whole)), _scores(squashed, _requests(squashed)))


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_of_a_dataset_and_of_its_log_are_those_of_the_evaluation(
    history_feed: Path, tmp_path: Path, kind: str
) -> None:
    assert main(["predict", str(history_feed / kind), "--out", str(tmp_path / "dataset")]) == 0
    found = pq.read_table(tmp_path / "dataset")
    shutil.copytree(history_feed / kind, tmp_path / "run")
    analyze(tmp_path / "run", by=(), batches=1)
    with np.load(tmp_path / "run" / "test_rows.npz") as rows:
        for k, name in enumerate(str(name) for name in rows["tasks"]):
            np.testing.assert_array_equal(found[name].to_numpy(), rows["scores"][:, k])


def test_events_of_a_newer_dataset_need_no_new_version(
    history_feed: Path,
    history_child: Path,
    history_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    child = history_child / "data"
    model = tmp_path / "model"
    shutil.copytree(history_model, model)
    before = pq.read_table(model / "tables" / "liked" / "v1" / "table.parquet")
    assert main(["tables", str(model), "--dataset", str(child)]) == 0
    assert "liked: " in capsys.readouterr().out
    after = pq.read_table(model / "tables" / "liked" / "v2" / "table.parquet")
    newest = [max(max(times) for times in table["time"].to_pylist()) for table in (before, after)]
    assert newest[1] - newest[0] > 3_600_000
    assert max(map(len, after["time"].to_pylist())) == 4
    info = json.loads((model / "tables" / "liked" / "v2" / "table.json").read_text())
    assert info["as_of"] == "2022-04-21"
    # An export of the older dataset keeps them, and an older dataset is told apart.
    export_run(history_feed / "mean", model)
    assert not (model / "tables" / "liked" / "v3").exists()
    capsys.readouterr()
    assert main(["tables", str(model), "--tables", "liked", "--dataset", str(history_feed / "data")]) == 0
    assert "liked: events as of 2022-04-20 replace newer ones, as of 2022-04-21. Fix: " in capsys.readouterr().err
    assert main(["tables", str(model), "--tables", "liked"]) == 2
    assert "--dataset: missing; events (liked) are read from a dataset. Fix: give" in capsys.readouterr().err


def test_events_of_another_history_are_refused(
    history_feed: Path, history_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(history_feed / "data", tmp_path / "data")
    prep = (tmp_path / "data" / "prep.toml").read_text()
    (tmp_path / "data" / "prep.toml").write_text(re.sub('where = "is_like = 1"', 'where = "is_click = 1"', prep))
    success = json.loads((tmp_path / "data" / "_SUCCESS").read_text())
    success["files"].pop("prep.toml")
    (tmp_path / "data" / "_SUCCESS").write_text(json.dumps(success))
    assert main(["tables", str(history_model), "--tables", "liked", "--dataset", str(tmp_path / "data")]) == 2
    assert "has no history 'liked' like that of the model" in capsys.readouterr().err
    assert TASKS[0] == "like"
