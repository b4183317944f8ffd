"""docs/export.md: the commands of a delta are ones that the program takes, run, and print what the page shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ple_rec.cli.app import parse
from ple_rec.inference.load_version import load_ranker
from tests.test_prep_page import Here
from tests.test_readme import blocks

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "export.md").read_text()
COMMANDS = [command for block in blocks(PAGE) for command in block.commands]
APPEND = "--append day=9 --parent data/feed --set 'log.files=[\"log/day=2024-05-09\"]'"
NEXT = "--init-from feed --run-dir runs/feed-9 --set data.path=data/feed-9"
# Commands of docs/prep.md, after which the page goes on.
BEFORE = (
    "python docs/examples/feed_logs.py",
    "ple-rec prep docs/examples/feed.toml --from data/feed-raw --out data/feed",
    "ple-rec train --config docs/examples/feed_ple.toml",
    "python docs/examples/feed_logs.py 9 9",
    f"ple-rec prep docs/examples/feed.toml --from data/feed-raw --out data/feed-9 {APPEND}",
    f"ple-rec train --config docs/examples/feed_ple.toml {NEXT}",
)


def test_every_command_is_one_that_the_program_takes() -> None:
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        parse(shlex.split(command)[1:])


@pytest.mark.slow
def test_the_commands_print_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Here(tmp_path)
    for command in (*BEFORE, *COMMANDS[:1]):
        here.run(command, monkeypatch)
    capsys.readouterr()
    here.run(COMMANDS[1], monkeypatch)
    printed = capsys.readouterr().out.splitlines()
    (lines,) = re.findall(r"^```text\n(age: .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert set(lines.splitlines()) <= set(printed)
    here.run(COMMANDS[2], monkeypatch)
    versions = tmp_path / "models/feed/versions"
    assert load_ranker(versions / "v3").description["card"]["squashed"] == "v2"
