"""Table of docs/kuairand.md on rates, ids and id dropout, beside gradient-boosted trees.

    pip install lightgbm==4.7.0 scikit-learn
    python docs/examples/kuairand_rates.py

It reads data/kuairand-six-days and data/kuairand-six-days-rates, and trains each model with three seeds into
runs/rates. Every setting was chosen on the validation day; the table is about the test day.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lightgbm
import pandas
import pyarrow.parquet as pq
from sklearn.metrics import mean_squared_error, roc_auc_score

from ple_rec.config.load import load_schema
from ple_rec.config.schema import Task

DATA, RUNS, SEEDS = Path("data/kuairand-six-days-rates"), Path("runs/rates"), 3
IDS = ("user_id", "video_id", "author_id", "music_id", "tags")
ID_TABLES = ("user", "video", "author", "music")
NO_DROPOUT = [f"embeddings.tables.{table}.id_dropout=" for table in ID_TABLES]
HALF = [f"embeddings.tables.{table}.id_dropout=0.5" for table in ID_TABLES]
NO_IDS = ["embeddings.tables=", f"data.drop={json.dumps(['weekday', *IDS])}"]
# Recipe and overrides of each model, by its name in the table.
MODELS: Mapping[str, tuple[str, Sequence[str]]] = {
    "PLE, no rates": ("kuairand-ple", []),
    "PLE with rates": ("kuairand-rates-ple", NO_DROPOUT),
    "PLE with rates, no ids": ("kuairand-rates-ple", NO_IDS),
    "PLE with rates, id dropout .5": ("kuairand-rates-ple", HALF),
    "PLE with rates, id dropout .9 (the recipe)": ("kuairand-rates-ple", []),
    "single-task with rates, id dropout .9": ("kuairand-rates-single-task", []),
}
# Features of the trees whose numbers have an order; they take the other sparse features as categories.
ORDERED = ("duration_part", "hour", "follow_user_num", "fans_user_num", "friend_user_num", "register_days")
TREES = {"verbose": -1, "num_threads": 1, "learning_rate": 0.03, "num_leaves": 7, "min_data_in_leaf": 100} | {
    "feature_fraction": 0.4,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "cat_smooth": 200,
    "cat_l2": 100,
    "lambda_l2": 10,
}
# Task, metric and decimals of each column of the table.
COLUMNS = {
    "valid view": ("valid_view", "auc", 4),
    "completion, MSE": ("completion", "mse", 4),
    "like": ("like", "auc", 3),
    "follow": ("follow", "auc", 3),
    "share": ("share", "auc", 3),
    "comment": ("comment", "auc", 3),
    "GAUC valid view": ("valid_view", "gauc", 3),
    "GAUC like": ("like", "gauc", 3),
}
Metrics = Mapping[str, Mapping[str, float]]


def network_metrics(recipe: str, overrides: Sequence[str], folder: Path) -> list[Metrics]:
    """Train a recipe with each seed, and return the test metrics by seed and task.

    Args:
        recipe: Name of the recipe.
        overrides: Changes of its keys.
        folder: Folder of the runs; finished runs are reused.
    """
    command = ["ple-rec", "repeat", "--config", recipe, "--seeds", str(SEEDS), "--runs", str(folder)]
    for override in ["runtime.threads=1", *overrides]:
        command += ["--set", override]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    files = sorted(folder.glob("*/seed-*/metrics.json"))
    return [json.loads(file.read_text())["test"]["tasks"] for file in files]


def gauc(group: pandas.Series[Any], label: pandas.Series[Any], score: pandas.Series[Any]) -> float:
    """Return the AUC within a user, averaged over users with both classes, weighted by their rows."""
    by_user = pandas.DataFrame({"group": group, "label": label, "score": score}).groupby("group")
    users = [user for _, user in by_user if user.label.nunique() == 2]
    aucs = [roc_auc_score(user.label, user.score) for user in users]
    return float(sum(auc * len(user) for auc, user in zip(aucs, users, strict=True)) / sum(map(len, users)))


def tree_metrics(task: Task, splits: Mapping[str, pandas.DataFrame], columns: Sequence[str], seed: int) -> Any:
    """Fit trees to a task, as many as validation wants, and return their test metrics."""
    binary = task.kind == "binary"
    rows = {name: split if task.space is None else split[split[task.space]] for name, split in splits.items()}
    nominal = [name for name in columns if str(rows["train"][name].dtype).startswith("int") and name not in ORDERED]
    train = lightgbm.Dataset(rows["train"][columns], rows["train"][task.label], categorical_feature=nominal)
    valid = lightgbm.Dataset(rows["valid"][columns], rows["valid"][task.label], reference=train)
    settings = TREES | {"objective": "binary" if binary else "regression", "seed": seed}
    stop = lightgbm.early_stopping(60, verbose=False)
    model = lightgbm.train(settings, train, 1500, valid_sets=[valid], callbacks=[stop])
    test = rows["test"]
    score = pandas.Series(model.predict(test[columns]), test.index)
    if not binary:
        return {"mse": mean_squared_error(test[task.label], score)}
    label = test[task.label]
    return {"auc": roc_auc_score(label, score), "gauc": gauc(test["group"], label, score)}


def all_tree_metrics() -> list[Metrics]:
    """Return the test metrics of trees by seed and task; they read the features of the networks without ids."""
    schema = load_schema(DATA)
    columns = [feature.name for feature in (*schema.sparse, *schema.dense) if feature.name not in (*IDS, "weekday")]
    splits = {split: pq.read_table(DATA / split).to_pandas() for split in ("train", "valid", "test")}
    names = [task for task, _, _ in COLUMNS.values()]
    tasks = [task for task in schema.tasks if task.name in names]
    return [{task.name: tree_metrics(task, splits, columns, seed) for task in tasks} for seed in range(SEEDS)]


def main() -> None:
    """Print a row for each model: mean and standard deviation over the seeds."""
    print(f"| model | {' | '.join(COLUMNS)} |\n|---{'|---' * len(COLUMNS)}|")
    models = {name: network_metrics(*model, RUNS / str(i)) for i, (name, model) in enumerate(MODELS.items())}
    for name, metrics in (models | {"gradient-boosted trees with rates, no ids": all_tree_metrics()}).items():
        print(f"| {name}", end="")
        for task, metric, digits in COLUMNS.values():
            values = [seed[task][metric] for seed in metrics]
            cell = f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"
            print(f" | {cell.replace('0.', '.')}", end="")
        print(" |")


if __name__ == "__main__":
    main()
