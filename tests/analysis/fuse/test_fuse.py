"""`ple-rec fuse` on a trained run: what it writes, where its predictions come from, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ple_rec.analysis.fuse.rows import load_fusible_run, predict_splits
from ple_rec.cli import main
from ple_rec.config.fusion import FusionConfig
from ple_rec.config.load import load_config
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.inference.fusion_lookup import find_fusion
from ple_rec.ranking.fusion import with_exponents
from ple_rec.ranking.losses import read_worsened_metrics
from ple_rec.reports.fusion.text import format_fusion
from ple_rec.training.checks import select_run_columns
from ple_rec.training.preflight import load_run_config
from tests.analysis.trained import train_tiny
from tests.training.small import write_small

SMALL = ["--grid", "32", "--trials", "16"]


def fuse(run: Path, out: Path, *argv: str) -> int:
    return main(["fuse", str(run), "--out", str(out), *SMALL, *argv])


@pytest.fixture(scope="module")
def fused(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fused") / "out"
    told = ["--tell", "click.gauc", "--length", "age:log", "--calibrate", "isotonic"]
    assert fuse(tiny_run, out, "--target", "click.ndcg@3", "--target", "watch.mean@2", *told) == 0
    return out


@pytest.fixture(scope="module")
def record(fused: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((fused / "fusion.json").read_text())
    return found


def test_the_fusion_reads_back_with_the_exponents_that_were_found(fused: Path, record: dict[str, Any]) -> None:
    fusion = load_config(FusionConfig, fused / "fusion.toml")
    assert fusion.length is not None
    found = {name: task.exponent for name, task in fusion.tasks.items()} | {"length": fusion.length.exponent}
    assert found == record["exponents"]
    assert list(found) == record["factors"] == ["click", "watch", "length"]
    click = fusion.tasks["click"].calibration
    assert click is not None
    assert click.kind == "isotonic"
    assert fusion.tasks["watch"].calibration is None  # a regression
    assert record["settings"] == 1 + 32 + 16


def test_the_record_tells_of_the_split_that_was_not_searched(record: dict[str, Any]) -> None:
    assert (record["searched_on"], record["told_on"]) == ("valid", "test")
    assert set(record["metrics"]) == {"click.ndcg@3", "watch.mean@2", "click.gauc"}
    for found in record["metrics"].values():
        assert found["interval"][0] <= found["value"] <= found["interval"][1]
        assert found["gain_interval"][0] <= found["gain"] <= found["gain_interval"][1]
    assert all(0 <= share <= 1 for share in record["kept_at_top"].values())
    assert record["scales_needed"] == {}  # no scale changes what is below 0
    first = [point["metrics"]["click.ndcg@3"] for point in record["front"]]
    assert first == sorted(first)
    assert record["constant"] == ["watch"]  # which so few steps have not brought above 0
    assert set(record["sensitivity"]) == {"click", "length"}


def test_the_page_has_every_part(fused: Path) -> None:
    page = (fused / "fusion.html").read_text()
    for anchor in ("metrics", "exponents", "front", "sensitivity"):
        assert f'id="{anchor}"' in page
    assert page.count("<svg") == 1 + 2 * 2  # the front; two targets over two exponents that move rows


def test_a_fusion_is_gone_on_from(fused: Path, tiny_run: Path, tmp_path: Path, record: dict[str, Any]) -> None:
    held = [word for name in record["factors"] for word in ("--exponent", f"{name}={record['exponents'][name]}")]
    again = ["--target", "click.ndcg@3", "--fusion", str(fused / "fusion.toml"), *held]
    assert fuse(tiny_run, tmp_path / "out", *again) == 0
    found = json.loads((tmp_path / "out" / "fusion.json").read_text())
    assert found["start"] == record["exponents"]
    assert found["metrics"]["click.ndcg@3"]["value"] == record["metrics"]["click.ndcg@3"]["value"]
    assert found["metrics"]["click.ndcg@3"]["gain"] == 0
    files = [folder / "fusion.toml" for folder in (tmp_path / "out", fused)]
    assert load_config(FusionConfig, files[0]) == load_config(FusionConfig, files[1])


def test_exponents_that_are_held_are_those_of_the_fusion(tiny_run: Path, tmp_path: Path) -> None:
    held = ["--exponent", "click=-1", "--exponent", "watch=0"]  # which puts first what is clicked least
    assert fuse(tiny_run, tmp_path / "out", "--target", "click.gauc", *held) == 0
    found = json.loads((tmp_path / "out" / "fusion.json").read_text())
    assert found["exponents"] == {"click": -1.0, "watch": 0.0}
    assert found["start"] == {"click": 1.0, "watch": 1.0}
    assert found["metrics"]["click.gauc"]["gain"] < 0


def test_a_task_that_is_left_out_counts_in_the_score_before(tiny_run: Path, tmp_path: Path) -> None:
    assert fuse(tiny_run, tmp_path / "out", "--target", "click.gauc", "--tasks", "click") == 0
    found = json.loads((tmp_path / "out" / "fusion.json").read_text())
    assert found["start"] == {"click": 1.0, "watch": 1.0}  # as export and predict have it without a fusion
    assert found["exponents"]["watch"] == 0.0


ALL_CLIPPED = """
[tasks.click]
exponent = 1.0
calibration = {kind = "isotonic", scores = [0.5], values = [0.0]}
[tasks.watch]
exponent = 1.0
link = "sigmoid"
"""


@pytest.mark.parametrize(("asked", "exponent"), [([], 0.0), (["--exponent", "click=0.5:2"], 0.5)])
def test_a_factor_that_is_at_a_bound_everywhere_is_not_searched(
    tiny_run: Path, tmp_path: Path, asked: list[str], exponent: float, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clipped.toml").write_text(ALL_CLIPPED)
    given = ["--target", "click.ndcg@3", "--fusion", str(tmp_path / "clipped.toml"), *asked]
    assert fuse(tiny_run, tmp_path / "out", *given) == 0
    said = (
        "click: at a bound in 100 % of the rows of valid; such a factor moves no row, so its exponent was not searched "
        f"and is {exponent:g}. Fix: leave it out by --tasks, or give a regression another link by --fusion"
    )
    out = capsys.readouterr().out.splitlines()
    assert out.count(said) == 1
    assert [line for line in out if line.startswith("click ")] == []  # of the table of exponents
    record = json.loads((tmp_path / "out" / "fusion.json").read_text())
    assert record["constant"] == ["click"]
    assert record["exponents"]["click"] == exponent
    assert set(record["sensitivity"]) == {"watch"}
    text = (tmp_path / "out" / "fusion.toml").read_text()
    assert text.startswith(f"# {said}\n")
    assert load_config(FusionConfig, tmp_path / "out" / "fusion.toml").tasks["click"].exponent == exponent
    page = (tmp_path / "out" / "fusion.html").read_text()
    assert ">click</th>" not in page
    assert "at a bound in 100 %" in page


def test_a_fusion_of_other_options_is_not_replaced_unasked(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, first = tmp_path / "out", ["--target", "click.ndcg@3"]

    def written() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in out.iterdir()}

    assert fuse(tiny_run, out, *first) == 0
    before = written()
    assert fuse(tiny_run, out, *first, "--json") == 0
    assert written() == before
    other = ["--target", "click.gauc", "--seed", "1"]
    assert fuse(tiny_run, out, *other) == 2
    assert capsys.readouterr().err.endswith(
        f"ple-rec: {out}: holds a fusion with another target, seed; only a fusion with the same options is "
        "replaced unasked. Fix: pass --overwrite, or give another --out\n"
    )
    assert written() == before
    assert fuse(tiny_run, out, *other, "--overwrite") == 0
    assert json.loads((out / "fusion.json").read_text())["targets"] == ["click.gauc"]
    (out / "fusion.json").unlink()  # as where a fusion.toml was written by hand
    assert fuse(tiny_run, out, *other) == 2
    assert f"{out}: holds a fusion with unknown options; " in capsys.readouterr().err


def test_a_significant_loss_is_said_and_belongs_to_its_exponents(
    fused: Path, record: dict[str, Any], tmp_path: Path
) -> None:
    assert "worse than before: " not in format_fusion(record)  # of 12 lists
    second = record["metrics"]["watch.mean@2"] | {"gain": -0.02, "gain_interval": [-0.03, -0.01]}
    lost = record | {"metrics": record["metrics"] | {"watch.mean@2": second}}
    loss = "watch.mean@2 -0.0200 (-0.0300 to -0.0100) on test"
    assert f"worse than before: {loss}" in format_fusion(lost).splitlines()
    (tmp_path / "fusion.json").write_text(json.dumps(lost))
    fusion = load_config(FusionConfig, fused / "fusion.toml")
    assert read_worsened_metrics(fusion, fused / "fusion.toml") == []
    assert read_worsened_metrics(fusion, tmp_path / "fusion.toml") == [loss]
    edited = with_exponents(fusion, np.array([1.0, 1.0, 1.0]))
    assert read_worsened_metrics(edited, tmp_path / "fusion.toml") == []


def test_a_constraint_that_only_the_search_keeps_is_said(record: dict[str, Any]) -> None:
    told = format_fusion(record)
    assert record["not_kept"] == []
    assert "constraints that hold on valid, not on test" not in told
    broken = format_fusion(record | {"not_kept": ["click.gauc >= 0.9"]})
    assert "constraints that hold on valid, not on test: click.gauc >= 0.9" in broken


def test_which_factors_are_at_a_bound_is_said(record: dict[str, Any]) -> None:
    assert "at a bound of" not in format_fusion(record | {"clipped": {"click": 0.0, "watch": 0.0}})
    found = record | {"clipped": {"click": 0.25, "watch": 1.0, "length": 0.5}}
    found["exponents"] = record["exponents"] | {"length": 0.0}
    told = format_fusion(found)  # watch is constant, and the length does not count
    said = "at a bound of a factor (p: 1e-6, or .999 and above; length: 1e-6): click 25.00% of the rows"
    assert said in told.splitlines()


def test_predictions_are_those_that_the_run_was_evaluated_by(tiny_run: Path) -> None:
    found = predict_splits(load_fusible_run(tiny_run), ["test"], None).rows["test"]
    tasks = json.loads((tiny_run / "metrics.json").read_text())["test"]["tasks"]
    p, y = found.predictions["click"], found.labels["click"]
    loss = np.average(-y * np.log(p) - (1 - y) * np.log1p(-p), weights=found.weights["click"])
    assert loss == pytest.approx(tasks["click"]["logloss"], abs=1e-6)
    error = found.predictions["watch"] - found.labels["watch"]
    assert np.average(error**2, weights=found.weights["watch"]) == pytest.approx(tasks["watch"]["mse"], abs=1e-6)
    assert (found.labels["watch"][found.weights["watch"] == 0] == 0).all()
    assert found.group_N is not None
    assert len(found.group_N) == len(p)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--target", "click.auc"], '--target: got "click.auc"; it is TASK.gauc, TASK.ndcg@K'),
        (["--target", "watch.gauc"], "gauc needs labels of 0 and 1"),
        (["--target", "click.gauc", "--tasks", "like"], '--tasks: got "like"; the run has click, watch'),
        (["--target", "click.gauc", "--length", "size"], '--length: got "size"'),
        (["--target", "click.gauc", "--length", "age:cube"], 'got f "cube"; f is identity, log, power, quantiles'),
        (["--target", "click.gauc", "--exponent", "like=1:2"], 'got "like"; the factors are click, watch'),
        (["--target", "click.gauc", "--fusion", "none.toml"], "--fusion: none.toml is no file; it must be a fusion"),
        (["--target", "click.gauc", "--fusion", "f", "--tasks", "click"], "--tasks: given beside --fusion; a file of"),
        (["--target", "click.gauc", "--install"], "--install: given with --out "),
        (["--target", "click.gauc", "--subject-to", "watch.mean@2>=9"], "none of 49 settings keeps this"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(
    tiny_run: Path, tmp_path: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fuse(tiny_run, tmp_path / "out", *argv) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("clik.gauc", '--target: got "clik.gauc"; the tasks are click, watch'),
        ("click.gauc", "has no group column; a fusion orders lists"),
    ],
)
def test_a_target_is_looked_at_before_what_makes_lists(
    tmp_path: Path, target: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_small(tmp_path / "data", group=False)
    assert fuse(train_tiny(tmp_path), tmp_path / "out", "--target", target) == 2
    assert message in capsys.readouterr().err


def test_a_fusion_without_a_gain_is_not_that_of_the_run(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    config, own = load_run_config(run), run / "fusion" / "fusion.toml"
    selection = select_run_columns(config, DatasetDirectory(config.data.path))
    same = ["fuse", str(run), "--target", "click.ndcg@3", "--exponent", "click=1", "--exponent", "watch=1", *SMALL]
    said = "not installed: no gain is shown, so export and predict go on with {}. Fix: pass --install to use these "

    assert main(same) == 0
    assert said.format("every exponent 1") in capsys.readouterr().out
    assert {file.name for file in own.parent.iterdir()} == {"fusion.json", "fusion.html"}
    assert find_fusion(run, None, selection)[1] is None
    assert main([*same, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["installed"] is False
    assert said.format("every exponent 1") in err

    assert main([*same, "--install"]) == 0
    assert f"fusion: {own}\n" in capsys.readouterr().out
    assert json.loads(own.with_name("fusion.json").read_text())["installed"] is True
    assert find_fusion(run, None, selection)[1] == own
    assert main(same) == 0  # what is in force stays in force
    assert said.format(f"the previous {own}") in capsys.readouterr().out
    assert own.is_file()

    start = tmp_path / "worst.toml"
    start.write_text("[tasks.click]\nexponent = -1.0\n[tasks.watch]\nexponent = 0.0\n")
    assert main(["fuse", str(run), "--target", "click.gauc", "--fusion", str(start), "--overwrite", *SMALL]) == 0
    assert load_config(FusionConfig, own).tasks["click"].exponent > 0


@pytest.mark.parametrize("few", [False, True])
def test_a_split_of_few_lists_is_said(
    tiny_run: Path, tmp_path: Path, few: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = 11  # of 12, one has no label
    monkeypatch.setattr("ple_rec.reports.fusion.text.FEW_LISTS", lists + few)
    assert fuse(tiny_run, tmp_path / "out", "--target", "click.ndcg@3") == 0
    warning = f"warning: fewer than {lists + few} lists of test have click.ndcg@3 ({lists}): such intervals say little"
    assert (warning in capsys.readouterr().out.splitlines()[-4:]) is few


def test_a_gain_whose_interval_holds_0_is_no_gain(record: dict[str, Any]) -> None:
    target = record["targets"][0]

    def told(low: float, high: float, start: float = 1.0) -> str:
        value = record["metrics"][target] | {"gain": -0.0166, "gain_interval": [low, high]}
        starts = dict.fromkeys(record["start"], start)
        return format_fusion(record | {"metrics": record["metrics"] | {target: value}, "start": starts})

    holds = f"no gain of {target} is shown: the interval of -0.0166 holds 0 (-0.0536 to +0.0211); "
    assert f"{holds}exponents 1 are as good" in told(-0.0536, 0.0211).splitlines()
    assert f"{holds}the exponents before are as good" in told(-0.0536, 0.0211, 0.5).splitlines()
    record = record | {"start_breaks": ["share.mean@3 >= 0.004"]}
    assert holds.removesuffix("; ") in told(-0.0536, 0.0211).splitlines()
    assert f"no gain of {target}" not in told(0.0001, 0.0211)
    assert f"no gain of {target}" not in told(-0.0536, -0.0001)


def test_the_lists_are_the_subgroups_of_a_dataset_that_has_them(tmp_path: Path) -> None:
    write_small(tmp_path / "data", subgroup=True)
    run = train_tiny(tmp_path)
    values = {}
    for name, by in (("default", ()), ("part", ("--by", "part")), ("request", ("--by", "request"))):
        assert fuse(run, tmp_path / name, "--target", "click.gauc", *by) == 0
        found = json.loads((tmp_path / name / "fusion.json").read_text())
        assert found["listed_by"] == ("request" if name == "request" else "part")
        assert found["resampled"] == "request"
        values[name] = found["metrics"]["click.gauc"]
    assert values["default"] == values["part"]
    assert values["default"]["value"] != values["request"]["value"]
