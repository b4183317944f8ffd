"""One page of each kind, and pages of the odd cases, with a name that is a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.paper.page import FinishedPart, write_paper
from benchmarks.paper.parts import quick_parts
from data_prep.engines.duck import DuckEngine
from data_prep.stats import write_page as write_statistics
from ple_rec.analysis.result import (
    Analysis,
    CheckpointConflicts,
    Conflict,
    Correlation,
    Cosines,
    ExpertWeight,
    Gate,
    GateDifference,
    GateForValue,
    SubPopulation,
    SubPopulations,
    Utilisation,
)
from ple_rec.reports.analysis.page import write_page as write_analysis
from ple_rec.reports.compare.page import write_page as write_comparison
from ple_rec.reports.fusion.page import write_page as write_fusion
from ple_rec.reports.plan.page import write_page as write_plan
from ple_rec.reports.run.page import write_report
from tests.analysis.compare.told import told
from tests.data_prep.stats.conftest import described
from tests.data_prep.stats.feed import Feed, write_feed
from tests.golden.steps import ARTEFACTS
from tests.reports.rich import gates_of_every_kind, write_rich_run
from tests.reports.runs import METRICS, TEST, make_run, records
from tests.reports.test_plan import MIXED, SMALL, many, plan, table
from tests.reports.test_tuning import results as tuned

HOSTILE = "<script>alert('$x^2$')</script>&\"quoted\""
PLACE = f"the schema tencent (data/{'a-long-name' * 20} is not there), but 300,000,000 for user_id"


def write_hostile_run(folder: Path) -> Path:
    """Write a run directory in which every name is hostile."""
    log = [{**row, "tasks": {HOSTILE: row["tasks"]["income"]}} for row in records()]
    gate = {"level": HOSTILE, "outputs": [HOSTILE], "experts": [HOSTILE + ".0"], "mean": [[1.0]], "std": [[0.0]]}
    metrics = {
        "test": {
            "tasks": {HOSTILE: {**TEST["income"], HOSTILE: 3}},
            "curves": {HOSTILE: METRICS["test"]["curves"]["income"]},
            "gates": [gate],
            "slices": [{"column": HOSTILE, "values": [{"value": HOSTILE, "tasks": {HOSTILE: {"auc": 0.5}}}]}],
        },
        HOSTILE: {"tasks": {HOSTILE: {"auc": 0.5}}},
        "versions": {HOSTILE: HOSTILE},
        "paper": {HOSTILE: {"auc": 0.9, "model": HOSTILE, "table": HOSTILE}},
        "table_health": [{**METRICS["table_health"][0], "table": HOSTILE, "lookups": 0}],
    }
    words = json.dumps(HOSTILE)
    config = f"name = {words}\n[model]\nvariant = {words}\n[data]\npath = {words}\n"
    placed = {"tables": [{"table": HOSTILE, "sharding": HOSTILE, "kernel": HOSTILE, "ranks": HOSTILE}]}
    return make_run(folder, metrics, log, config, placed)


def analysis() -> Analysis:
    """Return an analysis of two tasks over two checkpoints, by one column."""
    tasks = (HOSTILE, "watch")
    experts = (ExpertWeight(f"{HOSTILE}.0", False, 0.53, 0.11), ExpertWeight("shared.0", True, 0.47, 0.11))
    gates = tuple(Gate(level, output, experts) for level in (1, 2) for output in (*tasks, "shared"))
    differences = tuple(GateDifference(level, tasks, ("shared.0",), None, 0.06) for level in (1, 2))
    conflict = Conflict(tasks, Cosines((0.05, -0.3), 603.0), Cosines((), 132.0))
    reactions = tuple(
        GateForValue(level, output, ("click.0", "shared.0"), (0.55, 0.45), (0.5, 0.5), 0.02)
        for level in (1, 2)
        for output in (*tasks, "shared")
    )
    values = tuple(SubPopulation({"value": value}, rows, reactions) for value, rows in ((HOSTILE, 7), (None, 700)))
    return Analysis(
        name=HOSTILE,
        variant="ple",
        tasks=tasks,
        checkpoint="step-6",
        utilisation=Utilisation(gates, differences),
        correlations=(Correlation(tasks, 16, None),),
        gradient_split="train",
        gradient_batches=2,
        steps=(CheckpointConflicts(4, False, (conflict,)), CheckpointConflicts(6, True, (conflict,))),
        sub_populations=(SubPopulations(HOSTILE, values),),
    )


def fusion() -> dict[str, Any]:
    """Return fusion.json of two targets."""
    record: dict[str, Any] = json.loads((ARTEFACTS / "runs" / "one" / "fusion" / "fusion.json").read_text())
    targets = [*record["targets"], "like.ndcg@3"]
    front = [{**point, "metrics": dict.fromkeys(targets, 0.1 * place)} for place, point in enumerate(record["front"])]
    curves = {
        name: {**each, "metrics": dict.fromkeys(targets, each["exponent"])}
        for name, each in record["sensitivity"].items()
    }
    metrics = dict.fromkeys(targets, record["metrics"][targets[0]])
    more = {"targets": targets, "metrics": metrics, "front": front, "sensitivity": curves, "start_breaks": []}
    return {**record, "run": HOSTILE, **more}


def compared() -> dict[str, Any]:
    """Return compare.json with remarks, a failed run and a task whose best reachable metric is known."""
    results = told()
    results |= {"name": HOSTILE, "remarks": [HOSTILE], "missing": 2}
    results["tasks"]["click"]["reachable"] = 0.9
    for variant in results["variants"].values():
        variant["tasks"]["click"]["gap"] = 0.01
    results["variants"]["ple"]["failed"] = {"1": HOSTILE}
    del results["variants"]["hard_sharing"]["tasks"]["like"]
    return results


def _run(folder: Path) -> Path:
    return Path(str(write_report(write_rich_run(folder, gates=gates_of_every_kind()))))


def _comparison(results: dict[str, Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        return write_comparison(results, folder)

    return write


def _plan(made: Any, title: str = "a plan") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        write_plan(folder / "plan.html", made.model_copy(update={"rows_of": PLACE}), title)
        return folder / "plan.html"

    return write


def _paper(folder: Path) -> Path:
    table5, figure7 = quick_parts()
    first = table5.comparisons[0].name
    points = {each.name: {**told(), "name": each.name} for each in figure7.comparisons}
    return write_paper([FinishedPart(table5, {first: told()}, [HOSTILE]), FinishedPart(figure7, points, [])], folder)


def _statistics(name: str, **more: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        feed = write_feed(folder / "feed", **more)
        schema = feed.schema.model_copy(update={"name": name})
        (folder / "duck").mkdir()
        engine = DuckEngine(folder / "duck", memory=1 << 30, threads=1)
        try:
            write_statistics(described(engine, Feed(feed.folder, schema, feed.tables)), schema, folder / "stats.html")
        finally:
            engine.close()
        return folder / "stats.html"

    return write


def _analysis(folder: Path) -> Path:
    folder.mkdir()
    return Path(str(write_analysis(analysis(), folder)))


def _fusion(folder: Path) -> Path:
    folder.mkdir()
    return Path(str(write_fusion(fusion(), folder)))


# Name, and what writes the page below a folder that is not there yet.
PAGES: dict[str, Callable[[Path], Path]] = {
    "run": _run,
    "run, hostile": lambda folder: Path(str(write_report(write_hostile_run(folder)))),
    "plan of 2 ranks": _plan(SMALL),
    "plan of 8 ranks": _plan(MIXED),
    "plan of 1,024 ranks": _plan(many(3)),
    "plan, hostile": _plan(plan([table(HOSTILE, 1000)]), HOSTILE),
    "comparison, hostile": _comparison(compared()),
    "tuned comparison": _comparison(tuned()),
    "analysis, hostile": _analysis,
    "fusion, hostile": _fusion,
    "paper, hostile": _paper,
    "statistics, hostile": _statistics(HOSTILE),
    "statistics of 50 columns": _statistics("wide", more_sparse=34, more_dense=12, days=0),
}
