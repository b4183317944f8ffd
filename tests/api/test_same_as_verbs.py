"""A verb and a call of the API do the same: equal files, equal metrics, equal predictions bit for bit."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ple_rec
from ple_rec.cli import main
from tests.inference.feed import LAST, TOML, log_of, predict, raw

pytestmark = pytest.mark.usefixtures("no_charts")
MEASURED = ("samples_per_second",)  # of two runs, the time that they took


def metrics_of(run_dir: Path) -> dict[str, Any]:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    return {key: value for key, value in metrics.items() if key not in MEASURED}


def test_train(here: Path) -> None:
    overrides = ["--set", "train.epochs=2", "--set", "seed=5"]
    assert main(["train", "--config", "tiny.toml", "--run-dir", "runs/verb", *overrides]) == 0
    verb = ple_rec.load_run("verb")
    by_name = ple_rec.train("tiny.toml", run_dir="runs/name", overrides={"train.epochs": 2, "seed": 5})
    content = tomllib.loads(Path("tiny.toml").read_text()) | {"seed": 5}
    by_dict = ple_rec.train(content, run_dir="runs/dict", overrides=["train.epochs=2"])
    by_object = ple_rec.train(verb.config, run_dir="runs/object")
    predictions = verb.predict()
    for run in (by_name, by_dict, by_object):
        assert (run.path / "config.toml").read_text() == (verb.path / "config.toml").read_text()
        assert metrics_of(Path(str(run.path))) == metrics_of(Path(str(verb.path)))
        assert run.predict().equals(predictions)
        steps = [
            key for key in run.history.column_names if key not in (*MEASURED, "seconds", "eta_seconds", "data_wait")
        ]
        steps.remove("peak_bytes")
        assert run.history.select(steps).equals(verb.history.select(steps))
    assert dict(verb.metrics) == json.loads(Path("runs/verb/metrics.json").read_text())


def test_train_goes_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = ple_rec.train("tiny.toml", overrides={"train.epochs": 1})
    assert begun.path == Path("runs/tiny").absolute()
    with pytest.raises(
        ple_rec.UserError, match=r"already holds a run.* go on with resume=True, replace it with overwrite"
    ):
        ple_rec.train("tiny.toml")
    ple_rec.train("tiny.toml", resume="auto")
    assert "has finished, step 16: nothing is left to do" in capsys.readouterr().out
    longer = ple_rec.train("tiny.toml", resume=True, overrides={"train.epochs": 2})
    other = ple_rec.train("tiny.toml", run_dir="runs/other", init_from=longer, overrides={"train.epochs": 1})
    assert json.loads((other.path / "init_from.json").read_text())["checkpoint"] == "step-32"
    again = ple_rec.train("tiny.toml", run_dir="runs/other", init_from="tiny:latest", overwrite=True)
    assert json.loads((again.path / "init_from.json").read_text())["checkpoint"] == "step-32"


@pytest.mark.parametrize("split", ["valid", "train"])
def test_evaluate(feed: Path, split: Any, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = {"evaluation.slices": ["city"]}
    argv = ["evaluate", str(feed / "run"), "--split", split, "--json", "--set", 'evaluation.slices=["city"]']
    assert main(argv) == 0
    found = ple_rec.load_run(feed / "run").evaluate(split, overrides=overrides)
    assert dict(found) == json.loads(capsys.readouterr().out)
    assert found.splits == [split]


def test_predict_a_dataset(feed: Path, tmp_path: Path) -> None:
    run = ple_rec.load_run(feed / "run")
    verb = predict(feed, tmp_path / "test")
    assert run.predict().equals(verb)
    assert run.predict(ple_rec.open_dataset(feed / "data")).equals(verb)
    assert run.predict(feed / "data", "test", checkpoint="latest", batch_size=7).column_names == verb.column_names
    both = predict(feed, tmp_path / "both", "--split", "valid", "test", "--ids", "label_like")
    assert run.predict(split=["valid", "test"], ids=["label_like"]).equals(both)


def test_predict_raw_logs(feed: Path, tmp_path: Path) -> None:
    run, last = ple_rec.load_run(feed / "run"), log_of(feed, LAST)
    verb = raw(feed, tmp_path / "raw", last)
    assert run.predict(last, source=feed / "raw").equals(verb)
    table = pq.ParquetFile(last).read()
    frame = table.to_pandas(types_mapper={pa.int64(): pandas.Int64Dtype()}.get)  # ids that are missing make no floats
    for rows in (table, frame, table.to_pydict(), table.to_pylist()):
        assert run.predict(rows, source=feed / "raw").equals(verb)
    every = run.predict(table, source=feed / "raw", all_rows=True)
    assert len(every) == len(table) > len(verb)


def test_prepare(feed: Path, tmp_path: Path) -> None:
    (tmp_path / "feed.toml").write_text(TOML)
    source = str(feed / "raw")
    assert main(["prep", str(tmp_path / "feed.toml"), "--from", source, "--out", str(tmp_path / "verb")]) == 0
    ple_rec.prepare(tmp_path / "feed.toml", tmp_path / "path", source=source)
    dataset = ple_rec.prepare(tomllib.loads(TOML), tmp_path / "dict", source=feed / "raw")
    for file in sorted(path for path in (tmp_path / "verb").rglob("*") if path.is_file() and path.suffix != ".html"):
        name = file.relative_to(tmp_path / "verb")
        if name.parts[0] not in ("_SUCCESS", "stats.json") and "index" not in str(name):
            assert (tmp_path / "path" / name).read_bytes() == file.read_bytes(), name
            assert (tmp_path / "dict" / name).read_bytes() == file.read_bytes(), name
    again = ple_rec.prepare(tomllib.loads(TOML), tmp_path / "dict", source=feed / "raw")
    assert again.fingerprint == dataset.fingerprint
    with pytest.raises(ple_rec.UserError, match=r"holds a dataset of another configuration.*pass overwrite=True"):
        ple_rec.prepare(tomllib.loads(TOML), tmp_path / "dict", source=feed / "raw", overrides={"name": "other"})


def test_plan(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "plan",
        "--config",
        "tiny.toml",
        "--device",
        "h100",
        "--hosts",
        "2",
        "--rows",
        "user=1e6",
        "--samples",
        "5e6",
    ]
    assert main([*argv, "--json"]) == 0
    found = ple_rec.plan("tiny.toml", hosts=2, device="h100", rows={"user": 1_000_000}, samples=5_000_000)
    assert json.loads(found.content.model_dump_json(exclude_none=True)) == without_none(
        json.loads(capsys.readouterr().out)
    )
    assert main([*argv, "--out", "verb.json"]) == 0
    assert found.write("api.json").read_text() == Path("verb.json").read_text()
    assert Path("api.html").read_text() == Path("verb.html").read_text()
    capsys.readouterr()
    assert main(argv) == 0
    advice = "to train with so many rows, prepare the dataset with tables.user.capacity = 1000000 in its prep.toml"
    assert capsys.readouterr().out == f"{found!r}\n\n{advice}\n"
    assert f", bound by {found.bound} (" in repr(found)
    assert found.table()["table"].to_pylist() == ["user"]


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_none(part) for key, part in value.items() if part is not None}
    return [without_none(part) for part in value] if isinstance(value, list) else value


def test_a_run_is_sharded_by_a_plan_of_the_api(here: Path) -> None:
    plan = ple_rec.plan("tiny.toml", device="cpu")
    run = ple_rec.train("tiny.toml", plan=plan)
    assert (
        json.loads((run.path / "plan.json").read_text())["tables"][0]["sharding"] == plan.table()["sharding"][0].as_py()
    )


@pytest.mark.slow
def test_export(feed: Path, tmp_path: Path) -> None:
    assert main(["export", str(feed / "run"), "--out", str(tmp_path / "verb"), "--precision", "int8"]) == 0
    model = ple_rec.load_run(feed / "run").export(tmp_path / "api", precision="int8")
    verb = ple_rec.load_model(tmp_path / "verb")
    assert (model.name, model.version, model.path.name) == (verb.name, "v1", "v1")
    for file in sorted((verb.path / "tables").iterdir()):
        assert (model.path / "tables" / file.name).read_bytes() == file.read_bytes()
    described = [json.loads((each.path / "model.json").read_text()) for each in (model, verb)]
    for each in described:
        del each["card"]["created"]
    assert described[0] == described[1]
    rows = {"user_id": [7, 8], "video_id": ["v1", "v2"]}
    assert model.score(rows).equals(verb.score(rows))


@pytest.mark.slow
def test_export_a_delta_and_squash_it(feed: Path, tmp_path: Path) -> None:
    run, rows = ple_rec.load_run(feed / "run"), {"user_id": [7, 8], "video_id": ["v1", "v2"]}
    for name in ("verb", "api"):
        run.export(tmp_path / name, precision="int8", checkpoint="step-3", auc_loss=1)
    argv = ["export", str(feed / "run"), "--out", str(tmp_path / "verb"), "--precision", "int8", "--auc-loss", "1"]
    assert main([*argv, "--delta", "v1", "--delta-share", "1"]) == 0
    delta = run.export(tmp_path / "api", precision="int8", auc_loss=1, delta="v1", delta_share=1)
    assert delta.version == "v2"
    files = [path.relative_to(delta.path) for path in delta.path.glob("*/*.delta*")]
    assert files
    for file in files:
        assert (delta.path / file).read_bytes() == (tmp_path / "verb/versions/v2" / file).read_bytes()
    with pytest.raises(ple_rec.UserError, match="leave delta out; or allow it by delta_share="):
        run.export(tmp_path / "api", precision="int8", auc_loss=1, delta="v1", delta_share=0)
    whole = ple_rec.squash_version(tmp_path / "api", "v2")
    assert whole.version == "v3"
    assert whole.score(rows).equals(delta.score(rows))


@pytest.mark.slow
def test_compare(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.toml").write_text(
        'name = "two"\nseeds = 2\nmatch = "none"\n[variants.single_task]\nbase = "tiny.toml"\n'
        "overrides = ['model.variant=\"single_task\"', 'model.bottom=[4]']\n[variants.ple]\nbase = \"tiny.toml\"\n"
    )
    assert main(["compare", "--config", "two.toml", "--runs", "verb", "--json"]) == 0
    verb = json.loads(capsys.readouterr().out)
    found = ple_rec.compare(tomllib.loads(Path("two.toml").read_text()), runs="api")
    assert found.failed == []
    for results in (verb, found.results):
        for variant in results["variants"].values():
            del variant["cost"]
    assert found.results == verb
    again = ple_rec.compare("two.toml", runs="api", reuse=["verb/two"])  # nothing is left to train
    assert again.table().equals(found.table())
    assert set(found.table()["variant"].to_pylist()) == {"single_task", "ple"}
    assert "single_task" in found._repr_html_()
    assert found.report().path == Path("api/two/compare.html").absolute()
    shutil.rmtree("api")
