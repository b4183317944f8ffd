"""Configurations with several seeds each: mean and standard deviation of every metric on the test split.

A finished run of the same configuration and dataset is reused, so an interrupted series goes on with its first run that
has not finished; that one starts anew.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ple_rec.analysis.series import check_checkpoints_apart, config_of_run, inspect_run
from ple_rec.config.load import dump_toml, load_schema
from ple_rec.config.metrics import METRICS
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.runs.layout import write_json, write_text, writing
from ple_rec.runs.results import MISSING
from ple_rec.text import aligned
from ple_rec.text.units import metric_text

SHOWN = ("auc", "ne", "logloss", "calibration", "mse", "rmse")
_HEADINGS = {metric.key: metric.heading for metric in METRICS}


def repeat(
    configs: Sequence[RunConfig],
    seeds: Sequence[int],
    runs: Path,
    start: Callable[[Path, Path], int],
    *,
    overwrite: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Run every configuration with every seed that has not been run, and summarise the finished runs.

    Args:
        configs: Their names differ; `seed` is replaced.
        seeds: One run each, in `runs/<name>/seed-<n>`.
        runs: `runs/<name>` also gets `repeat.json`, the summary.
        start: (configuration file, run directory) -> exit code: trains one run, replacing what the directory holds.
        overwrite: Replace runs of another configuration or dataset.

    Returns:
        A summary per configuration (see `summarise`), and the runs that failed, as `<name> seed <n>`.

    Raises:
        UserError: before any run starts: two configurations of one name, one that leaves the test split unread, a
            dataset directory that is not there, runs that would keep their checkpoints in one place, or a directory
            that holds a run of another configuration or dataset. Later: a disk that cannot be written.
    """
    names = [config.name for config in configs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            "--config",
            f"{names.count(twice[0])} configurations are named {twice[0]!r}",
            f"the runs of each lie in {runs}/<name>",
            "give each a `name` of its own",
        )
    for config in configs:
        if "test" not in config.evaluation.splits:
            raise UserError(
                "evaluation.test",
                f"got false in {config.name}",
                "what is summarised are metrics on the test split",
                "leave it out",
            )
    check_checkpoints_apart(config_of_run(config, seed) for config in configs for seed in seeds)
    datasets = [load_schema(config.data.path).fingerprint for config in configs]

    def finished(config: RunConfig, dataset: str, seed: int) -> dict[str, Any] | None:
        state = inspect_run(runs / config.name / f"seed-{seed}", config_of_run(config, seed), dataset)
        if not overwrite:
            state.refuse_foreign()
        return state.metrics or None

    for config, dataset in zip(configs, datasets, strict=True):
        for seed in seeds:
            finished(config, dataset, seed)  # refuses
    summaries, failed = [], []
    for config, dataset in zip(configs, datasets, strict=True):
        directory = runs / config.name
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        done: dict[int, dict[str, Any]] = {}
        for seed in seeds:
            metrics = finished(config, dataset, seed)
            if metrics is None:
                file, run_dir = directory / f"seed-{seed}.toml", directory / f"seed-{seed}"
                write_text(file, dump_toml(config_of_run(config, seed)))
                if start(file, run_dir):
                    failed.append(f"{config.name} seed {seed}")
                    continue
                metrics = finished(config, dataset, seed)
                assert metrics is not None, f"{run_dir} ended with 0 but has no metrics of its configuration"
            done[seed] = metrics
        summaries.append(summarise(config.name, done))
        write_json(directory / "repeat.json", summaries[-1])
    return summaries, failed


def summarise(name: str, runs: Mapping[int, Mapping[str, Any]], split: str = "test") -> dict[str, Any]:
    """Mean and sample standard deviation (n - 1) over seeds, per task and metric.

    Args:
        name: Of the configuration.
        runs: `metrics.json` by seed.
        split: Which one is summarised.

    Returns:
        `{"name", "split", "seeds", "tasks": {task: {metric: {"mean", "sd", "values"}}}, "paper"}`; sd is None for a
        single seed.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for metrics in runs.values():
        for task, values in metrics[split]["tasks"].items():
            for metric in SHOWN:
                if values.get(metric) is not None:
                    tasks.setdefault(task, {}).setdefault(metric, []).append(values[metric])
    return {
        "name": name,
        "split": split,
        "seeds": list(runs),
        "tasks": {
            task: {
                metric: {
                    "mean": statistics.fmean(values),
                    "sd": statistics.stdev(values) if len(values) > 1 else None,
                    "values": values,
                }
                for metric, values in metrics.items()
            }
            for task, metrics in tasks.items()
        },
        "paper": next((metrics["paper"] for metrics in runs.values() if "paper" in metrics), {}),
    }


def format_summaries(summaries: Sequence[Mapping[str, Any]]) -> str:
    """A table on the terminal: a row per configuration and task, `mean +- sd` per metric; one sentence without runs."""
    rows = [(s, task, values) for s in summaries for task, values in s["tasks"].items()]
    if not rows:
        return "no finished runs"
    metrics = [metric for metric in SHOWN if any(metric in values for _, _, values in rows)]
    paper = any(s["paper"] for s in summaries)
    cells = [["", "task", *(_HEADINGS[metric] for metric in metrics), *(["paper's AUC"] if paper else [])]]
    for summary, task, values in rows:
        seeds, published = len(summary["seeds"]), summary["paper"].get(task, {}).get("auc")
        cells.append(
            [
                f"{summary['name']} ({seeds} seed{'s' if seeds > 1 else ''})",
                task,
                *(_mean_sd(values.get(metric)) for metric in metrics),
                *([metric_text(published) if published is not None else MISSING] if paper else []),
            ]
        )
    return "\n".join(aligned(cells))


def _mean_sd(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return MISSING
    mean = metric_text(value["mean"])
    if value["sd"] is None:
        return mean
    return f"{mean} +- {metric_text(value['sd']) if 'e' in mean else format(value['sd'], '.4f')}"
