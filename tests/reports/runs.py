"""A small run directory with every file, and a parsed report to look into."""

import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

from ple_rec.reports.run import page
from ple_rec.reports.run.page import run_page, write_report
from ple_rec.runs.read import RunFiles

VOID = {"meta", "link", "br"}

CONFIG = """name = "census-ple"
seed = 7

[model]
variant = "ple"

[data]
path = "data/census"
"""
PLAN = {
    "version": 1,
    "world_size": 2,
    "tables": [
        {
            "table": "state",
            "rows": 51,
            "dim": 16,
            "bytes": 3264,
            "sharding": "table_wise",
            "kernel": "fused",
            "ranks": [1],
        },
        {
            "table": "user",
            "rows": 46_926_000,
            "dim": 16,
            "bytes": 3_003_264_000,
            "sharding": "row_wise",
            "kernel": "fused",
            "ranks": [0, 1, 2, 5],
        },
    ],
}
TEST = {
    "income": {
        "auc": 0.95831,
        "auc_error_bound": 2e-5,
        "ne": 0.57123,
        "logloss": 0.12163,
        "calibration": 1.00412,
        "samples": 49881,
        "positives": 3093,
        "mean_label": 0.06201,
    },
    "vcr": {"mse": 0.13071, "rmse": 0.36154, "mae": 0.28013, "samples": 49882},
}
VALID = {"income": {"auc": 0.95712, "ne": 0.58001}, "vcr": {"mse": 0.13222}}
GATES = [
    {
        "level": 1,
        "outputs": ["income", "shared"],
        "experts": ["income.0", "vcr.0", "shared.0"],
        "mean": [[0.25, None, 0.75], [0.125, 0.5, 0.375]],
        "std": [[0.0625, None, 0.0625], [0.01, 0.02, 0.03]],
    }
]
HEALTH: list[dict[str, Any]] = [
    {
        "table": "user",
        "rows": 46_926_001,
        "dim": 16,
        "never_touched": 23_463,
        "norms": {"0": 0.001, "0.01": 0.002, "0.1": 0.01, "0.5": 0.02, "0.9": 0.04, "0.99": 0.08, "1": 0.1},
        "top_share": 0.25,
        "lookups": 199_000_000,
    }
]
METRICS: dict[str, Any] = {
    "valid": {"tasks": VALID},
    "test": {
        "tasks": TEST,
        "curves": {
            "income": {
                "calibration": [{"predicted": p, "observed": 1.1 * p, "weight": 10.0} for p in (1e-4, 1e-3, 1e-2, 0.2)],
                "roc": [[0, 0], [0.1, 0.8], [1, 1]],
            }
        },
        "gates": GATES,
    },
    "table_health": HEALTH,
    "samples_per_second": 131876.2,
    "config_fingerprint": "6b1f0c2d9a3e",
    "dataset_fingerprint": "a95a29a5430d",
    "parameters": {"dense": 412345, "tables": 793728992},
    "flops_per_sample": 823456,
    "best_step": 300,
    "best_metric": "mean.auc",
    "best_value": 0.90625,
    "versions": {"torch": "2.13.0+cpu"},
    "paper": {"income": {"auc": 0.9522, "model": "PLE", "table": "Table 5"}},
}


def records() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(100, 600, 100):
        ne = 0.55 + 0.4 * math.exp(-step / 200)
        income = {"loss": ne / 4, "ne": ne, "auc": 1 - ne / 10, "weight": 1.0}
        rows.append(
            {
                "split": "train",
                "step": step,
                "epoch": step // 250,
                "samples": step * 4096,
                "seconds": step * 0.5,
                "loss": 0.4,
                "learning_rate": 1e-3,
                "tasks": {"income": income, "vcr": {"loss": 0.13, "weight": 1.0}},
                "samples_per_second": 130_000 + step,
                "data_wait": 0.02,
                "peak_bytes": 1_950_000_000,
            }
        )
        evaluation = {"income": {"auc": 0.95, "ne": ne, "logloss": ne / 4}, "vcr": {"mse": 0.14, "rmse": 0.37}}
        rows.append({"split": "valid", "step": step, "tasks": evaluation})
    return rows


def make_run(
    directory: Path,
    metrics: Any = METRICS,
    log: list[dict[str, Any]] | None = None,
    config: str = CONFIG,
    plan: Any = PLAN,
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(config)
    (directory / "plan.json").write_text(json.dumps(plan))
    (directory / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (records() if log is None else log))
    )
    (directory / "metrics.json").write_text(json.dumps(metrics))
    return directory


class Page(HTMLParser):
    """A parsed report: its elements, its text, and a check that every tag is closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def section(self, anchor: str) -> str:
        """The text of one section."""
        found = re.search(rf'<section id="{anchor}">(.*?)</section>', self.source, flags=re.DOTALL)
        assert found, f"no section {anchor}"
        return Page(found.group(1)).text

    def svgs(self, kind: str = "svg xmlns") -> list[ET.Element]:
        """The charts, or with another `kind` the SVG elements whose tags start with it."""
        return [ET.fromstring(svg) for svg in re.findall(rf"<{kind}.*?</svg>", self.source, flags=re.DOTALL)]

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(name)) is not None]


def in_memory(**metrics: Any) -> RunFiles:
    """A run of which only `metrics.json` is there, with this content."""
    run = RunFiles(Path("run"))
    run.metrics = metrics
    return run


def report(directory: Path) -> Page:
    return Page(write_report(directory).read_text(encoding="utf-8"))


def section(run: RunFiles, anchor: str) -> Page:
    """Return one section of a run's report without its heading; nothing where it is left out."""
    only = [each for each in page.SECTIONS if each.anchor == anchor]
    with mock.patch.object(page, "SECTIONS", only):
        found = re.search(r"<section[^>]*><h2>[^<]*</h2>(.*)</section>", run_page(run), flags=re.DOTALL)
    return Page(found.group(1).strip() if found else "")
