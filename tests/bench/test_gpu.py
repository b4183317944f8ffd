"""`ple-rec bench gpu`: parts that fail, hang or lack something stop no other, and the page tells."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch

from ple_rec.bench import gpu_parts
from ple_rec.bench.gpu import run_parts
from ple_rec.bench.gpu_parts import Part, found, parts_of, passed
from ple_rec.bench.gpu_timed import TIMED, beside_roofline, speed
from ple_rec.cli import main
from ple_rec.config.cluster import Cluster
from ple_rec.config.load import dump_toml, load_config
from ple_rec.config.plan_file import dump_plan
from ple_rec.config.run import RunConfig
from ple_rec.exits import guarded
from ple_rec.planning.roofline import roofline
from ple_rec.planning.subject import describe, plan_run
from ple_rec.planning.workload import workload_of
from tests.conftest import REPOSITORY
from tests.planning.samples import cluster

HANGS = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert guarded(lambda: main(["bench", "gpu", "--out", str(tmp_path / "out")])) == 2
    assert capsys.readouterr().err == (
        "ple-rec: gpu: torch sees no CUDA device; these parts are for a GPU, its driver and a CUDA build of torch. "
        "Fix: run `ple-rec doctor`, or try the parts on this CPU by `ple-rec bench gpu --device cpu`\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_part_that_fails_or_hangs_stops_no_other(tmp_path: Path) -> None:
    late = tmp_path / "late"
    child = f"import time, pathlib; time.sleep(1); pathlib.Path({str(late)!r}).touch()"
    parts = [
        Part("good", "a | b", ("-c", "print('42 things')"), 30, lambda text: text.strip()),
        Part("bad", "fails", ("-c", "print('first'); raise SystemExit('last words')"), 30),
        Part("hangs", "and its child too", ("-c", HANGS, child), 1),
        Part("silent", "shows nothing", ("-c", ""), 30, passed),
        Part("absent", "is not run", ("-c", "1/0"), 30, skip="needs 2 GPUs; torch sees 1"),
    ]
    said: list[str] = []
    begun = time.monotonic()
    outcomes = run_parts(parts, tmp_path, 100, "cuda", ["H100, 80 GiB"], said.append)
    assert [outcome.state for outcome in outcomes] == ["ok", "failed", "failed", "failed", "skipped"]
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("# Smoke test on a GPU\n\n1 ok, 3 failed, 1 skipped. ")
    assert "- GPU 0: H100, 80 GiB\n" in text
    assert re.search(r"^\| good \| ok \| \d+ \| a / b \| 42 things \|$", text, re.MULTILINE)
    assert "## bad: exit code 1\n\n    first\n    last words\n" in text
    assert re.search(r"^\| hangs \| failed \| \d+ \| and its child too \| not done after 1 s \|$", text, re.MULTILINE)
    assert "no test has passed (no summary)" in text
    assert "| absent | skipped | 0 | is not run | needs 2 GPUs; torch sees 1 |" in text
    assert said[:2] == ["good ...", "good: ok, 0 s, 42 things"]
    time.sleep(max(0.0, 3.2 - (time.monotonic() - begun)))
    assert not late.exists()  # the child has ended with its part


def test_what_does_not_fit_the_time_is_skipped(tmp_path: Path) -> None:
    parts = [Part("late", "comes too late", ("-c", "1/0"), 30)]
    outcomes = run_parts(parts, tmp_path, 1, "cpu", [], lambda _: None)
    assert (outcomes[0].state, outcomes[0].says) == ("skipped", "no time left of 1 s")
    assert "a CPU, as a trial of the parts: it says nothing of GPUs" in (tmp_path / "page.md").read_text()


def test_the_page_repeats_what_doctor_says_of_devices() -> None:
    said = "ok   torch      2.13.0\nok   torchrec   1.8.0\nok   device     H100 (80 GiB)\nall is well\n"
    assert found(said) == "torchrec: 1.8.0; device: H100 (80 GiB)"
    with pytest.raises(ValueError, match="says nothing"):
        found("all is well\n")


def test_a_part_of_tests_has_to_have_run_some() -> None:
    assert passed("..s\nSKIPPED [1] x\n2 passed, 1 skipped in 3.10s\n") == "2 passed, 1 skipped in 3.10s"
    with pytest.raises(ValueError, match=r"no test has passed \(3 skipped in 0.10s\)"):
        passed("sss\n3 skipped in 0.10s\n")
    with pytest.raises(ValueError, match="no summary"):
        passed("")


def test_the_speed_is_that_of_the_later_reports(tmp_path: Path) -> None:
    def write(rates: list[int]) -> None:
        lines = [
            {"split": "train", "samples_per_second": rate, "data_wait": 0.25, "peak_bytes": 1 << 31} for rate in rates
        ]
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"split": "valid"}])
        (tmp_path / "train.jsonl").write_text(text)

    write([1, 2, 1000, 4000, 2000])
    assert speed(tmp_path, 500) == (
        "2,000 samples/s (1,000 to 4,000), 250.00 ms/step, 25% of it waiting for data, peak 2.00 GiB"
    )
    write([1, 2])
    with pytest.raises(ValueError, match="no more than 2 reports of training; give it more steps"):
        speed(tmp_path, 500)


def test_a_run_on_a_gpu_is_beside_its_roofline(tmp_path: Path) -> None:
    config = load_config(RunConfig, "bench-feed", [f"data.path={tmp_path / 'data'}", "train.precision=bf16"])
    (tmp_path / "config.toml").write_text(dump_toml(config))
    lines = [json.dumps({"split": "train", "samples_per_second": 1e6}) + "\n"] * 3
    (tmp_path / "train.jsonl").write_text("".join(lines))

    def told(on: Cluster) -> str:
        (tmp_path / "plan.json").write_text(dump_plan(plan_run(config, describe(config), on)))
        return beside_roofline(tmp_path)

    on = cluster("h100", 1, 1)
    peak = roofline(workload_of(config, describe(config), on), on, 4096)
    assert told(on) == (
        f"; {1e6 / peak.serial():.1%} of the roofline of h100, {peak.serial():,.0f} samples/s with one part after "
        f"another ({peak.overlapped(loader=False):,.0f} all at once, bound by HBM)"
    )
    assert told(cluster("cpu", 1, 1)) == ""  # as `ple-rec bench gpu --device cpu` has it


def test_every_test_for_gpus_is_in_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    marked = {
        str(file.relative_to(REPOSITORY))
        for file in (REPOSITORY / "tests").rglob("test_*.py")
        if re.search(r"^(@pytest|    pytest)\.mark\.gpu|devices\((RANKS)?\)\)?$", file.read_text(), re.MULTILINE)
    }
    of_parts = {
        *gpu_parts.KERNEL_TESTS,
        *gpu_parts.TRAINING_TESTS,
        *gpu_parts.DEVICE_TESTS,
        *gpu_parts.SEVERAL_TESTS,
    }
    assert marked == of_parts
    names = [part.name for part in parts_of("cuda", tmp_path, gpus=1, rows=1, steps=1, batch=1) if part.skip]
    assert names == ["several"]


@pytest.mark.slow
def test_on_a_cpu_the_parts_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    sizes = ["--rows", "20000", "--steps", "20", "--batch-size", "128", "--seconds", "900"]
    code = main(["bench", "gpu", "--device", "cpu", "--out", str(tmp_path), *sizes])
    text = (tmp_path / "page.md").read_text()
    assert code == 0, text
    states = dict(re.findall(r"^\| ([a-z0-9_ -]+) \| (\w+) \| \d+ ", text, re.MULTILINE))
    assert states.pop("training") == "skipped"
    assert set(states.values()) == {"ok"}
    trainings = {f"train {name}" for name in TIMED["cpu"]}
    assert {"doctor", "kernels", "tables", "several", "data", *trainings} == set(states)
    assert len(re.findall(r"samples/s \([\d,]+ to [\d,]+\), [\d.]+ ms/step", text)) == len(TIMED["cpu"])
