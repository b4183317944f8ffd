"""What calls give: embeddings, gates, the log, rankings; and what a notebook shows of it."""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import ple_rec
from ple_rec.api.html import Page, block, line, shares_table, table
from ple_rec.api.results import Metrics, history_of
from ple_rec.api.torch_state import torch_undisturbed
from ple_rec.config.run import RunConfig
from ple_rec.data.encode import Encoder
from ple_rec.serve.ranker import Ranker
from ple_rec.training.trained import load_checkpoint, opened
from tests.reports.without_charts import without_charts
from tests.serve.page.browser import Browser
from tests.tiny import write_tiny

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
    assert ranked.sort_by("index")["score"].equals(model.score(as_dicts)["score"])
    with pytest.raises(ple_rec.UserError, match=r"rows\.history\[0\].*: got 1,001 values; at most 1,000"):
        model.score({"history": [["a"] * 1001]})


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
    with pytest.raises(ple_rec.UserError, match=r"rows: got '\\ud800'; texts are Unicode"):
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
    with pytest.raises(ple_rec.UserError, match=r"top: got 0 \(int\); it is a whole number from 1 on"):
        model.rank({}, [{}], top=0)


def test_a_version_and_the_folder_of_versions_load(model: ple_rec.Model) -> None:
    for path in (model.path, model.path.parent.parent):
        assert repr(ple_rec.load_model(path)) == repr(model)
    assert model.card.startswith("# ")
    assert model.features["name"].to_pylist()[:2] == ["user_id", "video_id"]


def test_one_call_at_a_time_and_models_beside_it(run: ple_rec.Run, model: ple_rec.Model) -> None:
    with torch_undisturbed():
        with ThreadPoolExecutor() as pool:
            for call in (
                run.predict,
                lambda: ple_rec.load_model(model.path),
                lambda: ple_rec.plan(run.config, device="cpu"),
            ):
                with pytest.raises(ple_rec.UserError, match="a call of ple_rec runs in another thread") as caught:
                    pool.submit(call).result(60)
                assert caught.value.fix == "wait for it, or use another process"
            assert len(pool.submit(model.score, {"user_id": [7]}).result(60)) == 1
        assert len(ple_rec.load_model(model.path).score({"user_id": [7]})) == 1  # the thread that is inside goes on
    assert len(run.predict()) == run.dataset.rows["test"]


def test_one_thread_imports_torch_and_what_that_leaves_in_the_process_goes() -> None:
    script = """
import logging, sys, threading, ple_rec
from ple_rec.api.torch_state import torch_undisturbed
def mine(*error): ...
sys.excepthook = mine
logging.basicConfig(format="mine %(message)s")
before = logging.root.handlers[:]
errors = []
def call(begun=threading.Barrier(2)):
    begun.wait()
    try:
        with torch_undisturbed():
            import ple_rec.training.run as _
            logging.root.addHandler(logging.NullHandler())
    except ple_rec.UserError as error:
        errors.append(error.value)
threads = [threading.Thread(target=call) for _ in range(2)]
[each.start() for each in threads]
[each.join() for each in threads]
assert errors == ["a call of ple_rec runs in another thread"], errors
assert (sys.excepthook, logging.root.handlers) == (mine, before)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_paths_hold_when_the_working_directory_changes(feed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(feed)
    run, dataset = ple_rec.load_run("run"), ple_rec.open_dataset("data")
    assert (run.path, dataset.path) == (feed / "run", feed / "data")
    assert repr(run).startswith("Run('run': finished)")
    assert repr(dataset).startswith("Dataset('data': ")
    page = run.report()
    monkeypatch.chdir(feed / "raw")
    assert repr(run).startswith(f"Run({str(run.path)!r}: finished)")
    assert len(run.history) > 0
    assert dataset.read("test").num_rows == dataset.rows["test"]
    assert page._repr_html_()


def test_a_run_whose_directory_is_gone_or_damaged(run: ple_rec.Run, tmp_path: Path) -> None:
    other = ple_rec.Run(shutil.copytree(run.path, tmp_path / "run"))
    (other.path / "metrics.json").write_text('{"test"')
    assert repr(other) == f"Run({str(other.path)!r}: finished, but metrics.json is damaged)"
    assert "metrics.json is damaged" in other._repr_html_()
    with pytest.raises(ple_rec.DataError, match=r"metrics\.json: damaged; it is JSON\. Fix: call `run\.evaluate"):
        _ = other.metrics
    assert other.evaluate("valid")["valid"]
    shutil.rmtree(other.path)
    assert "its directory is gone" in repr(other)
    assert "its directory is gone" in other._repr_html_()
    for read in (lambda: other.status, lambda: other.history, lambda: other.metrics):
        with pytest.raises(ple_rec.UserError, match="no such directory"):
            read()


def test_another_dataset_in_the_place_of_the_runs(
    run: ple_rec.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path)
    monkeypatch.setattr(ple_rec.Run, "config", replaced_path(run.config, tmp_path / "data"))
    for call in (lambda: run.dataset, lambda: run.embeddings("user_id")):
        with pytest.raises(ple_rec.UserError, match=r"is dataset .* was trained on dataset"):
            call()


def replaced_path(config: RunConfig, path: Path) -> RunConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(path)})})


def test_a_split_without_files_is_damaged(run: ple_rec.Run, tmp_path: Path) -> None:
    copy = ple_rec.open_dataset(shutil.copytree(run.dataset.path, tmp_path / "data"))
    shutil.rmtree(copy.path / "valid")
    with pytest.raises(ple_rec.DataError, match="valid: no Parquet files"):
        copy.read("valid")


@pytest.mark.parametrize("name", ["123", "true", "[1]", 'a"b', "it's"])
def test_a_folder_may_have_any_name(
    run: ple_rec.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).symlink_to(run.dataset.path)
    monkeypatch.chdir(tmp_path)
    assert run.predict(name).equals(run.predict())


def test_links_of_a_page_stay_in_its_frame(run: ple_rec.Run, browser: Browser, tmp_path: Path) -> None:
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<title>notebook</title>{run.report()._repr_html_()}")
    with browser.tab(notebook.as_uri()) as tab:
        frame = "document.querySelector('iframe').contentDocument"
        tab.wait(f"{frame}?.querySelector('a[href^=\"#\"]') !== null")
        tab.evaluate(f"{frame}.querySelector('a[href^=\"#\"]').click()")
        tab.settle()
        assert tab.evaluate(f"{frame}.title") != "notebook"
        assert tab.evaluate(f"{frame}.querySelectorAll('table').length") > 0
        assert tab.complaints() == []


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
        assert " >" not in html
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
