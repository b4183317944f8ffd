"""`--profile`: the shares add up, every part is there, the trace names them, and the weights stay the same."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ple_rec.cli.app import parse
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.runs.directory import RunDirectory
from ple_rec.training.context import build_context
from ple_rec.training.loop import train_steps
from ple_rec.training.profiler.breakdown import Operator, RankProfile, Span, advice, breakdown, format_breakdown
from ple_rec.training.profiler.regions import NO_REGIONS, REGIONS, Region, RegionClocks
from ple_rec.training.profiler.schedule import Schedule, check_steps, choose_steps
from ple_rec.training.profiler.session import NO_PROFILE, StepProfile
from tests.training.small import on_ranks, ranks_of, records, small_config, train_small, whole_state, write_small

SECONDS = 1e-3  # of a clock that is read twice
WORKING: tuple[Region, ...] = (
    "data wait",
    "input distribution",
    "lookup",
    "output distribution",
    "dense forward",
    "dense backward",
    "gradient exchange",
    "table update",
    "optimizers",
    "metrics",
    "other",
)


def _config(data: Path, steps: int, pipeline: str = "none") -> RunConfig:
    train = {"batch_size": 24, "steps": steps, "report_every": 4, "evaluate_every": 12, "pipeline": pipeline}
    return small_config(data, {"model": {"dropout": 0.1}, "train": train})


def _profiled(
    rank: int, world_size: int, config: RunConfig, run_dir: Path, *, resume: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    run_dir.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    job = build_context(config, ranks_of(rank, world_size))
    train_steps(
        job,
        RunDirectory(run_dir, run_dir),
        resume=resume,
        profile=StepProfile(job, RunDirectory(run_dir, run_dir), said.append),
    )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in job.model.modules())
    StepProfile(job, RunDirectory(run_dir, run_dir), said.append, strict=False).begin(24, 2, lambda _: False)
    with pytest.raises(UserError, match="2 step"):
        StepProfile(job, RunDirectory(run_dir, run_dir), said.append).begin(24, 2, lambda _: False)
    return whole_state(job), said


def _resumed(rank: int, world_size: int, data: Path, run_dir: Path) -> list[str]:
    _profiled(rank, world_size, _config(data, 12, "sparse_dist"), run_dir)
    return _profiled(rank, world_size, _config(data, 24, "sparse_dist"), run_dir, resume=True)[1]


def _plain_and_profiled(rank: int, world_size: int, data: Path, runs: Path) -> tuple[bool, list[str]]:
    plain = whole_state(train_small(rank, world_size, _config(data, 12), runs / "plain"))
    state, said = _profiled(rank, world_size, _config(data, 12), runs / "profiled")
    return plain.keys() == state.keys() and all(torch.equal(plain[key], state[key]) for key in plain), said


def _assert_adds_up(found: dict[str, Any]) -> None:
    assert list(found["regions"]) == list(REGIONS)
    assert sum(values["share"] for values in found["regions"].values()) == pytest.approx(1, abs=1e-9)
    assert sum(values["ms"] for values in found["regions"].values()) == pytest.approx(found["step_ms"])
    assert found["step_ms"] == pytest.approx(found["wall_ms"], rel=0.01, abs=1e3 * SECONDS)
    for region in WORKING:
        values = found["regions"][region]
        assert values["ms"] > 0, region
        assert values["min_ms"] <= values["ms"] <= values["max_ms"]


def _trace(path: Path) -> set[str]:
    return {event.get("name", "") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]}


def test_a_resumed_run_ahead_of_its_steps(tmp_path: Path) -> None:
    (said,) = on_ranks(_resumed, 1, write_small(tmp_path / "data"), tmp_path / "run")
    folder = tmp_path / "run" / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["step.json", "step.txt", "trace-rank0.json.gz"]
    assert said[0] == "profile: 12 step(s) are too few for a full profile: 4 to warm up, 5 timed, 3 traced"
    assert said[1] == "\n" + (folder / "step.txt").read_text()
    assert said[1].startswith("\nwhere a step goes: steps 17 to 21\n")
    assert said[2:] == [
        "no profile: 2 step(s) to train; a profile needs at least 3 steps, to warm up, to time and to trace one "
        "each; a full profile has 33"
    ]
    found = json.loads((folder / "step.json").read_text())
    assert (found["first_step"], found["world_size"], found["clock"]) == (17, 1, "host")
    _assert_adds_up(found)
    assert found["regions"]["logging"]["ms"] > 0  # a report fell into the steps
    assert len(found["operators"]) == 5
    assert all(found["samples_per_second"].values())
    names = _trace(folder / "trace-rank0.json.gz")
    assert names >= {"lookup", "table update", "dense forward", "dense backward", "optimizers", "aten::addmm"}


def test_two_ranks_train_the_same_bits_and_are_compared(tmp_path: Path) -> None:
    results = on_ranks(_plain_and_profiled, 2, write_small(tmp_path / "data"), tmp_path)
    assert [same for same, _ in results] == [True, True]
    assert results[1][1] == []  # rank 0 prints
    assert records(tmp_path / "profiled") == records(tmp_path / "plain")
    folder = tmp_path / "profiled" / "profile"
    found = json.loads((folder / "step.json").read_text())
    _assert_adds_up(found)
    assert len(found["ranks"]) == 2
    assert found["ranks"][found["rank"]]["own_ms"] == max(one["own_ms"] for one in found["ranks"])
    assert "which has the most work of 2 ranks" in (folder / "step.txt").read_text()
    for rank in range(2):
        assert "lookup" in _trace(folder / f"trace-rank{rank}.json.gz")


def test_regions_are_exclusive_and_nest() -> None:
    clocks = RegionClocks(torch.device("cpu"))
    with clocks("lookup"):  # not asked for
        pass
    assert clocks("lookup") is NO_REGIONS("lookup"), "the same object that does nothing"
    clocks.begin("timed")
    begun = clocks.now()
    for _ in range(3):
        with clocks("dense forward"):
            clocks.push("input distribution")
            clocks.pop("lookup")  # not the innermost
            clocks.push("gradient exchange")
        with clocks.paused(), clocks("metrics"):
            pass
    whole = clocks.now() - begun - clocks.paused_seconds
    seconds = clocks.end()
    assert {region for region, value in seconds.items() if value} == {
        "dense forward",
        "input distribution",
        "gradient exchange",
        "other",
    }
    assert sum(seconds.values()) == pytest.approx(whole, abs=SECONDS)
    assert not any(clocks.seconds.values())
    assert NO_PROFILE.regions is NO_REGIONS


def test_a_pause_belongs_to_no_step_though_nothing_is_timed() -> None:
    clocks = RegionClocks(torch.device("cpu"))
    begun = clocks.now()
    with clocks.paused():
        time.sleep(10 * SECONDS)
    assert 10 * SECONDS <= clocks.paused_seconds <= clocks.now() - begun
    assert not any(clocks.end().values())


def test_which_steps() -> None:
    assert choose_steps(0, 500, lambda _: False) == Schedule(0, 5, 10, 30, 33)
    assert choose_steps(100, 33, lambda step: step == 133) == Schedule(100, 105, 110, 130, 133)
    assert choose_steps(0, 500, lambda step: step == 31) == Schedule(0, 5, 10, 32, 35), "no evaluation in a trace"
    assert choose_steps(0, 500, lambda _: True) == Schedule(0, 5, 10, 30, 33), "there is no better place"
    assert choose_steps(0, 3, lambda _: False) == Schedule(0, 1, 1, 2, 3)
    assert choose_steps(0, 20, lambda _: False).is_short


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        check_steps(2)
    assert str(caught.value) == (
        "--profile: 2 step(s) to train; a profile needs at least 3 steps, to warm up, to time and to trace one "
        "each; a full profile has 33. Fix: train longer (--set train.epochs= --set train.steps=33), or leave out "
        "--profile"
    )


def _rank(rank: int, **seconds: float) -> RankProfile:
    each: dict[Region, float] = dict.fromkeys(REGIONS, 0.0)
    each |= {name.replace("_", " "): value for name, value in seconds.items()}  # type: ignore[misc]
    whole = sum(each.values())
    span = Span(10, 1000, whole)
    return RankProfile(
        rank, f"host-{rank}", span, each, whole, span, Span(0, 0, 0.0), (Operator("aten::mm", 0.1, 30),), 0.2
    )


@pytest.mark.parametrize(
    ("ranks", "sentence"),
    [
        ([{"data_wait": 3.1, "dense_forward": 6.9}], "data wait is 31 %: the reading thread does not keep up"),
        (
            [{"dense_forward": 9.0, "gradient_exchange": 1.0}, {"dense_forward": 5.0, "gradient_exchange": 5.0}],
            "has 1.80 times the work of the rank that has least, and the others wait for it, up to 500 ms",
        ),
        ([{"dense_forward": 7.0, "input_distribution": 3.0}], 'set train.pipeline = "sparse_dist"'),
        ([{"dense_forward": 9.5, "lookup": 0.5}], "the dense layers are 95 %, where the time should go"),
        ([{"logging": 1.0, "dense_forward": 9.0}], "raise train.report_every (now 2)"),
        ([{"metrics": 1.5, "dense_forward": 8.5}], "metrics are 15 %"),
        ([{"optimizers": 2.0, "dense_forward": 8.0}], "optimizers are 20 %"),
        ([{"lookup": 2.0, "table_update": 2.0, "dense_forward": 6.0}], "lookup and table update are 40 %"),
        ([{"other": 3.0, "dense_forward": 7.0}], "other is 30 %"),
    ],
)
def test_what_to_look_at(ranks: list[dict[str, float]], sentence: str, tmp_path: Path) -> None:
    found = breakdown([_rank(rank, **seconds) for rank, seconds in enumerate(ranks)])
    assert sentence in advice(found, small_config(tmp_path), "none")


def test_the_text_names_the_rank_that_the_others_wait_for(tmp_path: Path) -> None:
    ranks = [_rank(0, dense_forward=2.0, gradient_exchange=8.0), _rank(1, dense_forward=9.0, gradient_exchange=1.0)]
    found = breakdown(ranks) | {
        "first_step": 11,
        "traced_steps": 3,
        "device": "cpu",
        "operators_of": "the host",
        "notes": [],
        "advice": "nothing",
        "traces": ["a", "b"],
    }
    text = format_breakdown(found)
    assert (
        text.splitlines()[0]
        == "where a step goes: steps 11 to 20, rank 1 on host-1, which has the most work of 2 ranks"
    )
    cells = {line.split("  ")[1]: line.split()[-5:] for line in text.splitlines() if line.startswith("  dense forward")}
    assert cells == {"dense forward": ["900.00", "90.0", "%", "200.00", "900.00"]}
    assert "100.0 %" in text
    assert "200 samples/s in these steps, 200 in the profiler; 1.0 cores busy" in text


def test_the_page_shows_what_a_run_prints(repository: Path) -> None:
    page = (repository / "docs" / "training.md").read_text()
    section = page.split("## Where the time goes\n")[1].split("\n## ")[0]
    (command,) = re.findall(r"^    ple-rec (.*)$", section, re.MULTILINE)
    options = parse(shlex.split(command)).values["options"]
    assert options.profile
    options.read()
    (shown,) = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    shares = dict(re.findall(r"^  (\w+(?: \w+)*) +[\d.]+ +([\d.]+) %", shown.split("most expensive")[0], re.MULTILINE))
    assert list(shares) == [region for region in REGIONS if region != "copy to device"] + ["step"]
    assert sum(map(float, shares.values())) == pytest.approx(200, abs=0.6)
    assert {"samples/s in these steps", "look at: ", "trace: runs/"} <= set(
        re.findall(r"samples/s in these steps|^look at: |^trace: runs/", shown, re.MULTILINE)
    )
    for region in REGIONS:
        assert region == "copy to device" or region in section.split("| part |")[1], region
