"""`ple-rec fuse` on a trained run: what it writes, where its predictions come from, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ple_rec.analysis.fuse.rows import fusible, predicted
from ple_rec.analysis.fuse.text import format_fusion
from ple_rec.cli import main
from ple_rec.config.fusion import FusionConfig
from ple_rec.config.load import load_config
from tests.analysis.trained import train_tiny
from tests.train.small import write_small

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
    first = [point["metrics"]["click.ndcg@3"] for point in record["front"]]
    assert first == sorted(first)
    assert set(record["sensitivity"]) == {"click", "watch", "length"}


def test_the_page_has_every_part(fused: Path) -> None:
    page = (fused / "fusion.html").read_text()
    for anchor in ("metrics", "exponents", "front", "sensitivity"):
        assert f'id="{anchor}"' in page
    assert page.count("<svg") == 1 + 2 * 3  # the front; two targets over three exponents


def test_a_fusion_is_gone_on_from(fused: Path, tiny_run: Path, tmp_path: Path, record: dict[str, Any]) -> None:
    held = [word for name in record["factors"] for word in ("--exponent", f"{name}={record['exponents'][name]}")]
    again = ["--target", "click.ndcg@3", "--fusion", str(fused / "fusion.toml"), *held]
    assert fuse(tiny_run, tmp_path / "out", *again) == 0
    found = json.loads((tmp_path / "out" / "fusion.json").read_text())
    assert found["start"] == record["exponents"]
    assert found["metrics"]["click.ndcg@3"]["value"] == record["metrics"]["click.ndcg@3"]["value"]
    assert found["metrics"]["click.ndcg@3"]["gain"] == 0
    assert (tmp_path / "out" / "fusion.toml").read_text() == (fused / "fusion.toml").read_text()


def test_exponents_that_are_held_are_those_of_the_fusion(tiny_run: Path, tmp_path: Path) -> None:
    held = ["--exponent", "click=-1", "--exponent", "watch=0"]  # which puts first what is clicked least
    assert fuse(tiny_run, tmp_path / "out", "--target", "click.gauc", *held) == 0
    found = json.loads((tmp_path / "out" / "fusion.json").read_text())
    assert found["exponents"] == {"click": -1.0, "watch": 0.0}
    assert found["start"] == {"click": 1.0, "watch": 1.0}
    assert found["metrics"]["click.gauc"]["gain"] < 0


def test_a_constraint_that_only_the_search_keeps_is_said(record: dict[str, Any]) -> None:
    told = format_fusion(record)
    assert record["not_kept"] == []
    assert "kept on valid, not on test" not in told
    broken = format_fusion(record | {"not_kept": ["click.gauc >= 0.9"]})
    assert "kept on valid, not on test: click.gauc >= 0.9" in broken


def test_what_was_clipped_is_said(record: dict[str, Any]) -> None:
    assert "brought within" not in format_fusion(record | {"clipped": {"click": 0.0, "watch": 0.0}})
    told = format_fusion(record | {"clipped": {"click": 0.0, "watch": 0.25}})
    assert "brought within [1e-6, 1] (the length: above 1e-6): watch 25.00% of the rows" in told


def test_predictions_are_those_that_the_run_was_evaluated_by(tiny_run: Path) -> None:
    found = predicted(fusible(tiny_run), ["test"], None).rows["test"]
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
        (["--target", "click.gauc", "--fusion", "none.toml"], "--fusion: none.toml is no file; it is a fusion.toml"),
        (["--target", "click.gauc", "--fusion", "f", "--tasks", "click"], "--tasks: given beside --fusion; a file of"),
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


@pytest.mark.parametrize("few", [False, True])
def test_a_split_of_few_lists_is_said(
    tiny_run: Path, tmp_path: Path, few: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = 12
    monkeypatch.setattr("ple_rec.analysis.fuse.fuse._FEW", lists + few)
    assert fuse(tiny_run, tmp_path / "out", "--target", "click.ndcg@3") == 0
    warning = f"warning: test has {lists} lists of 2 rows or more, fewer than {lists + few}: the intervals say little"
    assert (warning in capsys.readouterr().err) is few
