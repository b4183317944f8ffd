"""An export says what the trained run said, holds what it needs, and refuses what it cannot be."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from numpy.typing import NDArray

from ple_rec.analysis.finished import load_finished_run
from ple_rec.analysis.fuse.rows import load_fusible_run, predict_splits
from ple_rec.cli import main
from ple_rec.config.base import Split
from ple_rec.config.fusion import FusionConfig, TaskFusionConfig
from ple_rec.config.load import load_config
from ple_rec.errors import UserError
from ple_rec.inference import program
from ple_rec.inference.export import _fusion_text, export
from ple_rec.inference.export_check import TaskCheck, compare_scores
from ple_rec.inference.export_options import ExportOptions
from ple_rec.inference.held_out import RawHeldOutRows
from ple_rec.inference.model_dir import version_names
from ple_rec.inference.ranker import Ranker, latest_version
from ple_rec.training.run import train
from ple_rec.training.trained import single_process_config
from tests.analysis.trained import train_tiny
from tests.inference.exported import export_run
from tests.inference.feed import FIRST_USER, train_feed
from tests.reports.without_charts import without_charts
from tests.training.small import small_config, write_small

ROUNDING = 2e-7  # of a score in fp32: sums in another order
LET_THROUGH = ["--auc-loss", "1"]  # of a hundred rows, one pair that changes places is .001


def described(model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((latest_version(model) / "model.json").read_text())
    return found


def evaluated(run: Path) -> NDArray[np.float32]:
    """Scores of the test split by the run's best checkpoint, in the order of its rows."""
    rows = predict_splits(load_fusible_run(run), ["test"], None).rows["test"]
    return np.stack([rows.predictions[name] for name in ("like", "watch")], axis=1).astype(np.float32)


def of_examples(ranker: Ranker) -> list[NDArray[np.float32]]:
    """Predictions of every example, its items in the order in which they were shown."""
    found = []
    for example, answer in zip(
        ranker.examples, ranker.answer([ranker.read_rank(e["request"]) for e in ranker.examples]), strict=True
    ):
        items = sorted(answer["items"], key=lambda item: int(item["index"]))
        assert len(items) == len(example["labels"])
        found.append(np.array([[*item["predictions"].values()] for item in items], np.float32))
    return found


def place_in(scores: NDArray[np.float32], part: NDArray[np.float32], tolerance: float) -> int | None:
    """From which row on `part` stands in `scores`."""
    for begin in range(len(scores) - len(part) + 1):
        if (np.abs(scores[begin : begin + len(part)] - part) <= tolerance).all():
            return begin
    return None


def test_scores_are_those_of_the_run(feed: Path, feed_model: Path) -> None:
    check = described(feed_model)["card"]["check"]
    assert check["rows"] == len(evaluated(feed / "run"))
    assert max(task["largest"] for task in check["tasks"].values()) <= ROUNDING
    assert check["user_once"] < 1e-6


def test_examples_read_back_as_the_rows_of_the_test_split(feed: Path, ranker: Ranker) -> None:
    scores = evaluated(feed / "run")
    found = [place_in(scores, part, 1e-6) for part in of_examples(ranker)]
    places = [place for place in found if place is not None]
    assert len(places) == len(found) > 3
    assert places == sorted(set(places))  # another list each, in the order of the split


@pytest.mark.parametrize(("argv", "lists"), [((), 0), (("--examples", "2"), 2), (("--examples", "1000"), None)])
@pytest.mark.usefixtures("same_program")
def test_rows_of_users_are_written_where_they_are_asked_for(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], lists: int | None
) -> None:
    assert main(["export", str(feed / "run"), "--out", str(tmp_path / "m"), *argv]) == 0
    version, said = latest_version(tmp_path / "m"), capsys.readouterr().out
    ranker, card = Ranker(version, threads=1), (version / "MODEL_CARD.md").read_text()
    assert described(tmp_path / "m")["card"]["check"]["user_once"] < 1e-6  # by such rows, written or not
    if lists == 0:
        assert not (version / "examples.json").exists()
        assert ranker.examples == []
        assert "\n- Examples: none; this folder has no rows of users\n" in card
        assert "examples.json" not in said
        texts = [file.read_text() for file in version.iterdir() if file.suffix in (".json", ".toml", ".md")]
        assert not any(str(FIRST_USER)[:-1] in text for text in texts)
    else:
        found = ranker.examples
        assert len(found) == lists or (lists is None and len(found) > 3)
        rows = sum(len(each["labels"]) for each in found)
        told = f"{rows} held-out rows of real users"
        assert f"- Examples: examples.json has {told} (--examples {len(found)})\n" in card
        assert f"examples.json: {told}, in {len(found)} lists\n" in said


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
@pytest.mark.usefixtures("same_program")
def test_coarser_tables_are_checked_against_the_run(feed: Path, tmp_path: Path, precision: str) -> None:
    export_run(feed / "run", tmp_path / "m", "--precision", precision, *LET_THROUGH)
    found = described(tmp_path / "m")
    differences = [task["largest"] for task in found["card"]["check"]["tasks"].values()]
    assert 0 < max(differences) <= found["card"]["check"]["tolerance"]
    assert {table["precision"] for table in found["tables"]} == {precision}
    scores = evaluated(feed / "run")
    parts = of_examples(Ranker(latest_version(tmp_path / "m"), threads=1))
    assert all(place_in(scores, part, max(differences) + 2e-5) is not None for part in parts)  # 2e-5: fp32's rounding


@pytest.mark.usefixtures("same_program")
def test_matrix_products_in_bf16_are_checked_and_told(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(feed / "run", tmp_path / "m", "--dense", "bf16", *LET_THROUGH)
    found = described(tmp_path / "m")
    differences = [task["largest"] for task in found["card"]["check"]["tasks"].values()]
    assert 1e-5 < max(differences) <= found["card"]["check"]["tolerance"] == pytest.approx(0.05001)
    assert "Matrix products in bf16" in (latest_version(tmp_path / "m") / "MODEL_CARD.md").read_text()
    ranker = Ranker(latest_version(tmp_path / "m"), threads=1)
    assert ranker.dense_precision == "bf16"
    scores = evaluated(feed / "run")
    assert all(place_in(scores, part, 0.05) is not None for part in of_examples(ranker))
    capsys.readouterr()
    export_run(feed / "run", tmp_path / "m", "--dense", "bf16", "--tolerance", "1e-9", *LET_THROUGH, code=2)
    error = capsys.readouterr().err
    assert "export in fp32, dense layers in bf16, task" in error
    assert "leave --dense bf16 out, or allow it by --tolerance" in error


@pytest.mark.usefixtures("same_program")
def test_auto_is_left_to_the_machine_that_serves(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(feed / "run", tmp_path / "m", "--dense", "auto", *LET_THROUGH)
    told = "bf16 if the serving machine is clearly faster in it, else fp32 (auto)"
    assert f"matrix products: {told}\n" in capsys.readouterr().out
    card = (latest_version(tmp_path / "m") / "MODEL_CARD.md").read_text()
    assert f"- Matrix products in {told}\n" in card
    check = described(tmp_path / "m")["card"]["check"]
    assert (check["dense"], check["tolerance"]) == ("bf16", pytest.approx(0.05001))
    assert max(task["largest"] for task in check["tasks"].values()) > 1e-5
    largest = max(task["largest"] for task in check["fp32"]["tasks"].values())
    assert largest <= ROUNDING  # 0 where the program's products happen to sum as the run's
    assert f"In fp32 a score may differ by 1e-05, and the largest difference is {largest:.2g}." in card
    scores = evaluated(feed / "run")
    for took, used, within in ((1.0, "bf16", 0.05), (1.9, "fp32", 1e-6)):
        monkeypatch.setattr(program, "_TIMES_BY_ARCHITECTURE", {})
        monkeypatch.setattr(program, "_time_requests", lambda _, took=took: {"fp32": 2.0, "bf16": took})
        ranker = Ranker(latest_version(tmp_path / "m"), threads=1)
        assert ranker.dense_precision == used
        assert all(place_in(scores, part, within) is not None for part in of_examples(ranker))
    again = Ranker(latest_version(tmp_path / "m"), threads=1)  # of the same architecture, so it is not timed again
    assert (again.dense_precision, again.dense_milliseconds) == ("fp32", {"fp32": 2.0, "bf16": 1.9})


@pytest.mark.usefixtures("same_program")
def test_auto_is_fp32_where_bf16_says_something_else(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(feed / "run", tmp_path / "m", "--dense", "auto", "--tolerance", "1e-6", *LET_THROUGH)
    found = described(tmp_path / "m")
    assert (found["dense"]["precision"], found["dense"]["asked"]) == ("fp32", "auto")
    assert (found["card"]["check"]["dense"], "fp32" in found["card"]["check"]) == ("fp32", False)
    told = "fp32; auto would allow bf16, but its check failed: export in fp32, dense layers in bf16, task"
    assert f"matrix products: {told}" in capsys.readouterr().out
    assert "at most 1e-06 is allowed (--tolerance" in (latest_version(tmp_path / "m") / "MODEL_CARD.md").read_text()
    assert Ranker(latest_version(tmp_path / "m"), threads=1).dense_precision == "fp32"


@pytest.mark.usefixtures("same_program")
def test_the_model_itself_is_timed_in_both(feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_run(feed / "run", tmp_path / "m", "--dense", "auto", *LET_THROUGH)
    monkeypatch.setattr(program, "_TIMES_BY_ARCHITECTURE", {})
    ranker = Ranker(latest_version(tmp_path / "m"), threads=1)
    took = ranker.dense_milliseconds
    assert 0 < min(took.values()) <= max(took.values()) < math.inf
    assert ranker.dense_precision == ("bf16" if took["fp32"] >= 1.3 * took["bf16"] else "fp32")


def test_an_export_from_before_dense_precisions_is_served_in_fp32(feed_model: Path, tmp_path: Path) -> None:
    old = shutil.copytree(latest_version(feed_model), tmp_path / "v1")
    model = json.loads((old / "model.json").read_text())
    del model["dense"]
    (old / "model.json").write_text(json.dumps(model))
    assert Ranker(old, threads=1, checked=True).dense_precision == "fp32"


@pytest.mark.usefixtures("same_program")
def test_a_score_that_differs_too_much_is_refused(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(feed / "run", tmp_path / "m", "--precision", "int4", "--tolerance", "1e-9", code=2)
    error = capsys.readouterr().err
    assert "export in int4, task" in error
    assert "choose a finer --precision, or allow it by --tolerance" in error
    assert not version_names(tmp_path / "m")


@pytest.mark.usefixtures("same_program")
def test_nothing_is_let_through_by_0(feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_run(feed / "run", tmp_path / "exact", "--tolerance", str(ROUNDING), "--auc-loss", "0")
    check = described(tmp_path / "exact")["card"]["check"]
    assert (check["tolerance"], check["auc_loss"]) == (ROUNDING, 0.0)
    export_run(feed / "run", tmp_path / "m", "--precision", "fp16", "--tolerance", "0", *LET_THROUGH, code=2)
    assert "at most 0 is allowed" in capsys.readouterr().err
    assert not version_names(tmp_path / "m")


@pytest.mark.parametrize(("bound", "loss"), [((), 2e-6), (("--auc-loss", "0"), 1e-9), (("--auc-loss", "0.2"), 0.25)])
@pytest.mark.usefixtures("same_program")
def test_auc_that_is_lost_is_refused_and_nothing_serves(
    feed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bound: tuple[str, ...],
    loss: float,
) -> None:
    def worse(*args: Any) -> dict[str, TaskCheck]:
        found = compare_scores(*args)
        return found | {"like": replace(found["like"], auc_loss=loss, auc_step=None)}

    monkeypatch.setattr("ple_rec.inference.export_check.compare_scores", worse)
    export_run(feed / "run", tmp_path / "m", *bound, code=2)
    error = capsys.readouterr().err
    most = f"{float(bound[1]) if bound else 1e-6:g}"
    assert f"export in fp32, task like: {loss:.2g} of AUC is lost; a loss of at most {most} is allowed" in error
    assert f"or allow it by --auc-loss {loss * 1.1:.2g}" in error
    assert not any((tmp_path / "m/versions").iterdir())
    with pytest.raises(UserError, match="has no file latest"):
        latest_version(tmp_path / "m")


@pytest.mark.parametrize("flag", ["--tolerance", "--auc-loss"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "a"])
def test_a_bound_is_finite_and_not_negative(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    export_run(feed / "run", tmp_path / "m", f"{flag}={value}", code=2)
    assert f"ple-rec: {flag}: got '{value}'; expected a finite number of 0 or more" in capsys.readouterr().err


@pytest.mark.usefixtures("same_program")
def test_a_caller_may_refuse_a_version_after_its_check(feed: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def refuse(ranker: Ranker, raw: RawHeldOutRows) -> None:
        rows_N = np.arange(len(raw.rows))
        scores_NK = ranker.score_rows([ranker.read_score({"rows": raw.columns(rows_N)})]).scores_BK
        calls.append((len(raw.rows), len(scores_NK)))
        raise UserError("gate", "worse than yesterday's", "a new model is no worse", "train again")

    config, metrics = load_finished_run(feed / "run", ())
    config = single_process_config(config, metrics)
    with pytest.raises(UserError, match="gate: worse than yesterday's"):
        export(config, metrics, feed / "run", tmp_path / "m", ExportOptions(), accept=refuse)
    ((held_out, scored),) = calls
    assert 0 < held_out == scored
    assert not version_names(tmp_path / "m")
    assert not (tmp_path / "m/latest").exists()


def test_the_signature_knows_the_user(ranker: Ranker) -> None:
    user = {each.name for each in ranker.signature.inputs_of("user")}
    assert "user_id" in user
    assert not user & {"video_id", "hour", "price", "price_bin", "history"}
    kinds = {each.name: (each.type, each.bag, each.weighted, each.dense) for each in ranker.signature.inputs}
    assert kinds["video_id"] == ("text", False, False, False)
    assert kinds["price_bin"] == ("number", False, False, False)
    assert kinds["price"] == ("number", False, False, True)
    assert kinds["tags"] == ("text", True, True, False)
    assert kinds["history"] == ("text", True, False, False)


@pytest.mark.usefixtures("same_program")
def test_the_user_can_be_named(feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_run(feed / "run", tmp_path / "m", "--user-features", "user_id", "price")
    assert [each.name for each in Ranker(latest_version(tmp_path / "m")).signature.inputs_of("user")] == [
        "user_id",
        "price",
    ]
    export_run(feed / "run", tmp_path / "m", "--user-features", "userid", code=2)
    said = capsys.readouterr().err
    assert '--user-features: got "userid"; features of the model: user_id' in said
    assert 'did you mean "user_id"?' in said


@pytest.mark.usefixtures("same_program")
def test_the_user_has_the_features_that_a_request_shared_in_training(feed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    changes = {"data": {"request_features": ["user_id"]}, "train": {"steps": 2, "evaluate_every": 2}}
    with without_charts():
        train(small_config(feed / "data", changes), run)
    # The program is that of another run, whose scores are of no matter here.
    export_run(run, tmp_path / "m", "--tolerance", "1", *LET_THROUGH)
    assert [each.name for each in Ranker(latest_version(tmp_path / "m")).signature.inputs_of("user")] == ["user_id"]


def of_model(ranker: Ranker, rows: int) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Arguments of the program, by the number of rows, and what the layers of the model make of them."""
    torch.manual_seed(rows)
    embedded, dense = torch.rand(rows, sum(ranker._model.widths_by_feature.values())), torch.rand(rows, 2)
    with torch.no_grad():
        logits, _ = ranker._model.score(torch.cat([embedded, ranker._model.normalise(dense)], dim=1))
    return (embedded, dense), torch.stack([logits[:, 0].sigmoid(), logits[:, 1]], dim=1)


def test_the_program_says_what_the_model_says(feed_model: Path, ranker: Ranker) -> None:
    program = torch.export.load(latest_version(feed_model) / "dense.pt2").module()
    for rows in (1, 2, 7):
        arguments, expected = of_model(ranker, rows)
        torch.testing.assert_close(program(*arguments)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_program_runs_without_this_package(feed_model: Path, ranker: Ranker, tmp_path: Path) -> None:
    arguments, expected = of_model(ranker, 7)
    torch.save(arguments, tmp_path / "arguments")
    code = (
        "import sys, torch\n"
        "program = torch.export.load(sys.argv[1]).module()\n"
        "torch.save(program(*torch.load('arguments'))[0], 'scores')\n"
        "assert not any(name.startswith(('ple_rec', 'torchrec', 'fbgemm')) for name in sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(latest_version(feed_model) / "dense.pt2")], check=True, cwd=tmp_path
    )
    torch.testing.assert_close(torch.load(tmp_path / "scores"), expected, rtol=1e-5, atol=1e-6)


def test_onnx_says_the_same(feed: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    export_run(feed / "run", tmp_path / "m", "--onnx")
    version = latest_version(tmp_path / "m")
    session = onnxruntime.InferenceSession(str(version / "dense.onnx"), providers=["CPUExecutionProvider"])
    program = torch.export.load(version / "dense.pt2").module()
    for rows in (1, 5):
        embedded = torch.rand(rows, session.get_inputs()[0].shape[1])
        dense = torch.rand(rows, session.get_inputs()[1].shape[1])
        dense[0, 0] = float("nan")
        (found,) = session.run(None, {"embedded": embedded.numpy(), "dense": dense.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), program(embedded, dense)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("same_program")
def test_a_fusion_travels_with_the_model(feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fusion.toml"
    file.write_text('[tasks.like]\nexponent = 2.0\n[tasks.watch]\nexponent = -0.5\nlink = "sigmoid"\n')
    export_run(feed / "run", tmp_path / "m", "--fusion", str(file))
    assert load_config(FusionConfig, latest_version(tmp_path / "m") / "fusion.toml") == load_config(FusionConfig, file)
    assert described(tmp_path / "m")["card"]["fusion"] == "given: fusion.toml; exponents like 2, watch -0.5"
    file.write_text("[tasks.nothing]\nexponent = 2.0\n")
    export_run(feed / "run", tmp_path / "m", "--fusion", str(file), code=2)
    assert "tasks.nothing: no task of the model" in capsys.readouterr().err
    assert version_names(tmp_path / "m") == ["v1"]


@pytest.mark.usefixtures("same_program")
def test_a_version_that_loses_the_fusion_of_the_last_one_says_so(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fusion.toml"
    file.write_text("[tasks.like]\nexponent = 0.5\n[tasks.watch]\nexponent = 2.0\n")
    kept = tmp_path / "m" / "versions" / "v1" / "fusion.toml"
    for argv, warns in (("--fusion", str(file)), False), ((), True), ((), False), (("--fusion", str(kept)), False):
        export_run(feed / "run", tmp_path / "m", *argv)
        said = capsys.readouterr().err.splitlines()[-1]
        assert ("has a fusion; in this version" in said) is warns
        assert said.startswith("warning: v1, the latest version so far, ") is (f"--fusion {kept}" in said) is warns


@pytest.mark.usefixtures("same_program")
def test_a_loss_of_the_fused_order_travels_with_the_model(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fusion.toml"
    file.write_text("[tasks.like]\nexponent = 2.0\n[tasks.watch]\nexponent = 0.0\n")
    value = {"value": 0.4, "gain": -0.021, "gain_interval": [-0.034, -0.009]}
    metrics = {"watch.mean@3": value, "like.ndcg@5": value | {"gain_interval": [-0.034, 0.001]}}
    record = {"exponents": {"like": 2.0, "watch": 0.0}, "told_on": "test", "metrics": metrics}
    file.with_name("fusion.json").write_text(json.dumps(record))
    export_run(feed / "run", tmp_path / "m", "--fusion", str(file))
    worse = "worse than before: watch.mean@3 -0.0210 (-0.0340 to -0.0090) on test"
    said = f"given: fusion.toml; exponents like 2, watch 0; {worse}"
    assert f"fusion: {said}" in capsys.readouterr().out.splitlines()
    assert f"- Fusion: {said}" in (latest_version(tmp_path / "m") / "MODEL_CARD.md").read_text().splitlines()


def test_a_model_without_lists_is_not_sent_to_fuse() -> None:
    fusion = FusionConfig(tasks={"like": TaskFusionConfig()})
    assert "`ple-rec fuse` needs lists (--by COLUMN)" in _fusion_text(fusion, None, ExportOptions(), group=None)
    said = "every exponent 1: the run has no fusion (`ple-rec fuse` searches for one)"
    assert _fusion_text(fusion, None, ExportOptions(), group="user") == said


@pytest.mark.usefixtures("same_program")
def test_the_card_is_for_people(feed: Path, tmp_path: Path) -> None:
    export_run(feed / "run", tmp_path / "m", "--licence", "CC BY 4.0", "--precision", "int8", *LET_THROUGH)
    card = (latest_version(tmp_path / "m") / "MODEL_CARD.md").read_text()
    of_like = [line.split(" | ")[2] for line in card.splitlines() if line.startswith("| test | like |")]
    assert of_like[:4] == ["auc", "gauc", "subgroup_gauc", "ne"]
    metrics = json.loads((feed / "run/metrics.json").read_text())
    assert "- Licence: CC BY 4.0" in card
    assert "(0.750 of fp32)" in card  # (4 + 8) of 16 bytes
    assert f"| test | like | auc | {metrics['test']['tasks']['like']['auc']:,.6g} |" in card
    assert metrics["config_fingerprint"][:16] in card


def test_a_run_in_bf16_is_served_in_fp32(feed: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(feed / "data")
    run = train_feed(tmp_path, precision="bf16")
    export_run(run, tmp_path / "m")
    check = described(tmp_path / "m")["card"]["check"]
    assert max(task["largest"] for task in check["tasks"].values()) <= ROUNDING
    bf16 = evaluated(run)
    for part in of_examples(Ranker(latest_version(tmp_path / "m"), threads=1)):
        assert place_in(bf16, part, 2e-2) is not None


def test_a_regression_in_large_units_does_not_refuse_the_other_tasks(tmp_path: Path) -> None:
    """In bf16, computing the user's share once rounds scores of each task by as much as its own are large."""

    def large(_: Split, table: pa.Table) -> pa.Table:
        at = table.column_names.index("watch_time")
        return table.set_column(at, "watch_time", pc.add(pc.multiply(table["watch_time"], 9_000.0), 30_000.0))

    write_small(tmp_path / "data", edit=large)
    run = train_tiny(tmp_path, {"train": {"steps": 18}, "dense_optimizer": {"kind": "adam", "learning_rate": 1.0}})
    export_run(run, tmp_path / "m", "--dense", "bf16", "--user-features", "user", "--tolerance", "1", *LET_THROUGH)
    assert np.concatenate(of_examples(Ranker(latest_version(tmp_path / "m"), threads=1)))[:, 1].mean() > 1e4
    assert described(tmp_path / "m")["card"]["check"]["tasks"]["click"]["largest"] < 0.05
