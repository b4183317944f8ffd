"""`benchmarks.calibrate` measures everything of a small model, and its file is one that `plan` reads."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.calibrate import estimated_steps, measure
from ple_rec.cli import main
from ple_rec.config.calibration import load_calibration
from tests.tiny import write_tiny

SAMPLES = (8, 32)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_measurements_of_a_small_model_are_planned_with(
    ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.calibrate._LOADER_SECONDS", 0.2)
    out = tmp_path / "calibration.json"
    made = measure("cpu", Path("data"), out, "tiny.toml", ranks=ranks, samples=SAMPLES, timings=1)
    assert load_calibration(out) == made
    assert made.device == "cpu"
    assert [step.samples for step in made.steps] == [each.samples for each in made.tables] == list(SAMPLES)
    assert all(step.device_ms is None and step.host_ms <= step.ms for step in made.steps)
    assert made.tables[0].tables == 1
    assert {gemm.m for gemm in made.gemms} == {SAMPLES[-1]}
    assert made.copies == ()
    assert (made.exchanges is None) is (ranks == 1)
    if made.exchanges is not None:
        assert [step.samples for step in made.exchanges.steps] == list(SAMPLES)
        sizes = [each.bytes for each in made.exchanges.all_to_all]
        assert sizes == sorted(set(sizes))
    rows = estimated_steps(made, Path("data"))
    assert [row[:2] for row in rows] == [(count, n) for count in range(1, ranks + 1) for n in SAMPLES]
    assert all(0 < estimate < math.inf for *_, estimate in rows)
    assert main(["plan", "--config", "tiny.toml", "--device", "cpu", "--calibration", str(out)]) == 0
    assert f"measured: {out} (" in capsys.readouterr().out
