"""One configuration with several seeds: mean and standard deviation of every metric on the test split.

A finished run of the same configuration and dataset is reused, so an interrupted series goes on where it stopped.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ple_rec.config.load import dump_toml, fingerprint, load_schema
from ple_rec.config.run import RunConfig
from ple_rec.train.results import aligned
from ple_rec.train.run_dir import METRICS, write_json, write_text

SHOWN = ("auc", "ne", "logloss", "calibration", "mse", "rmse")
_HEADINGS = {
    "auc": "AUC",
    "ne": "NE",
    "logloss": "log loss",
    "calibration": "calibration",
    "mse": "MSE",
    "rmse": "RMSE",
}


def repeat(
    config: RunConfig, seeds: Sequence[int], directory: Path, start: Callable[[Path, Path], int]
) -> tuple[dict[str, Any], list[int]]:
    """Run every seed that has not been run, and summarise those that are finished.

    Args:
        config: Its `seed` is replaced.
        seeds: One run each, in `directory/seed-<n>`.
        directory: Also gets `repeat.json`, the summary.
        start: (configuration file, run directory) -> exit code: trains one run.

    Returns:
        The summary (see `summarise`) and the seeds whose run failed.

    Raises:
        UserError: the dataset directory is not there.
    """
    dataset = load_schema(config.data.path).fingerprint
    directory.mkdir(parents=True, exist_ok=True)
    finished, failed = {}, []
    for seed in seeds:
        seeded = config.model_copy(update={"seed": seed})
        run_dir = directory / f"seed-{seed}"
        metrics = _finished(run_dir, seeded, dataset)
        if metrics is None:
            file = directory / f"seed-{seed}.toml"
            write_text(file, dump_toml(seeded))
            if start(file, run_dir):
                failed.append(seed)
                continue
            metrics = _finished(run_dir, seeded, dataset)
            assert metrics is not None, f"{run_dir} ended with 0 but has no metrics of its configuration"
        finished[seed] = metrics
    summary = summarise(config.name, finished)
    write_json(directory / "repeat.json", summary)
    return summary, failed


def _finished(run_dir: Path, config: RunConfig, dataset: str) -> dict[str, Any] | None:
    try:
        metrics: dict[str, Any] = json.loads((run_dir / METRICS).read_text())
    except (OSError, ValueError):
        return None
    same = metrics.get("config_fingerprint") == fingerprint(config) and metrics.get("dataset_fingerprint") == dataset
    return metrics if same else None


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
    """A table on the terminal: a row per configuration and task, `mean +- sd` per metric."""
    rows = [(s, task, values) for s in summaries for task, values in s["tasks"].items()]
    metrics = [metric for metric in SHOWN if any(metric in values for _, _, values in rows)]
    paper = any(s["paper"] for s in summaries)
    cells = [["", "task", *(_HEADINGS[metric] for metric in metrics), *(["paper's AUC"] if paper else [])]]
    for summary, task, values in rows:
        published = summary["paper"].get(task, {}).get("auc")
        cells.append(
            [
                f"{summary['name']} ({len(summary['seeds'])} seeds)",
                task,
                *(_mean_sd(values.get(metric)) for metric in metrics),
                *([f"{published:.4f}" if published is not None else "-"] if paper else []),
            ]
        )
    return aligned(cells)


def _mean_sd(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.4f}" + ("" if value["sd"] is None else f" +- {value['sd']:.4f}")
