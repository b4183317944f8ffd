"""Logs as people have them, and `ple-rec init` on them."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import random
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.cli import main

ROWS = 3_000


def write_csv(path: Path, delimiter: str = ",", days: int = 6, text_users: bool = False) -> None:
    """Write a log as people have them: odd names, words for missing values, texts that are lists, columns of no use."""
    draw = random.Random(1)
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        rows = csv.writer(file, delimiter=delimiter)
        names = (
            "impression_id,Customer ID,item,case,tags,price,bought,watch_time_sec,created_at,device,const,note,is_share"
        )
        rows.writerow(names.split(","))
        for i in range(ROWS):
            user, item = draw.randrange(200), draw.randrange(300)
            time = dt.datetime(2024, 3, 1) + dt.timedelta(seconds=86_400 * days * i / ROWS)
            bought = int(draw.random() < 0.2 + 0.001 * item)
            rows.writerow(
                [
                    *(f"imp-{i:08d}", f"cust{user}" if text_users else 1_000 + user, f"sku-{item}", draw.choice("abc")),
                    "|".join(draw.sample(["red", "blue", "big", "new", "old"], draw.randrange(4))),
                    round(draw.lognormvariate(2, 1.5), 2) if draw.random() > 0.1 else "NULL",
                    *(bought, round(max(0.0, draw.gauss(30, 20)), 1) if bought else "NULL"),
                    *(time.isoformat(sep=" "), draw.choice(["ios", "android", "NULL"]), 1, ""),
                    int(bought and draw.random() < 0.3),
                ]
            )


def init(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[dict[str, Any], list[list[str]]]:
    """Run the verb; return the prep file, and the commands that it prints."""
    assert main(["init", *argv]) == 0
    out = capsys.readouterr().out
    commands = [line.split("#")[0].split()[1:] for line in out.splitlines() if line.startswith("  ple-rec ")]
    return tomllib.loads(Path(argv[0], "prep.toml").read_text()), commands


def run(capsys: pytest.CaptureFixture[str], commands: list[list[str]]) -> str:
    """Run the commands that it prints, the first without --dry-run too; return what training prints."""
    prep, train = commands
    assert prep[-1] == "--dry-run"
    assert main(prep) == 0
    assert main(prep[:-1]) == 0
    capsys.readouterr()
    assert main([*train, "--set", "train.epochs=", "--set", "train.steps=8"]) == 0
    return capsys.readouterr().out


def small(rows: int = 600, users: int = 100) -> dict[str, Any]:
    """A log of six days."""
    draw = random.Random(3)
    return {
        "user_id": [draw.randrange(users) for _ in range(rows)],
        "click": [draw.randrange(2) for _ in range(rows)],
        "ts": [1_714_521_600 + 86_400 * 6 * i // rows for i in range(rows)],
    }


def accepted(columns: dict[str, Any], capsys: pytest.CaptureFixture[str], name: str = "log") -> dict[str, Any]:
    """Write a log, the file of `init`, and the dataset of that; return the file."""
    pq.write_table(pa.table(columns), f"{name}.parquet")
    config, commands = init(capsys, name, "--from", f"{name}.parquet")
    assert main(commands[0][:-1]) == 0, capsys.readouterr().err
    capsys.readouterr()
    return config


def names_of(config: dict[str, Any], section: str) -> dict[str, str]:
    """Return the values of the entries of a section by name."""
    return {each["name"]: each.get("value", each["name"]) for each in config.get(section, ())}
