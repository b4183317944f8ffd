"""What calls give: embeddings, gates, the log, rankings; and what a notebook shows of it."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import ple_rec
from ple_rec.api.html import Page, block, line, shares_table, table
from ple_rec.api.results import Metrics, history_of
from ple_rec.data.encode import Encoder
from ple_rec.serve.ranker import Ranker
from ple_rec.train.trained import load_checkpoint, opened
from tests.reports.without_charts import without_charts

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.fixture(scope="module")
def run(feed: Path) -> ple_rec.Run:
    return ple_rec.load_run(feed / "run")


@pytest.fixture(scope="module")
def model(run: ple_rec.Run, tmp_path_factory: pytest.TempPathFactory) -> ple_rec.Model:
    return run.export(tmp_path_factory.mktemp("models") / "feed", examples=2)


@pytest.mark.parametrize("name", ["video_id", "history", "user_id", "city", "price_bin"])
def test_embeddings_are_the_rows_that_raw_ids_read(run: ple_rec.Run, name: str) -> None:
    ids, vectors = run.embeddings(name)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(ids), run.config.embeddings.dim)
    schema = run.dataset.schema
    feature = next(each for each in schema.sparse if each.name == name)
    with opened(run.config, run.path, "best") as job:
        load_checkpoint(job, run.path, "best")
        key = f"embeddings.embedding_bags.{feature.table}.weight"
        whole = torch.cat([each.tensor for each in job.model.state_dict()[key].local_shards()]).numpy()
    if name == "price_bin":
        rows = np.asarray(ids)
    else:
        values = pa.array([[each] for each in ids.to_pylist()]) if feature.bag else ids
        found = Encoder(run.dataset.path, [feature]).rows(name, values, "here")
        rows = np.asarray(found.flatten() if feature.bag else found)
    assert (rows == np.arange(1, len(ids) + 1)).all()
    np.testing.assert_array_equal(vectors, whole[rows])
    assert not np.shares_memory(vectors, whole)


def test_gates_are_those_of_the_evaluation(run: ple_rec.Run) -> None:
    found = run.gates("test").table().to_pandas()
    assert list(found.columns) == ["level", "output", "expert", "shared", "mean", "std"]
    sums = found.groupby(["level", "output"])["mean"].sum()
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)
    assert set(found["output"]) >= {"like", "watch"}
    train = run.gates("train")
    assert train.split == "train"
    assert len(train.table()) == len(found)
    assert "level 1, like: like.0 0." in repr(train)


def test_history_is_the_log(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    records: list[dict[str, Any]] = [
        {"split": "train", "step": 2, "loss": 0.5, "tasks": {"a": {"loss": 0.5, "auc": None, "curve": [1, 2]}}},
        {"split": "valid", "step": 2, "loss": 1, "best": True, "tasks": {"a": {"auc": 0.75}}},
    ]
    file.write_text("".join(json.dumps(each) + "\n" for each in records) + '{"split": "tr')
    assert history_of(file).to_pylist() == [
        {"split": "train", "step": 2, "loss": 0.5, "a.loss": 0.5, "a.auc": None, "best": None},
        {"split": "valid", "step": 2, "loss": 1.0, "a.loss": None, "a.auc": 0.75, "best": True},
    ]
    assert history_of(tmp_path / "none").to_pylist() == []


def test_metrics_are_a_mapping_and_a_table(run: ple_rec.Run) -> None:
    metrics = run.metrics
    assert list(metrics) == list(dict(metrics))
    assert len(metrics) == len(dict(metrics))
    rows = metrics.table().to_pylist()
    assert [(row["split"], row["task"]) for row in rows] == [
        ("valid", "like"),
        ("valid", "watch"),
        ("test", "like"),
        ("test", "watch"),
    ]
    assert rows[2]["auc"] == metrics["test"]["tasks"]["like"]["auc"]
    assert rows[3]["auc"] is None
    assert Metrics({}).table().num_rows == 0


def test_a_dataset_reads_its_rows(run: ple_rec.Run) -> None:
    dataset = run.dataset
    assert dataset.tasks == {"like": "binary", "watch": "regression"}
    for split, rows in dataset.rows.items():
        assert len(dataset.read(split)) == rows  # type: ignore[arg-type]
    chosen = dataset.read("test", ["label_like", "user_id"])
    assert chosen.column_names == ["label_like", "user_id"]
    part = next((dataset.path / "test").glob("*.parquet"))
    shutil.copytree(dataset.path, dataset.path.with_name("damaged"))
    damaged = ple_rec.open_dataset(dataset.path.with_name("damaged"))
    (damaged.path / "test" / part.name).write_bytes(b"PAR1")
    with pytest.raises(ple_rec.DataError, match="damaged/test: unreadable"):
        damaged.read("test")


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
            "items: video_id has 2 values, price has 1 values; columns are of one",
        ),
        ({"user_id": "seven"}, [{}], "user.user_id: got "),
    ],
)
def test_a_bad_request_is_told(model: ple_rec.Model, user: Any, items: Any, message: str) -> None:
    with pytest.raises(ple_rec.UserError, match=message):
        model.rank(user, items)
    with pytest.raises(ple_rec.UserError, match=r"exponents\.lik: got 2\.0"):
        model.rank({}, [{}], {"lik": 2.0})
    with pytest.raises(ple_rec.UserError, match="top: got 0; it is the number of wanted items"):
        model.rank({}, [{}], top=0)


def test_a_version_and_the_folder_of_versions_load(model: ple_rec.Model) -> None:
    for path in (model.path, model.path.parent.parent):
        assert repr(ple_rec.load_model(path)) == repr(model)
    assert model.card.startswith("# ")
    assert model.features["name"].to_pylist()[:2] == ["user_id", "video_id"]


def test_one_process_group_at_a_time(run: ple_rec.Run) -> None:
    with opened(run.config, run.path, "best"), pytest.raises(ple_rec.UserError, match="is in a process group of torch"):
        run.predict()
    assert len(run.predict()) == run.dataset.rows["test"]


def test_torch_is_as_it_was(run: ple_rec.Run, model: ple_rec.Model, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(9)
    expected = torch.get_rng_state()
    try:
        run.predict()
        ple_rec.plan(run.config, device="cpu")
        ple_rec.load_model(model.path)
        with without_charts():
            ple_rec.train(run.config, run_dir=tmp_path / "again", overrides={"train.steps": 1})
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_session_of_many_calls_keeps_nothing(here: Path) -> None:
    """Trainings one after the other, an error in between, models that come and go: threads, files and memory."""
    script = """
import gc, os, threading
import ple_rec
def state():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
    return pages, threading.active_count(), len(os.listdir("/proc/self/fd"))
seen = []
for i in range(6):
    overrides = {"embeddings.dim": 128, "runtime.threads": 2, "seed": i}
    run = ple_rec.train("tiny.toml", run_dir=f"runs/{i}", overrides=overrides)
    try:
        ple_rec.train("tiny.toml", run_dir=f"runs/{i}", overrides={"data.path": "nix"})
    except ple_rec.UserError:
        pass
    run.predict()
    model = run.export(f"models/{i}")
    model.score({"user": [1]})
    del run, model
    seen.append(state())
(early, *counts), (late, *others) = seen[1], seen[-1]
assert counts == others, seen
assert late < early + 40, seen
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class _Checker(HTMLParser):
    """Counts what is opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(html: str) -> str:
    checker = _Checker()
    checker.feed(html)
    assert checker.open == []
    return checker.text


def test_what_a_notebook_shows(
    run: ple_rec.Run, model: ple_rec.Model, feed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(feed)
    plan = ple_rec.plan(run.config, device="h100")
    shown = {
        "finished": run,
        "mean, train": run.dataset,
        "checkpoint step-": run.metrics,
        "mean weight of each expert on test": run.gates(),
        "differs from its run": model,
        "bound by": plan,
    }
    for words, value in shown.items():
        html = value._repr_html_()  # type: ignore[attr-defined]
        assert words in checked(html)
        assert len(html) < 20_000
        assert "<script" not in html
        assert repr(value)


def test_what_comes_from_data_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert('x')</script>"
    html = block(line(bad, bad), table([bad], [[bad]], bad), shares_table([bad], [(bad, [0.5, None])], bad))
    assert "<script" not in html
    assert checked(html).count(bad) == 8
    file = tmp_path / "page.html"
    file.write_text('<p title="a">"quoted" & <b>bold</b></p>')
    frame = Page(file)._repr_html_()
    assert 'srcdoc="&lt;p title=&quot;a&quot;&gt;&quot;quoted&quot; &amp;amp;' not in frame
    assert frame.count("<") == 2
    assert repr(Page(file)) == f"Page({str(file)!r})"
    assert Path(Page(file)) == file


def test_no_thread_is_left(model: ple_rec.Model) -> None:
    before = threading.active_count()
    for _ in range(3):
        other = ple_rec.load_model(model.path)
        other.score({"user_id": list(range(300))})
        del other
    gc.collect()
    assert threading.active_count() == before
