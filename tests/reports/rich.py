"""A made-up run with everything that a report can show: four tasks, three levels, twenty tables, three slicings."""

import json
import math
import random
from pathlib import Path
from typing import Any

TASKS = ("click", "like", "follow", "watch_ratio")
PAPER = {"model": "PLE", "table": "Table 5"}
LONG = "Democratic Republic of the Congo with Kinshasa, Lubumbashi, Mbuji-Mayi, Kananga and Kisangani"
CONFIG = """name = "feed-ple"
seed = 11

[model]
variant = "ple"

[data]
path = "data/feed"

[evaluation]
slices = ["age_band", "country", "device"]
"""
TABLES = (("user", 46_926_000), ("video", 2_682_000), ("author", 310_000), ("music", 88_000), ("query", 41_000))


def write_rich_run(directory: Path, *, steps: int = 60, gates: list[dict[str, Any]] | None = None) -> Path:
    """Write the four files of a finished run; equal arguments give equal files."""
    random_ = random.Random(0)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(CONFIG)
    (directory / "plan.json").write_text(json.dumps(_plan()))
    rows = [record for index in range(steps) for record in _records(random_, index, steps)]
    (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "metrics.json").write_text(json.dumps(_metrics(random_, steps, gates)))
    return directory


def _table_sizes() -> list[tuple[str, int]]:
    return [*TABLES, *((f"profile_{i:02d}", 12 + 37 * i * i) for i in range(15))]


def _plan() -> dict[str, Any]:
    tables = [
        {
            "table": name,
            "rows": rows,
            "dim": 16,
            "bytes": 64 * rows,
            "sharding": kind,
            "kernel": "fused",
            "ranks": ranks,
        }
        for name, rows in _table_sizes()
        for kind, ranks in [("row_wise", [0, 1, 2, 3]) if rows > 10_000 else ("table_wise", [rows % 4])]
    ]
    return {"version": 1, "world_size": 4, "tables": tables}


def _records(random_: random.Random, index: int, steps: int) -> list[dict[str, Any]]:
    t, step = (index + 1) / steps, 100 * (index + 1)
    fall = math.exp(-6 * t)
    weights = {"click": 1.0, "like": 0.995**index, "follow": 2.0 * 0.9**index, "watch_ratio": 0.5}
    tasks: dict[str, Any] = {}
    for place, task in enumerate(TASKS):
        noise = random_.gauss(0, 0.004)
        base = {"loss": 0.2 + 0.1 * place + 0.4 * fall + noise, "weight": weights[task]}
        if task == "watch_ratio":
            tasks[task] = {**base, "rmse": 0.36 + 0.1 * fall + noise}
        else:
            tasks[task] = {**base, "ne": 0.6 + 0.05 * place + 0.4 * fall + 3 * noise, "auc": 0.9 - 0.3 * fall + noise}
    train = {
        "split": "train",
        "step": step,
        "epoch": index // 20,
        "samples": step * 4096,
        "seconds": step * 0.03,
        "loss": 0.4,
        "learning_rate": 1e-3 * (1 - 0.9 * t),
        "tasks": tasks,
        "samples_per_second": 132_000 + random_.gauss(0, 4000),
        "data_wait": abs(random_.gauss(0.02, 0.006)),
        "peak_bytes": 1_950_000_000,
    }
    if (index + 1) % 5:
        return [train]
    valid = {task: {**values, "auc": 0.89 - 0.3 * fall} for task, values in tasks.items() if task != "watch_ratio"}
    valid["watch_ratio"] = {"mse": 0.13 + 0.08 * fall, "rmse": 0.362 + 0.1 * fall, "mae": 0.28 + 0.1 * fall}
    return [train, {"split": "valid", "step": step, "tasks": valid}]


def _metrics(random_: random.Random, steps: int, gates: list[dict[str, Any]] | None) -> dict[str, Any]:
    whole = {task: _task_metrics(task, 0.9 - 0.03 * place, 249_881) for place, task in enumerate(TASKS)}
    whole["click"] |= {
        "gauc": 0.6412,
        "gauc_groups": 8120,
        "gauc_excluded_groups": 412,
        "gauc_oversized_groups": 3,
        "gauc_ungrouped": 1_204,
        "gauc_interval": [0.638, 0.6441],
        "auc_error_bound": 2e-5,
    }
    power = {"click": 0.12, "like": 0.15, "follow": 0.2}
    curves = {
        task: {
            "calibration": [
                {"predicted": p, "observed": p * (1 + random_.gauss(0, 0.07)), "weight": 5000 / (1 + k)}
                for k in range(10)
                for p in [1e-4 * 2.2**k if task == "follow" else 0.02 + 0.09 * k]
            ],
            "roc": [[x / 100, (x / 100) ** power[task]] for x in range(101)],
        }
        for task in TASKS[:3]
    }
    test = {
        "tasks": whole,
        "curves": curves,
        "gates": _gates(random_) if gates is None else gates,
        "slices": [
            _slice(random_, "age_band", ["18-24", "25-34", "35-49", "50-64", "65+"], {"missing": True}),
            _slice(
                random_,
                "country",
                ["BR", "US", "IN", "DE", "FR", "JP", LONG],
                {"other": True},
            ),
            _slice(random_, "device", ["phone", "tablet", "tv"], None),
        ],
    }
    return {
        "valid": {"tasks": whole},
        "test": test,
        "paper": {"click": {"auc": 0.9522, **PAPER}, "watch_ratio": {"mse": 0.0144, **PAPER}},
        "table_health": _health(random_),
        "samples_per_second": 131876.2,
        "config_fingerprint": "6b1f0c2d9a3e",
        "parameters": {"dense": 412345, "tables": 793728992},
        "flops_per_sample": 823456,
        "best_step": 100 * (steps // 5 * 4),
        "versions": {"python": "3.11.7", "torch": "2.13.0+cpu", "torchrec": "1.8.0"},
    }


def _task_metrics(task: str, level: float, samples: int) -> dict[str, Any]:
    means = {"mean_label": 1 - level, "mean_prediction": 1.1 - level}
    if task == "watch_ratio":
        mse = (1 - level) ** 2
        return {"mse": mse, "rmse": 1 - level, "mae": 0.8 * (1 - level), "samples": samples, "r2": 1 - mse, **means}
    return {
        "auc": level,
        "auc_error_bound": 0.0,
        "ne": 1.5 - level,
        "logloss": 0.4 - level / 3,
        "calibration": 1.5 - level / 1.8,
        "samples": samples,
        "positives": int(samples * (1 - level)),
        **means,
    }


def _slice(random_: random.Random, column: str, names: list[str], last: dict[str, Any] | None) -> dict[str, Any]:
    values: list[dict[str, Any]] = []
    sizes = [90_000 // (place + 1) for place in range(len(names))]
    sizes[-1] = 61
    for name, size in zip(names, sizes, strict=True):
        tasks = {
            task: _task_metrics(task, 0.9 - 0.03 * place + random_.gauss(0, 0.01), size)
            for place, task in enumerate(TASKS)
        }
        values.append({"value": name, "samples": size, "tasks": tasks})
    values[-1]["tasks"]["follow"] |= {"auc": None, "ne": None, "positives": 0}
    if last is not None:
        tasks = {task: _task_metrics(task, 0.89 - 0.03 * place, 4_120) for place, task in enumerate(TASKS)}
        values.append({"value": None, **last, "samples": 4_120, "tasks": tasks})
    return {"column": column, "values": values}


def softmax_gate(
    random_: random.Random, level: int, owners: tuple[str, ...], each: int, *, shared: bool
) -> dict[str, Any]:
    """A level of PLE: `each` experts per owner, the last owner's shared; outputs read their own and the shared ones."""
    experts = [f"{owner}.{index}" for owner in owners for index in range(each)]
    outputs = list(owners if shared else owners[:-1])
    mean: list[list[float | None]] = []
    for output in outputs:
        read = [output == owners[-1] or expert.rpartition(".")[0] in (output, owners[-1]) for expert in experts]
        raw = [math.exp(random_.gauss(0, 1)) if reads else 0.0 for reads in read]
        mean.append([value / sum(raw) if reads else None for value, reads in zip(raw, read, strict=True)])
    std = [[None if value is None else value * random_.uniform(0.1, 0.9) for value in row] for row in mean]
    return {"level": level, "mixing": "softmax", "outputs": outputs, "experts": experts, "mean": mean, "std": std}


def gates_of_every_kind() -> list[dict[str, Any]]:
    """PLE with 20 outputs over 60 experts, cross-stitch with weights of either sign, concatenation, a mix of levels."""
    names = [f"task_{index:02d}" for index in range(19)]
    wide = softmax_gate(random.Random(0), 1, (*names, "shared"), 3, shared=True)
    three = {"outputs": names[:3], "experts": [f"{name}.0" for name in names[:3]], "std": [[0.0] * 3] * 3}
    stitch = {
        **three,
        "level": 2,
        "mixing": "stitch",
        "mean": [[0.99, -0.05, 0.1], [0.3, 0.7, -0.98], [-0.6, 0.02, 0.8]],
    }
    concat = {**three, "level": 3, "mixing": "concat", "mean": [[1, None, 1], [1, 1, None], [None, None, 1]]}
    levels = {"level": None, "mixing": "levels", "outputs": names[:2], "experts": ["level 1", "level 2"]}
    return [wide, stitch, concat, {**levels, "mean": [[0.3, 0.7], [1.0, 0.0]], "std": [[0.0, 0.0]] * 2}]


def _gates(random_: random.Random) -> list[dict[str, Any]]:
    owners = (*TASKS, "shared")
    return [softmax_gate(random_, level, owners, 2, shared=level < 3) for level in (1, 2, 3)]


def _health(random_: random.Random) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for place, (name, rows) in enumerate(_table_sizes()):
        middle = 0.02 * 1.3**place
        norms = {
            share: middle * factor
            for share, factor in zip(
                ("0", "0.01", "0.1", "0.5", "0.9", "0.99", "1"), (0.2, 0.3, 0.6, 1.0, 2.0, 3.5, 5.0), strict=True
            )
        }
        entries.append(
            {
                "table": name,
                "rows": rows,
                "dim": 16,
                "never_touched": int(rows * random_.uniform(0, 0.3)) if rows > 1000 else 0,
                "norms": norms,
                "top_share": random_.uniform(0.05, 0.6),
                "lookups": 24_576_000,
            }
        )
    entries[0] |= {"never_touched": 29_112_345, "top_share": 0.93}
    entries[1]["norms"] |= {"1": 9.7}
    entries[2] |= {"lookups": None, "top_share": None, "never_touched": None}
    return entries
