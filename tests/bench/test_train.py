"""`ple-rec bench dense`, `train` and `all`: turns of the loop of training, figures of given turns, refusals."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from ple_rec.bench import dense, every, train
from ple_rec.bench.figures import values
from ple_rec.bench.report import Results
from ple_rec.bench.train import Run, Shape, check_memory, run_record
from ple_rec.bench.train_figures import figures, headline, lines
from ple_rec.bench.train_plan import configuration, gflops, rate
from ple_rec.bench.train_rank import TRAIN, Over, Pace, PacedLoader
from ple_rec.bench.turns import AGAIN, Order
from ple_rec.cli import main
from ple_rec.data.batch import Batch
from ple_rec.data.loader import Loader
from ple_rec.errors import UserError

SMALL = Shape(batch_size=64, precision=None, warm_up=1, steps=2, dense_steps=2, turns=2)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Results:
    results = train.measure(tmp_path_factory.mktemp("train"), [Run(20_000, 1, 1)], SMALL, print)
    return results | {"values": values(figures(results))}


@pytest.mark.slow
def test_the_loop_of_training_takes_turns(found: Results) -> None:
    (run,) = found["runs"]
    assert (run["users"], run["ranks"], run["threads"]) == (20_000, 1, 1)
    assert len(run["rates"]) == len(found["dense_step_seconds"]) == len(found["gemm_gflops"]) == SMALL.turns
    assert min(run["rates"] + found["evaluate_rates"]) > 0
    assert run["table_bytes"] > 20_000 * (16 + 1) * 4
    assert run["peak_bytes"] - run["table_bytes"] == run["beside_tables_bytes"] > 100 << 20
    assert run["start_seconds"] > 0
    assert 12.0e6 < found["flops_per_sample"] < 12.4e6  # of the 12.2 M
    assert found["settings"]["precision"] in ("fp32", "bf16")


@pytest.mark.slow
def test_final_lines_of_a_run(found: Results) -> None:
    named = found["values"]
    assert named["train_peak_bytes"] == found["runs"][0]["peak_bytes"]
    assert not [name for name in named if name.startswith(("flat_", "ratio_ranks"))]
    assert headline(found).measured.value == pytest.approx(named["train_samples_per_second"], abs=1)
    assert lines(found)[0].split()[:2] == ["user", "rows"]


def test_ratios_are_of_the_same_turn() -> None:
    first = {"users": 10, "ranks": 1, "threads": 2, "step_seconds": [0.2, 0.4], "rates": [1000.0, 500.0]}
    first |= {"start_seconds": 9.0, "table_bytes": 50, "peak_bytes": 90, "beside_tables_bytes": 40}
    large = first | {"users": 20, "rates": [900.0, 450.0], "beside_tables_bytes": 45, "start_seconds": 11.0}
    two = first | {"ranks": 2, "threads": 1, "rates": [800.0, 500.0], "beside_tables_bytes": 99, "start_seconds": 30.0}
    results = {
        "runs": [first, large, two],
        "flops_per_sample": 10**8,
        "dense_step_seconds": [0.15, 0.36],
        "evaluate_rates": [3000.0, 1000.0],
        "gemm_gflops": [200.0, 100.0],
        "copy_gb_per_second": 10.0,
    }
    named = figures(results)
    assert named["beside_dense_share"] == pytest.approx((0.175, 0.1, 0.25))
    assert named["evaluate_ratio"] == (2.5, 2.0, 3.0)
    assert named["train_peak_fraction"] == (0.5, 0.5, 0.5)
    assert named["flat_20"] == (0.9, 0.9, 0.9)
    assert named["ratio_ranks"] == (0.9, 0.8, 1.0)
    assert named["start_seconds"].value == 11.0
    assert named["memory_beside_tables_bytes"].value == 45
    assert headline(results).limit == 1500.0


def test_a_turn_is_as_slow_as_its_slowest_rank() -> None:
    ranks = [
        {"batch_size": 10, "table_bytes": 5, "threads": 1, "startup_seconds": 2.0},
        {"batch_size": 10, "table_bytes": 1, "threads": 1, "startup_seconds": 3.0},
    ]
    turn = [{"seconds": [1.0, 2.0], "peak_bytes": 9}, {"seconds": [1.5, 1.7], "peak_bytes": 8}]
    later = [saw | {"peak_bytes": 1000} for saw in turn]
    record = run_record(Run(7, 2, 1), [turn, later], ranks)
    assert record["step_seconds"] == [1.6, 1.6]
    assert record["rates"] == [12.5, 12.5]
    assert (record["start_seconds"], record["peak_bytes"], record["beside_tables_bytes"]) == (3.0, 9, 7)


def test_a_loader_is_paced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loader, "epoch", lambda *_, **__: given())
    taken: list[str] = []

    def given() -> Generator[Any, None, None]:
        for i in range(100):
            taken.append(f"batch {i}")
            yield i

    order = Order("", str(tmp_path), 0.0, parent=1, sizes={"warm_up": 2, "steps": 1})
    pace = Pace(order, 0, lambda: taken.append("rests"), {"other": lambda: taken.append("other") or {"a": 1}})  # type: ignore[func-returns-value]
    for turn, what in enumerate(("other", TRAIN), 1):
        order.begin(turn).write_text(what)
    order.finish.touch()
    loader = PacedLoader(Loader.__new__(Loader), pace.asked)
    batches: Generator[Batch, None, None] = loader.epoch(0)

    def loop() -> None:
        for batch in batches:
            taken.append(f"step {batch}")

    with pytest.raises(Over):
        loop()
    steps = [word for i in range(2 + AGAIN + 1) for word in (f"batch {i}", f"step {i}")]
    assert taken == [*steps[:4], "rests", "other", "rests", *steps[4:], "rests"]
    saw = [json.loads(order.done(0, turn).read_text()) for turn in range(3)]
    assert [len(each.get("seconds", "")) for each in saw] == [2, 0, 1]
    assert saw[1]["a"] == 1
    assert saw[2]["peak_bytes"] > 0


def test_the_workload_is_the_recipe(tmp_path: Path) -> None:
    config = configuration(tmp_path, 2, 1, 4096, "bf16")
    assert (config.name, config.train.precision, config.runtime.threads) == ("bench-feed", "bf16", 1)
    assert config.data.virtual_shards == 16
    assert configuration(tmp_path, 3, 1, 4096, None).data.virtual_shards == 24
    assert configuration(tmp_path, 1, 1, 100, None).data.virtual_shards == 4
    with pytest.raises(UserError, match="precision"):
        configuration(tmp_path, 1, 1, 4096, "fp3")
    assert rate(10, [1.0, 3.0]) == 5
    assert gflops(10**9, 2.0) == 6


def test_sizes_that_do_not_fit_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", "--users", "100000", "2000000000"]) == 2
    assert "--users: 2,000,000,000 user rows x 16 on 1 rank(s) needs " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--users: got 100 user rows"):
        check_memory([Run(100, 1, 1)], SMALL)


def test_dense_figures_are_of_the_product_beside() -> None:
    results: Results = {
        "rates": [100.0, 50.0, 80.0],
        "cpu_rates": [50.0, 40.0, 45.0],
        "gflops": [100.0, 50.0, 80.0],
        "gemm_gflops": [200.0, 200.0, 100.0],
        "gemm_shapes": [[2, 3, 4], [2, 3, 4], [5, 6, 7]],
        "probe_gflops": {"fp32": 90.0, "bf16": 20.04},
        "copy_gb_per_second": [9.0, 10.0, 11.0],
        "peak_bytes": 3 << 20,
        "flops_per_sample": 12,
        "precision": "fp32",
    }
    named = dense.figures(results)
    assert named["dense_peak_fraction"] == (0.5, 0.25, 0.8)
    assert named["dense_best_fraction"].value == 0.5
    assert named["probe_bf16_gflops"].value == 20.0
    assert dense.headline(results).record()["fraction"] == 0.4
    text = dense.lines(results | {"values": values(named)})
    assert text[1].split() == ["dense", "part,", "samples/s", "80", "50", "100"]
    assert text[-1].startswith("the fastest product was 2 x 3 x 4, 5 x 6 x 7; ")


def test_all_has_a_line_a_subject() -> None:
    head = {"what": "reading", "unit": "rows/s", "limit_of": "pyarrow", "limit": 4.0, "fraction": 0.5}
    head |= {"peak_bytes": 3 << 20, "measured": {"value": 2.0, "low": 1.0, "high": 3.0}}
    result = {"headline": head, "values": {"a": 2.0, "b": 7}, "spreads": {"a": [1.0, 3.0]}}
    results = every.together({"loader": result})
    assert every.figures({"loader": result}) == {"loader.a": (2.0, 1.0, 3.0), "loader.b": (7, None, None)}
    said = every.lines(results)
    assert said[1].split() == ["loader", "2", "rows/s", "1", "3", "4", "0.500", "3", "reading;", "pyarrow"]
    assert said[2:] == [f"{name}: FAILED, see above" for name in ("prep", "tables", "dense", "train")]


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["dense", "train"])
def test_the_verb(subject: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--batch-size", "64", "--steps", "2", "--repeats", "2", "--json"]
    assert main(["bench", subject, *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["subject"] == subject
    assert result["headline"]["fraction"] > 0
    assert ("ratio_ranks" in result["values"]) == (subject == "train" and result["conditions"]["threads"] > 1)
