"""The roofline: its equations on a workload that can be added up by hand, and what docs/performance.md shows of it."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import Literal

import pytest

from ple_rec.cli import main
from ple_rec.config.load import load_config
from ple_rec.config.run import EmbeddingsConfig, RunConfig
from ple_rec.planning.estimate import DenseWork, all_reduce_ms
from ple_rec.planning.plan_input import describe_dataset
from ple_rec.planning.roofline import Roofline, format_roofline, roofline
from ple_rec.planning.workload import FeatureLoad, SampleWork, sample_work
from tests.planning.samples import cluster
from tests.project_files import REPOSITORY

PAGE = (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")


def workload(precision: Literal["fp32", "bf16"] = "fp32", **changed: object) -> SampleWork:
    """Two features of dim 8, one with 3 ids a sample, 5 dense features, 2 tasks."""
    found = SampleWork(
        features=(FeatureLoad(1.0, 8, 1_000_000), FeatureLoad(3.0, 8, 10)),
        embeddings=EmbeddingsConfig(dim=8),
        numbers=5,
        tasks=2,
        groups=1,
        values=100,
        work=DenseWork(flops_per_sample=1000, dense_parameters=700, precision=precision, epoch_samples=1),
        table_optimizer="rowwise_adagrad",
        dense_optimizer="adam",
    )
    return replace(found, **changed)  # type: ignore[arg-type]


def amounts(found: Roofline) -> dict[tuple[str, str], float]:
    return {(row.part, row.resource): row.amount for row in found.demands}


def test_the_bytes_of_one_gpu_are_those_of_the_equations() -> None:
    found = amounts(roofline(workload(), cluster(hosts=1, ranks=1), 100))
    rows = (1 + 0.1) * 8 * 4  # of the second table, which all samples of a step share, 10 rows in 100 samples
    assert found == pytest.approx(
        {
            ("read", "loader"): 1,
            ("copy", "host link"): 4 * 4 + 4 * 2 + 4 * 5 + 8 * 2 + 8,
            ("sort", "HBM"): 2 * 3 * 12 * 4,  # 1,000,010 rows are 20 bits, three passes
            ("look-up", "HBM"): 8 * 4 + rows + 4 * 16,
            ("dense", "GEMM"): 3000,
            ("activations", "HBM"): 6 * 4 * 100,
            ("weights", "HBM"): 12 * 7,
            ("update", "HBM"): 4 * 16 + 2 * rows + 2 * 1.1 * 32,
            ("dense optimizer", "HBM"): 28 * 7,
        }
    )


def test_what_ranks_exchange_goes_by_nvlink_and_by_the_network() -> None:
    on = cluster(hosts=2, ranks=2)
    found = amounts(roofline(workload(), on, 100))
    busiest = 4 / 2  # two tables on four ranks
    assert found["pooled rows", "NVLink"] == pytest.approx(busiest * 64 * 1 / 4)
    assert found["pooled rows", "network"] == pytest.approx(busiest * 64 * 2 / 4)
    assert found["ids", "network"] == pytest.approx(busiest * 24 * 2 / 4)
    each = roofline(workload(), on, 100)
    reduce = sum(100 * each.seconds(row) for row in each.demands if row.part == "all-reduce")
    assert 1e3 * reduce == pytest.approx(all_reduce_ms(cluster(hosts=2, ranks=2, exchange_efficiency=1.0), 700))

    exchange = EmbeddingsConfig.model_validate({"qcomms": {"forward_precision": "fp16", "backward_precision": "int8"}})
    fewer = amounts(roofline(workload(embeddings=exchange), on, 100))
    assert fewer["pooled rows", "network"] == found["pooled rows", "network"] / 2
    assert fewer["gradients", "network"] == found["gradients", "network"] / 4


def test_the_bounds_are_the_longest_resource_and_the_sum() -> None:
    found = roofline(workload(), cluster(hosts=1, ranks=8, hbm_gb_per_s=1.0, loader_rows_per_s=100.0), 100)
    hbm = sum(row.amount for row in found.demands if row.resource == "HBM") / 1e9
    assert found.bound(loader=False) == "HBM"
    assert found.overlapped_rate(loader=False) == pytest.approx(8 / hbm)
    assert found.bound(loader=True) == "loader"
    assert found.overlapped_rate(loader=True) == pytest.approx(800.0)
    assert found.serial_rate() == pytest.approx(
        8 / sum(found.seconds(r) for r in found.demands if r.resource != "loader")
    )
    assert "at most" in format_roofline(found)
    with pytest.raises(ValueError, match="a roofline is of GPUs"):
        roofline(workload(), cluster("cpu"), 100)


def test_bf16_halves_the_activations_and_has_another_peak() -> None:
    on = cluster(hosts=1, ranks=1)
    slow, fast = (roofline(workload(precision), on, 100) for precision in ("fp32", "bf16"))
    assert amounts(fast)["activations", "HBM"] == amounts(slow)["activations", "HBM"] / 2
    assert (slow.peaks["GEMM"], fast.peaks["GEMM"]) == (67e12, 989e12)


def test_the_values_of_the_reference_workload() -> None:
    config = load_config(RunConfig, "bench-feed", [])
    found = sample_work(config, describe_dataset(config), cluster())
    first = 10 * (256 + 128) + 5 * 128 + 4 * 4 + 10  # experts, outputs, edges of four tasks and of the shared stream
    second = 10 * (256 + 128) + 4 * 128 + 4 * 4
    assert found.values == 24 * 16 + 8 + first + second + 4 * (64 + 1)
    assert (len(found.features), found.numbers, found.tasks, found.groups) == (24, 8, 4, 1)


def test_the_page_shows_what_plan_prints(capsys: pytest.CaptureFixture[str]) -> None:
    ((command, text),) = re.findall(r"^    ple-rec (.*? --roofline)\n\n```text\n(.*?)^```$", PAGE, re.M | re.S)
    assert main(shlex.split(command)) == 0
    printed = capsys.readouterr().out
    assert text.split("...\n")[-1] in printed
