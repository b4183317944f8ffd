"""Predictions of a dataset directory: those of evaluation, in order; what does not fit the run is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.analysis.analyze import analyze
from ple_rec.cli import main
from ple_rec.config.fusion import FusionConfig, LengthConfig, LogTransform, TaskFusionConfig
from ple_rec.config.load import dump_toml, load_schema
from ple_rec.inference.model_dir import new_version
from ple_rec.ranking.fusion import compute_factors, exponent_array
from tests.inference.feed import TASKS, predict, raw, same
from tests.training.small import write_unrelated

FUSION = FusionConfig(
    tasks={"like": TaskFusionConfig(exponent=2.0), "watch": TaskFusionConfig(exponent=0.5, link="sigmoid")},
    length=LengthConfig(feature="minutes", transform=LogTransform(kind="log"), missing=3.0, exponent=-0.5),
)


def test_predictions_are_the_scores_of_evaluation_bit_for_bit(feed: Path, tmp_path: Path) -> None:
    found = predict(feed, tmp_path / "out")
    shutil.copytree(feed / "run", tmp_path / "run")
    analyze(tmp_path / "run", by=(), batches=1)
    with np.load(tmp_path / "run" / "test_rows.npz") as rows:
        names = [str(name) for name in rows["tasks"]]
        for k, name in enumerate(names):
            np.testing.assert_array_equal(found[name].to_numpy(), rows["scores"][:, k])
        np.testing.assert_array_equal(found["group"].to_numpy(), rows["group"])
    part = pq.read_table(next((feed / "data" / "test").glob("*.parquet")))
    assert found["video_id"].equals(part["video_id"])
    assert found.schema.field("like").type == pa.float32()
    assert found.schema.field("score").type == pa.float64()
    logs = np.log(np.clip(np.stack([found[name].to_numpy() for name in names]).astype(np.float64), 1e-6, 1)).sum(0)
    np.testing.assert_allclose(found["score"].to_numpy(), logs, rtol=1e-12)


def test_another_batch_size_gives_the_same_up_to_rounding(feed: Path, tmp_path: Path) -> None:
    one, other = predict(feed, tmp_path / "one"), predict(feed, tmp_path / "other", "--batch-size", "1000")
    for name in TASKS:
        np.testing.assert_allclose(one[name].to_numpy(), other[name].to_numpy(), rtol=0, atol=1e-6)


def test_several_splits_stand_one_after_the_other(feed: Path, tmp_path: Path) -> None:
    both = predict(feed, tmp_path / "both", "--split", "valid", "test", "--part-rows", "30", "--ids", "label_like")
    splits = load_schema(feed / "data").splits
    assert both["split"].to_pylist() == ["valid"] * splits["valid"].rows + ["test"] * splits["test"].rows
    test = predict(feed, tmp_path / "test")
    assert same(both.slice(splits["valid"].rows), test)
    part = pq.read_table(next((feed / "data" / "test").glob("*.parquet")))
    assert both["label_like"].slice(splits["valid"].rows).combine_chunks().equals(part["label_like"].combine_chunks())


def test_no_column_has_to_be_carried_along(feed: Path, tmp_path: Path) -> None:
    assert predict(feed, tmp_path / "group", "--ids").column_names == ["group", *TASKS]
    assert predict(feed, tmp_path / "none", "--ids", "--no-group").column_names == TASKS


def test_the_score_is_that_of_the_fusion_that_is_given(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fusion.toml"
    file.write_text(dump_toml(FUSION))
    found = predict(feed, tmp_path / "out", "--fusion", str(file), "--ids", "minutes", "--json")
    record = json.loads(capsys.readouterr().out)
    length = found["minutes"].to_numpy(zero_copy_only=False).astype(np.float64)
    assert np.isnan(length).any()
    predictions = {name: found[name].to_numpy().astype(np.float64) for name in ("like", "watch")}
    factors = compute_factors(FUSION, {"like": "binary", "watch": "regression"}, predictions, length)
    np.testing.assert_allclose(found["score"].to_numpy(), factors.scores(exponent_array(FUSION)[None])[0], rtol=1e-12)
    assert record["clipped"] == pytest.approx(dict(factors.clipped))
    assert record["rows"] == len(found) == record["rows_predicted_now"]
    assert record["already_there"] is False


@pytest.mark.parametrize(("exponent", "told"), [(0.0, []), (0.5, ["watch 100.00%"]), (-0.5, ["watch 100.00%"])])
def test_a_factor_that_the_score_does_not_use_is_not_told(
    feed: Path, tmp_path: Path, exponent: float, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file, tiny = tmp_path / "fusion.toml", 1e-9  # every prediction is far from 0 in this unit
    file.write_text(f"[tasks.like]\nexponent = 1.0\n[tasks.watch]\nexponent = {exponent}\nscale = {tiny}\n")
    predict(feed, tmp_path / "out", "--fusion", str(file))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "at a bound" in line]
    assert [" ".join(line[3:5]) for line in lines] == told
    clipped = json.loads((tmp_path / "out" / "_SUCCESS").read_text())["clipped"]
    assert clipped == {"like": 0.0} | ({"watch": 1.0} if told else {})


def test_a_run_that_was_fused_is_scored_by_its_own_fusion(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(feed / "run", tmp_path / "run")
    (tmp_path / "run" / "fusion").mkdir()
    (tmp_path / "run" / "fusion" / "fusion.toml").write_text(dump_toml(FUSION))
    found = predict(tmp_path, tmp_path / "out")
    in_force = f"{tmp_path / 'run' / 'fusion' / 'fusion.toml'}; exponents like 2, watch 0.5, length -0.5"
    assert f"  score       {in_force}" in capsys.readouterr().out.splitlines()
    assert not found["score"].equals(predict(feed, tmp_path / "plain", "--json")["score"])
    assert json.loads(capsys.readouterr().out)["fused_by"] == "every exponent 1: the run has no fusion"


@pytest.mark.parametrize(
    ("argv", "message", "code"),
    [
        (["--ids", "grup"], '--ids: got "grup"; ', 2),
        (["--fusion", "none.toml"], "--fusion: none.toml is no file; the option names a fusion.toml", 2),
        (["--fusion", "{folder}/other.toml"], "other.toml: tasks.share: no task of the model; it has like, watch", 2),
        (["--checkpoint", "step-5"], "no checkpoint 'step-5'; there are best, latest, step-3, step-6", 2),
        (["--set", "model.dim=2"], "model.dim: unknown key; did you mean `embeddings.dim`?", 2),
        (["--data", "{folder}/other"], "other vocabularies would make its ids mean something else", 2),
        (["--data", "{folder}/unrelated"], "/unrelated: is dataset ", 2),
        (["--data", "{data}/test"], 'data", and --split "test"\n', 2),
        (["--data", "{data}/valid/*.parquet"], "is a split of a prepared dataset, or lies in one; ", 2),
        (["--all-rows"], "--all-rows: the input is a dataset directory; raw logs take it", 2),
        (["--ids", "like"], '--ids: got "like"; ', 2),
    ],
)
def test_what_does_not_fit_the_run_is_refused(
    feed: Path, tmp_path: Path, argv: list[str], message: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.toml").write_text("[tasks.share]\nexponent = 1.0\n")
    if "{folder}/unrelated" in argv:
        write_unrelated(tmp_path / "unrelated")
    if "{folder}/other" in argv:
        shutil.copytree(feed / "data", tmp_path / "other")
        fingerprint = load_schema(feed / "data").fingerprint
        schema = tmp_path / "other" / "schema.toml"
        schema.write_text(schema.read_text().replace(fingerprint, "0" * len(fingerprint)))
        (tmp_path / "other/_SUCCESS").write_text("")
        for split in ("train", "valid", "test"):
            for part in (tmp_path / "other" / split).glob("*.parquet"):
                table = pq.read_table(part)
                pq.write_table(table.replace_schema_metadata({"ple_rec.fingerprint": "0" * len(fingerprint)}), part)
    predict(feed, tmp_path / "out", *(word.format(folder=tmp_path, data=feed / "data") for word in argv), code=code)
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_dataset_that_descends_from_the_runs_is_predicted(feed: Path, tmp_path: Path) -> None:
    """As `ple-rec prep --append` makes them: raw logs and its parts give the same, by its vocabularies."""
    other = tmp_path / "other"
    shutil.copytree(feed / "data", other)
    found = raw(feed, tmp_path / "raw", feed / "raw" / "log" / "day 4.parquet", "--set", f"data.path={other}")
    assert same(found, predict(feed, tmp_path / "out", "--data", str(other)))


def test_a_model_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with new_version(tmp_path / "m") as version:
        (version / "model.json").write_text('{"name": "tiny"}')
    for model in (tmp_path / "m", tmp_path / "m" / "versions" / "v1"):
        assert main(["predict", str(model), "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert f"{model}: is an exported model; this command needs the trained run, from which the model was" in said
        assert 'its configuration has the name "tiny"' in said
    assert not (tmp_path / "out").exists()
