"""The example of the raw form in docs/serve.md runs, and its requests have answers without gaps."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from ple_rec.cli import main
from ple_rec.inference.load_version import load_ranker, load_side_tables
from ple_rec.inference.model_dir import latest_version

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "serve.md").read_text()
EXAMPLES = REPOSITORY / "docs" / "examples"


def requests() -> list[dict[str, Any]]:
    blocks = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [document for block in blocks if "context" in (document := json.loads(block))["user"]]


@pytest.mark.usefixtures("no_charts")
def test_the_requests_of_the_page_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["feed_logs.py"])
    runpy.run_path(str(EXAMPLES / "feed_logs.py"), run_name="__main__")
    rich, ple = str(EXAMPLES / "feed_rich.toml"), str(EXAMPLES / "feed_ple.toml")
    assert main(["prep", rich, "--from", "data/feed-raw", "--out", "data/feed-rich"]) == 0
    settings = [
        "name=feed-rich",
        "data.path=data/feed-rich",
        "train.epochs=1",
        "runtime.device=cpu",
        "runtime.threads=1",
    ]
    assert main(["train", "--config", ple, *[part for each in settings for part in ("--set", each)]]) == 0
    tables = ["--tables", "user", "video", "content", "--from", "data/feed-raw"]
    assert main(["export", "feed-rich", "--out", "models/feed-rich", *tables]) == 0
    version = latest_version(Path("models/feed-rich"))
    without_tables = load_ranker(version)
    with_tables, misfits = load_side_tables(without_tables, version)
    assert misfits == []
    with_columns, by_id = requests()
    for ranker, document in ((without_tables, with_columns), (with_tables, by_id)):
        (answer,) = ranker.answer([ranker.read_rank(document)])
        assert len(answer["items"]) == 2
        assert not answer.keys() & {"missing", "unknown"}
    (answer,) = without_tables.answer([without_tables.read_rank(by_id)])
    assert {"user.age", "video.plays", "video.uploaded", "content.embedding"} <= {*answer["missing"]}
