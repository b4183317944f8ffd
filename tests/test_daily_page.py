"""docs/daily.md: its file is the example's, it names every key, its commands run and print what the page shows."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ple_rec
from ple_rec.cli import main
from ple_rec.cli.app import parse
from ple_rec.config.base import Config
from ple_rec.config.daily import DAILY_CONFIGS, DailyConfig, ExportStep, GateConfig, PrepStep, TrainStep
from ple_rec.config.load import load_config
from ple_rec.runtime.exits import GATE_REFUSED
from tests.test_readme import blocks

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "daily.md").read_text()
EXAMPLE = REPOSITORY / "docs" / "examples" / "feed_daily.toml"
REFIT = EXAMPLE.with_name("feed_refit.toml")
# Metrics and sizes depend on the machine; signs of gains do, too, where they are near 0.
VARIES = re.compile(r"[-+]?\b\d+\.\d+\b|[-+](?=\d+\.\d)|[\d,]+ bytes|\bstep-\d+")


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [command.replace("\\\n", " ") for block in blocks(PAGE) for command in block.commands]


def steady(text: str) -> list[str]:
    return [VARIES.sub("_", line) for line in text.strip().splitlines()]


def test_the_file_of_the_page_is_that_of_the_example() -> None:
    text, refit = fenced("toml")
    assert tomllib.loads(refit) == tomllib.loads(REFIT.read_text())
    page, example = tomllib.loads(text), tomllib.loads(EXAMPLE.read_text())
    for step in ("prep", "train"):  # relative to the folder of the example, and on the page to the working directory
        page[step]["config"] = page[step]["config"].removeprefix("docs/examples/")
    assert page == example
    config = load_config(DailyConfig, EXAMPLE, kind=DAILY_CONFIGS)
    assert all((EXAMPLE.parent / each.config).is_file() for each in (config.prep, config.train))


def test_a_refit_differs_from_its_chain_in_what_the_page_says() -> None:
    chain, refit = (load_config(DailyConfig, file, kind=DAILY_CONFIGS) for file in (EXAMPLE, REFIT))
    assert refit.prep.overrides[: len(chain.prep.overrides)] == chain.prep.overrides
    same_lists = {
        "folder": chain.folder,
        "prep": refit.prep.model_copy(update={"overrides": chain.prep.overrides}),
        "train": refit.train.model_copy(update={"overrides": chain.train.overrides}),
    }
    assert refit.model_copy(update=same_lists) == chain


def test_the_page_names_every_key() -> None:
    steps: dict[str, type[Config]] = {"prep": PrepStep, "train": TrainStep, "export": ExportStep, "gate": GateConfig}
    keys = [name for name in DailyConfig.model_fields if name not in steps]
    keys += [f"{step}.{name}" for step, section in steps.items() for name in section.model_fields]
    assert len(keys) > 20
    assert [key for key in keys if f"`{key}`" not in PAGE and f"`{key} = " not in PAGE] == []


def test_the_table_names_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    codes = set(re.findall(r"^\| (\d[\d, ]*) \|", PAGE, re.MULTILINE))
    assert {int(code) for cell in codes for code in cell.split(",")} == {0, 1, 2, 3, 4, 6, 75, 130, 137, 143}
    assert f"{GATE_REFUSED} the gate refused" in PAGE or GATE_REFUSED == 6


def test_every_command_of_the_page_can_be_parsed() -> None:
    indented = re.findall(r"^    +(ple-rec .*)$", PAGE.replace("\\\n", " "), re.MULTILINE)
    verbs = set()
    for command in [*commands(), *indented]:
        program, *argv = shlex.split(command, comments=True)
        if program == "ple-rec":
            verbs.add(parse(argv).verb)
    assert verbs == {"daily", "export", "fuse", "serve"}


@pytest.mark.slow
def test_the_commands_run_and_print_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")
    monkeypatch.chdir(tmp_path)
    printed = []
    for command in commands():
        program, *argv = shlex.split(command)
        if program == "python":
            monkeypatch.setattr(sys, "argv", argv)
            runpy.run_path(argv[0], run_name="__main__")
            capsys.readouterr()
            continue
        if program == "rm":
            subprocess.run([program, *argv], check=True)
            continue
        train = ["train.epochs=2"] if "refit" in command else []
        argv += ["--set", f"train.overrides={json.dumps([*train, 'runtime.device=cpu', 'runtime.threads=1'])}"]
        assert main(argv) == (GATE_REFUSED if "learning_rate" in command else 0), command
        printed.append(capsys.readouterr().out)
    *summaries, following, refit = printed
    assert [steady(text) for text in summaries] == [steady(text) for text in fenced("text")[: len(summaries)]]
    day = json.loads(following)
    assert (day["verdict"], day["day"]) == ("published", "2024-05-10")
    assert day["started_from"].startswith("data/feed-days/runs/2024-05-09:")
    day = json.loads(refit)
    assert (day["verdict"], day["form"], day["compared_with"]) == ("published", "whole", "v4")
    assert Path("models/feed/latest").read_text().strip() == "v5"
    (request,) = re.findall(r"-d '(.*)'$", PAGE, re.MULTILINE)
    assert len(ple_rec.load_model("models/feed").rank(**json.loads(request))) == 2
