"""A regression in seconds: what `ple-rec fuse` says without a scale, that its fix mends it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ple_rec.analysis.fuse.arguments import needed_scales
from ple_rec.analysis.fuse.rows import RunPredictions, predict_splits
from ple_rec.cli import main
from ple_rec.config.fusion import FusionConfig, TaskFusionConfig
from ple_rec.config.load import load_config
from ple_rec.ranking.fusion import compute_factors

TARGET = ["--target", "watch.mean@2"]
CONSTANT = "; such a factor moves no row, so its exponent was not searched and is 0. Fix: "


@pytest.fixture
def seconds(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, whose `watch` is predicted in seconds: from 2 to 2,000, half of them above 40."""

    def in_seconds(*args: Any) -> RunPredictions:
        found = predict_splits(*args)
        rows = {}
        for split, of in found.rows.items():
            watch_N = np.geomspace(2.0, 2_000.0, len(of.predictions["watch"]))
            rows[split] = replace(
                of, predictions=of.predictions | {"watch": np.random.default_rng(0).permuted(watch_N)}
            )
        return replace(found, rows=rows)

    monkeypatch.setattr("ple_rec.analysis.fuse.rows.predict_splits", in_seconds)
    return tiny_run


def fuse(run: Path, out: Path, *argv: str) -> int:
    return main(["fuse", str(run), "--out", str(out), "--grid", "16", "--trials", "0", *TARGET, *argv])


def record_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "fusion.json").read_text())
    return found


def test_the_fix_for_a_clipped_regression_has_the_number_and_mends_it(
    seconds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fuse(seconds, tmp_path / "before") == 0
    fix = "pass --scale watch=1420, the 95th percentile of its predictions"
    said = f"watch: at a bound in 100 % of the rows of valid{CONSTANT}{fix}"
    assert capsys.readouterr().out.splitlines().count(said) == 1
    assert (tmp_path / "before" / "fusion.toml").read_text().startswith(f"# {said}\n")
    assert fuse(seconds, tmp_path / "after", "--scale", "watch=1420") == 0
    out = capsys.readouterr().out
    assert "Fix: " not in out
    record = record_of(tmp_path / "after")
    assert record["constant"] == []
    assert record["clipped"]["watch"] == pytest.approx(0.05, abs=0.01)
    assert load_config(FusionConfig, tmp_path / "after" / "fusion.toml").tasks["watch"].scale == 1420


@pytest.mark.parametrize(("scale", "says"), [(None, True), (5.0, True), (1420.0, False)])
def test_a_sigmoid_that_is_full_in_most_rows_gets_the_same_fix(
    seconds: Path, tmp_path: Path, scale: float | None, says: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "" if scale is None else f"scale = {scale}"
    (tmp_path / "f.toml").write_text(f'[tasks.click]\n[tasks.watch]\nlink = "sigmoid"\n{key}\n')
    assert fuse(seconds, tmp_path / "out", "--fusion", str(tmp_path / "f.toml")) == 0
    warning = (
        "warning: p of watch is above .999 in most rows of valid, so it hardly separates them. "
        "Fix: pass --scale watch=1420, the 95th percentile of its predictions"
    )
    assert (warning in capsys.readouterr().out.splitlines()) is says
    assert record_of(tmp_path / "out")["constant"] == []  # a few rows are low enough


def test_a_scale_holds_over_that_of_the_file(seconds: Path, tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text('[tasks.watch]\nlink = "sigmoid"\nscale = 5.0\n')
    assert fuse(seconds, tmp_path / "out", "--fusion", str(tmp_path / "f.toml"), "--scale", "watch=600") == 0
    task = load_config(FusionConfig, tmp_path / "out" / "fusion.toml").tasks["watch"]
    assert (task.link, task.scale) == ("sigmoid", 600.0)


@pytest.mark.parametrize("link", ["clip", "sigmoid"])
def test_of_a_regression_that_is_held_at_0_nothing_is_said(
    seconds: Path, tmp_path: Path, link: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f.toml").write_text(f'[tasks.click]\n[tasks.watch]\nlink = "{link}"\n')
    assert fuse(seconds, tmp_path / "out", "--fusion", str(tmp_path / "f.toml"), "--exponent", "watch=0") == 0
    out = capsys.readouterr().out
    assert not any(words in out for words in ("at a bound", "--scale", "p of watch"))
    assert record_of(tmp_path / "out")["exponents"]["watch"] == 0


@pytest.mark.parametrize(
    ("predictions", "scale"),
    [
        ([40.0] * 9, 40.0),  # one value: no scale tells rows apart, nor is the same one asked for again
        ([-5.0] * 8 + [30.0], None),  # below 0
        ([0.2] * 5 + [30.0] * 4, None),  # most rows are within bounds
    ],
)
def test_a_scale_that_would_not_help_is_not_asked_for(predictions: list[float], scale: float | None) -> None:
    fusion, found = FusionConfig(tasks={"watch": TaskFusionConfig(scale=scale)}), {"watch": np.array(predictions)}
    factors = compute_factors(fusion, {"watch": "regression"}, found, None)
    assert needed_scales(fusion, {"watch": "regression"}, found, factors, ["watch"]) == {}


def test_a_fusion_of_a_version_without_scales_is_of_the_same_options(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert fuse(tiny_run, out) == 0
    record = record_of(out)
    del record["options"]["scale"]
    (out / "fusion.json").write_text(json.dumps(record))
    assert fuse(tiny_run, out) == 0
    assert fuse(tiny_run, out, "--scale", "watch=2") == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["watch"], 'got "watch"; a scale is TASK=VALUE, a number above 0 in the label\'s unit. Fix: for example'),
        (["watch=0"], 'got "watch=0"; a scale is TASK=VALUE'),
        (["watch=nan"], 'got "watch=nan"; a scale is TASK=VALUE'),
        (["click=2"], 'got "click"; only a regression in the fusion has a scale: watch. Fix: name one of them'),
        (["like=2"], 'got "like"; only a regression in the fusion has a scale: watch'),
        (["watch=2", "--tasks", "click"], 'got "watch"; only a regression in the fusion has a scale: there is none.'),
    ],
)
def test_what_is_no_scale_is_refused(
    tiny_run: Path, tmp_path: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fuse(tiny_run, tmp_path / "out", "--scale", *argv) == 2
    assert f"ple-rec: --scale: {message}" in capsys.readouterr().err
