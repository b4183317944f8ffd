"""Gain of histories and of rates over a model without both, on users whose taste drifts and on KuaiRand.

    python -m benchmarks.histories drift [--data FOLDER] [--runs FOLDER]
    python -m benchmarks.histories kuairand [--data FOLDER] [--runs FOLDER]

It trains six models on one dataset, from which each reads its own features: neither histories nor rates, one of both,
or both; a history is the mean of its events ("mean") or their sum weighted by attention ("din"). Each model is first
trained with several settings and the first seed, and the setting with the best metric of the validation split is
taken. The test split is read only then: by each seed of each model once.

A gain is the difference of the metric between two models with the same seed, positive if the first model is better. It
has two intervals of 95 %, which docs/compare.md explains: over seeds, and over resampled users of the test split. The
last column says "better" or "worse" only if neither interval holds zero.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

import ple_rec
from benchmarks.harness import conditions, say
from data_prep.run import read_recipe
from ple_rec.analysis.compare.gain import Interval, gain, seed_interval
from ple_rec.analysis.compare.resampling import count_groups, metrics_of_rows, resampled_metrics, row_interval
from ple_rec.analysis.test_rows import RunScores, read_rows, score_split
from ple_rec.config.metrics import is_higher_better
from ple_rec.runs.layout import TEST_ROWS
from ple_rec.text import align_columns
from ple_rec.training.trained import load_trained_weights, open_trained_run

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
ID_TABLES = ("user", "video", "author", "music")


@dataclass(frozen=True)
class GainStudy:
    """Dataset, configuration and settings of the models.

    Args:
        prep: Preparation of the dataset: a recipe, or a TOML file.
        data: Folder of the dataset unless `--data` names another one.
        train: Configuration of the training: a recipe, or a TOML file.
        history: Name of the history.
        drop: Features that no model reads.
        settings: Alternative lists of overrides, by the name of the setting. Each model is trained with every setting
            and keeps the one with the best metric on the validation split.
        metrics: Task and metric of each gain.
    """

    prep: str
    data: str
    train: str
    history: str
    drop: tuple[str, ...]
    settings: Mapping[str, Sequence[str]]
    metrics: Sequence[tuple[str, str]]

    def rate_features(self) -> list[str]:
        """Return the names of the dense features that are rates."""
        config, _, _ = read_recipe(self.prep)
        return [name for rate in config.rates for name in rate.columns]


def _id_dropout(share: float, tables: Sequence[str]) -> list[str]:
    return [f"embeddings.tables.{table}.id_dropout={share}" for table in tables]


STUDIES = {
    "drift": GainStudy(
        prep=str(EXAMPLES / "drift.toml"),
        data="data/drift",
        train=str(EXAMPLES / "drift_din.toml"),
        history="clicked",
        drop=(),
        settings={
            "no id dropout": _id_dropout(0.0, ["user_id"]),
            "id dropout .9": _id_dropout(0.9, ["user_id"]),
        },
        metrics=[("click", "auc"), ("click", "ne")],
    ),
    "kuairand": GainStudy(
        prep="kuairand-six-days-rates-histories",
        data="data/kuairand-six-days-rates-histories",
        train="kuairand-rates-histories-ple",
        history="watched",
        drop=("weekday",),  # As in kuairand-ple.
        settings={
            "no id dropout": _id_dropout(0.0, ID_TABLES),
            "id dropout .9": _id_dropout(0.9, ID_TABLES),
            # Id dropout of videos and authors drops events of the history, too.
            "of users and music": [*_id_dropout(0.0, ID_TABLES), *_id_dropout(0.9, ("user", "music"))],
        },
        metrics=[
            ("valid_view", "auc"),
            ("completion", "mse"),
            ("like", "auc"),
            ("valid_view", "gauc"),
            ("like", "gauc"),
        ]
        + [(task, "auc") for task in ("follow", "share", "comment")],
    ),
}
# Kind of the history, and whether the model reads rates, by the name of the model.
MODELS: Mapping[str, tuple[str | None, bool]] = {
    "without": (None, False),
    "rates": (None, True),
    "mean": ("mean", False),
    "din": ("din", False),
    "rates, mean": ("mean", True),
    "rates, din": ("din", True),
}
# Model and the one over which its gain is computed.
PAIRS = (
    ("rates", "without"),
    ("mean", "without"),
    ("din", "without"),
    ("din", "mean"),
    ("rates, mean", "rates"),
    ("rates, din", "rates"),
    ("rates, din", "rates, mean"),
)
# Array (seeds, metrics) of a model on the test rows, and array (seeds, metrics, resamples) on their resamples.
Scores = tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]


def overrides_of(study: GainStudy, args: argparse.Namespace, model: str, setting: str) -> list[str]:
    """Return the overrides of the study's configuration for a model and a setting."""
    kind, reads_rates = MODELS[model]
    drop = [*study.drop, *([] if reads_rates else study.rate_features()), *([] if kind else [study.history])]
    # The empty value removes `history = "din"` of the configuration, which a model without the history does not use.
    more = [f"model.history={kind}"] if kind else ["model.history="]
    # The run itself reads no row of the test split; `score_test` does.
    more += ["evaluation.test=false", "runtime.threads=1", f"data.path={args.data or study.data}"]
    return [*more, f"data.drop={json.dumps(drop)}", *study.settings[setting], *args.set]


def train_run(args: argparse.Namespace, model_setting_seed: tuple[str, str, int]) -> tuple[Path, float]:
    """Train a model unless its run has finished; return its directory and its best value on valid, higher is better."""
    model, setting, seed = model_setting_seed
    study = STUDIES[args.study]
    torch.set_num_threads(1)
    run_dir = args.runs / args.study / f"{model} - {setting} - {seed}".replace(",", "").replace(" ", "_")
    with contextlib.redirect_stdout(sys.stderr):
        overrides = [*overrides_of(study, args, model, setting), f"seed={seed}"]
        # With "auto", a run that has finished is returned as it is, and one that was stopped goes on.
        run = ple_rec.train(study.train, run_dir=run_dir, overrides=overrides, resume="auto")
        value = cast(float, run.metrics["best_value"])
    best_metric = run.config.train.best_metric
    say(f"{model}, {setting}, seed {seed}: {best_metric} {value:.4f} on valid")
    return run_dir, value if is_higher_better(best_metric) else -value


def score_test(args: argparse.Namespace, run_dir: Path) -> Mapping[str, Any]:
    """Return labels and scores of all rows of the test split, by the best checkpoint of a run."""
    torch.set_num_threads(1)
    if not (run_dir / TEST_ROWS).exists():
        with open_trained_run(ple_rec.load_run(run_dir).config, run_dir, "best") as job:
            load_trained_weights(job, run_dir, "best")
            scores = RunScores(job.selection.tasks)
            with contextlib.closing(score_split(job, "test")) as batches:
                for batch, logits_BK, _ in batches:
                    scores.update(batch, logits_BK)
            scores.write(run_dir)
    tasks = list(dict.fromkeys(task for task, _ in STUDIES[args.study].metrics))
    rows = read_rows(run_dir, tasks)
    assert rows is not None, f"{run_dir}: {TEST_ROWS} is damaged"
    return rows


def score_model(args: argparse.Namespace, run_dirs: Sequence[Path]) -> tuple[Scores, list[int]]:
    """Return the metrics of a model on the test split and its resamples, and the number of groups of each task."""
    metrics = STUDIES[args.study].metrics
    tasks = list(dict.fromkeys(task for task, _ in metrics))
    numbered = [(tasks.index(task), metric) for task, metric in metrics]
    rows = [score_test(args, run_dir) for run_dir in run_dirs]
    values = np.stack([metrics_of_rows(run, numbered).ravel() for run in rows])
    resampled = np.stack([resampled_metrics(run, numbered) for run in rows])
    return (values, resampled), [count_groups(rows[0], task) for task, _ in numbered]


def verdict(intervals: Sequence[Interval | None]) -> str:
    """Return what intervals of a gain say: "better" and "worse" only if all lie on one side of zero."""
    if any(interval is None for interval in intervals):
        return "not judged"
    if all(cast(Interval, interval)[0] > 0 for interval in intervals):
        return "better"
    return "worse" if all(cast(Interval, interval)[1] < 0 for interval in intervals) else "noise"


def gain_lines(study: GainStudy, scores: Mapping[str, Scores], groups: Sequence[int]) -> list[str]:
    """Return a table of the gains of all pairs of models, by metric."""
    rows: list[tuple[str, ...]] = [("", "", "gain", "95 % over seeds", "95 % over rows", "")]
    for m, (task, metric) in enumerate(study.metrics):
        for model, baseline in ((a, b) for a, b in PAIRS if a in scores and b in scores):
            (values, resampled), (base_values, base_resampled) = scores[model], scores[baseline]
            gains = [gain(metric, *pair) for pair in zip(values[:, m], base_values[:, m], strict=True)]
            over_rows = row_interval(metric, [*resampled[:, m]], [*base_resampled[:, m]], groups[m])
            intervals = [seed_interval(gains), over_rows]
            cells = [f"{i[0]:+.4f} to {i[1]:+.4f}" if i else "-" for i in intervals]
            name = f"{task} {metric}" if (model, baseline) == PAIRS[0] else ""
            rows.append((name, f"{model} - {baseline}", f"{statistics.fmean(gains):+.4f}", *cells, verdict(intervals)))
    return align_columns(rows, left_columns=(0, 1, 5))


def value_lines(study: GainStudy, scores: Mapping[str, Scores], chosen: Mapping[str, str]) -> list[str]:
    """Return a table of the metrics of each model: mean and standard deviation over the seeds."""
    rows = [("", "setting chosen on valid", *(f"{task} {metric}" for task, metric in study.metrics))]
    for model, (values, _) in scores.items():
        deviations = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
        cells = (f"{mean:.4f} +- {sd:.4f}" for mean, sd in zip(values.mean(axis=0), deviations, strict=True))
        rows.append((model, chosen[model], *cells))
    return align_columns(rows, left_columns=(0, 1))


def closed_lines(reachable: Mapping[str, Mapping[str, float]], scores: Mapping[str, Scores]) -> list[str]:
    """Return the best reachable AUC of `drift_logs.py`, and the share of the gap to it that each model closes.

    Args:
        reachable: Metrics by observer, from `reachable.json`.
        scores: Metrics of the models on the test split; AUC is the first metric.
    """
    aucs = {model: float(values[:, 0].mean()) for model, (values, _) in scores.items()}
    lines = [f"best reachable AUC by {observer}: {best['auc']:.4f}" for observer, best in reachable.items()]
    start, best = aucs["without"], reachable["p_history"]["auc"]
    for model, auc in aucs.items():
        lines.append(f"{model}: {(auc - start) / (best - start):.0%} of the gap from `without` to p_history")
    return lines


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("study", choices=STUDIES)
    arguments.add_argument("--data", metavar="FOLDER", help="prepared dataset; default: that of the preparation")
    arguments.add_argument("--raw", type=Path, default=Path("data/drift-raw"), help="folder of reachable.json")
    arguments.add_argument("--runs", type=Path, default=Path("runs/histories"), help="finished runs there are reused")
    arguments.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], metavar="MODEL")
    arguments.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds of the models; default 3")
    arguments.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; default 1")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of every run")
    args = arguments.parse_args()
    study = STUDIES[args.study]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        trials = [(model, setting, 0) for model in args.models for setting in study.settings]
        results = dict(zip(trials, pool.map(partial(train_run, args), trials), strict=True))
        # Tuples are compared by their first entry, the value on the validation split, so `max` returns the best one.
        best = {model: max((results[model, name, 0][1], name) for name in study.settings) for model in args.models}
        chosen = {model: setting for model, (_, setting) in best.items()}
        # Runs with seed 0 have finished as trials, so `train_run` returns them and does not train them again.
        runs = [(model, chosen[model], seed) for model in args.models for seed in range(args.seeds)]
        folders = {run: folder for run, (folder, _) in zip(runs, pool.map(partial(train_run, args), runs), strict=True)}
        work = [[folders[model, chosen[model], seed] for seed in range(args.seeds)] for model in args.models]
        scored = list(pool.map(partial(score_model, args), work))
    scores, groups = {model: result for model, (result, _) in zip(args.models, scored, strict=True)}, scored[0][1]
    lines = [*value_lines(study, scores, chosen), "", *gain_lines(study, scores, groups), ""]
    if args.study == "drift" and "without" in scores:
        lines += [*closed_lines(json.loads((args.raw / "reachable.json").read_text())["test"], scores), ""]
    lines += [f"{key}: {value}" for key, value in conditions(args).items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
