"""The computed tables of docs/performance.md, which a test keeps: rooflines of two recipes on H100s.

`python -m ple_rec.planning.roofline_page` prints them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from ple_rec.config.cluster import PRESETS, Cluster, Device
from ple_rec.config.load import load_config
from ple_rec.config.plan import BUSY, PARTS, Plan
from ple_rec.config.run import RunConfig
from ple_rec.html.units import short_count, short_duration
from ple_rec.planning.estimate import estimate
from ple_rec.planning.roofline import Roofline, roofline
from ple_rec.planning.roofline_text import amount
from ple_rec.planning.subject import describe, plan_run
from ple_rec.planning.workload import Workload, workload_of
from ple_rec.train.checks import global_batch_size

DEVICE: Device = "h100"
RECIPES = ("bench-feed", "tencent-ple")
SIZES = ((1, 1), (1, 8), (8, 8))  # hosts, GPUs of each
ROWS_PER_CORE, ROW_BYTES = 2.56e6, 50.0  # measured, docs/data.md: the loader on one core, Parquet of the feed
EPOCH_SECONDS = 120.0
_LAUNCH = 5e-6  # what starting a kernel from Python may cost the host; not measured here


class Case(NamedTuple):
    """A recipe at a precision, on hosts of so many GPUs."""

    recipe: str
    precision: str
    hosts: int
    gpus: int

    @property
    def cluster(self) -> Cluster:
        """Of `DEVICE`."""
        return _cluster(self.hosts, self.gpus)

    def where(self) -> str:
        """`8 GPUs`, `8 x 8 GPUs`."""
        return _where(self.hosts, self.gpus)


def _cluster(hosts: int, gpus: int) -> Cluster:
    return Cluster(hosts=hosts, ranks_per_host=gpus, hardware=PRESETS[DEVICE])


Cases = Mapping[Case, Roofline]


def cases() -> dict[Case, Roofline]:
    """The rooflines of the page."""
    found = {}
    for recipe in RECIPES:
        for precision in ("fp32", "bf16"):
            config, workload = _subject(recipe, precision)
            for size in SIZES:
                case = Case(recipe, precision, *size)
                batch = global_batch_size(config, case.cluster.world_size) // case.cluster.world_size
                found[case] = roofline(workload, case.cluster, batch)
    return found


def _subject(recipe: str, precision: str) -> tuple[RunConfig, Workload]:
    config = load_config(RunConfig, recipe, [f"train.precision={precision}"])
    return config, workload_of(config, describe(config), _cluster(*SIZES[0]))


def computed(found: Cases) -> dict[str, str]:
    """The tables that need no plan, by their names on the page."""
    parts = {f"parts of {recipe}": parts_table(found, recipe) for recipe in RECIPES}
    return {**parts, "rates": rates_table(found), "epoch": epoch_table(found)}


def parts_table(found: Cases, recipe: str) -> str:
    """What each part of a sample asks for, and its nanoseconds, at every size; where bf16 differs, in both."""
    head = ["part", "resource"]
    for size in SIZES:
        head += [_where(*size), "ns"]
    columns = {
        precision: [_by_part(found[Case(recipe, precision, *size)]) for size in SIZES] for precision in ("fp32", "bf16")
    }
    body = []
    for key in columns["fp32"][-1]:
        for precision in ("fp32", "bf16"):
            cells = [column.get(key, ("-", "-")) for column in columns[precision]]
            name = key[0]
            if columns["fp32"][0].get(key) != columns["bf16"][0].get(key):
                name = f"{key[0]}, {precision}"
            elif precision == "bf16":
                continue
            body.append([name, key[1], *(cell for pair in cells for cell in pair)])
    return _markdown(head, body, left=2)


def _by_part(found: Roofline) -> dict[tuple[str, str], tuple[str, str]]:
    return {(row.part, row.resource): (amount(row), f"{1e9 * found.seconds(row):.2f}") for row in found.rows}


def rates_table(found: Cases) -> str:
    """Samples a second, and the epoch that follows."""
    head = ["recipe", "precision", "on", "all at once", "bound by", "one after another", "with the loader", "epoch"]
    body = []
    for case, each in found.items():
        best = each.overlapped(loader=True)
        rates = (short_count(each.overlapped(loader=False)), each.bound(loader=False), short_count(each.serial()))
        epoch = short_duration(_epoch_samples(case.recipe) / best)
        body.append([case.recipe, case.precision, case.where(), *rates, short_count(best), epoch])
    return _markdown(head, body, left=3)


def plan_table(found: Cases) -> str:
    """What `ple-rec plan` estimates for the reference workload, beside its roofline."""
    head = ["precision", "on", *(f"{part} ms" for part in PARTS), "plan", "without its loader", "roofline"]
    body = [
        [case.precision, case.where(), *cells, f"{short_count(found[case].serial())}"]
        for case, cells in _plans(RECIPES[0])
    ]
    return _markdown(head, body, left=2)


def _plans(recipe: str) -> Iterator[tuple[Case, list[str]]]:
    config, workload = _subject(recipe, "fp32")
    plans = [plan_run(config, describe(config), Case(recipe, "fp32", *size).cluster) for size in SIZES]
    for precision in ("fp32", "bf16"):
        for size, plan in zip(SIZES, plans, strict=True):
            work = replace(workload.work, precision=precision)
            yield Case(recipe, precision, *size), _of_plan(plan, replace(workload, work=work))


def _of_plan(plan: Plan, workload: Workload) -> list[str]:
    found = estimate(plan, workload.work)
    busy = sum(found.part_ms(part) for part in BUSY)
    rate = 1e3 * plan.batch_size_per_rank * plan.cluster.world_size / busy
    parts = [f"{found.part_ms(part):.3f}" for part in PARTS]
    return [*parts, short_count(found.samples_per_second), short_count(rate)]


def epoch_table(found: Cases) -> str:
    """What an epoch in `EPOCH_SECONDS` asks of one host of eight GPUs."""
    columns = {case: each for case, each in found.items() if (case.hosts, case.gpus) == (1, 8)}
    head = [
        f"an epoch in {EPOCH_SECONDS:.0f} s on one host asks for",
        *(f"{case.recipe}, {case.precision}" for case in columns),
    ]
    asks = [_asks(each, _epoch_samples(case.recipe) / EPOCH_SECONDS) for case, each in columns.items()]
    return _markdown(head, [[name, *(each[name] for each in asks)] for name in asks[0]], left=1)


def _asks(found: Roofline, rate: float) -> dict[str, str]:
    of_rank = rate / found.cluster.world_size
    step = found.batch / of_rank
    return {
        "samples/s of the host": short_count(rate),
        "samples/s of a GPU": short_count(of_rank),
        "cores that read, at what one core was measured to": f"{rate / ROWS_PER_CORE:.1f}",
        "bytes/s of Parquet": f"{short_count(rate * ROW_BYTES)}B",
        "share of each GPU's link to the host": f"{100 * of_rank * found.busy('host link'):.1f} %",
        **{
            f"share of {name}": f"{100 * of_rank * found.busy(name):.1f} %"
            for name in ("GEMM", "HBM", "NVLink")
            if found.busy(name)
        },
        f"a step of {found.batch:,} samples a GPU in": f"{1e3 * step:.2f} ms",
        f"launches in that step, {1e6 * _LAUNCH:.0f} us each": f"{step / _LAUNCH:,.0f}",
    }


@cache
def _epoch_samples(recipe: str) -> int:
    return describe(load_config(RunConfig, recipe, [])).schema.splits["train"].rows


def _where(hosts: int, gpus: int) -> str:
    return f"{gpus} GPU{'s' if gpus > 1 else ''}" if hosts == 1 else f"{hosts} x {gpus} GPUs"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body])


if __name__ == "__main__":
    every = cases()
    for name, table in {**computed(every), "plan": plan_table(every)}.items():
        sys.stdout.write(f"<!-- roofline: {name} -->\n{table}\n\n")
