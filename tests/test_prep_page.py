"""docs/prep.md and docs/examples/feed*: the commands run, print what the page shows, and every block of TOML prepares.

The fast tests run the dry run of the example and read every block; the slow ones run all commands and a dry run of
every block.

A `toml` block of the page is a piece of docs/examples/feed.toml, or goes with it: a section stands in the place of the
one of its name, an entry of `[[sparse]]`, `[[dense]]` or `[[tasks]]` in that of the entry of its name, or beside them.
"""

from __future__ import annotations

import gzip
import json
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import tomli_w
from pydantic import BaseModel

from data_prep.dry_run import dry_run
from data_prep.expressions import describe
from data_prep.run import Options, read_recipe
from data_prep.stats.page import SECTIONS
from ple_rec.cli import main
from ple_rec.cli.app import parse
from ple_rec.config.prep import PrepConfig
from ple_rec.config.schema import STATS_FILE
from tests.test_readme import blocks

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "prep.md").read_text()
FEED = (REPOSITORY / "docs" / "examples" / "feed.toml").read_text()
RAW = "data/feed-raw"
# What depends on the machine or on the version of a writer: sizes of files, room, cores, fingerprints.
VARIES = re.compile(r"\b[\d.]+ (?:B|KiB|MiB|GiB|TiB)\b|\b[0-9a-f]{12}\b|\d+ cores?|\d+ bytes a row")


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands(slow: bool) -> list[str]:
    return [command for block in blocks(PAGE) if block.slow is slow for command in block.commands]


def steady(text: str) -> list[str]:
    return [" ".join(VARIES.sub("_", line).split()) for line in text.splitlines()]


class Here:
    """A working directory in which commands of the page run, in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "docs").symlink_to(REPOSITORY / "docs")

    def run(self, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
        program, *argv = shlex.split(command.replace("\\\n", " "))
        monkeypatch.chdir(self.folder)
        if program == "ple-rec":
            epochs = ["--set", "train.epochs=1", "--set", "runtime.device=cpu", "--set", "runtime.threads=1"]
            assert main([*argv, *(epochs if argv[0] == "train" else [])]) == 0, command
            return
        assert program == "python", command
        monkeypatch.setattr(sys, "argv", argv)
        runpy.run_path(argv[0], run_name="__main__")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Here:
    return Here(tmp_path_factory.mktemp("ple rec"))


@pytest.fixture(scope="module")
def raw(here: Here) -> Path:
    """The raw logs of the page."""
    with pytest.MonkeyPatch.context() as patch:
        here.run(commands(slow=False)[0], patch)
    return here.folder / RAW


@pytest.fixture(scope="module")
def raw_with_csv(raw: Path) -> Path:
    """The raw logs, and the same as CSV."""
    (raw / "log_csv").mkdir()
    for file in sorted(raw.glob("log/*/*.parquet")):
        table = pq.ParquetFile(file).read().drop_columns("recency")
        lists = pa.array(["|".join(videos) for videos in table["history"].to_pylist()])
        table = table.set_column(table.column_names.index("history"), "history", lists)
        with gzip.open(raw / "log_csv" / f"{file.parent.name}.csv.gz", "wb") as stream:
            pacsv.write_csv(table, stream)
    return raw


def outputs(
    here: Here, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[list[str]]:
    """Run commands of the page; what each prints, line by line."""
    found = []
    for command in lines:
        capsys.readouterr()
        here.run(command, monkeypatch)
        found.append(steady(capsys.readouterr().out))
    return found


def shown(beginning: str) -> list[list[str]]:
    """The lines of the outputs on the page that begin so."""
    return [steady(text) for text in fenced("text") if text.startswith(beginning)]


def test_the_dry_run_prints_what_the_page_shows(
    here: Here, raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (output,) = outputs(here, commands(slow=False)[1:], monkeypatch, capsys)
    (lines,) = shown("feed: a dry run")
    assert output[: len(lines)] == lines


def test_every_command_is_one_that_the_program_takes() -> None:
    for command in commands(slow=True):
        program, *argv = shlex.split(command.replace("\\\n", " "))
        if program == "ple-rec":
            parse(argv)
        else:
            assert (REPOSITORY / argv[0]).is_file()


@pytest.mark.slow
def test_the_slow_commands_print_what_the_page_shows(
    here: Here, raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = outputs(here, commands(slow=True), monkeypatch, capsys)
    texts = shown("data/feed")
    assert len(texts) == 2
    for lines in texts:
        assert lines in [output[: len(lines)] for output in printed], "\n".join(lines)
    ((line,),) = shown("  rows for values")
    assert sum(line in output for output in printed) == 1
    metrics = json.loads((here.folder / "runs" / "feed" / "metrics.json").read_text())
    assert metrics["test"]["tasks"]["valid_view"]["auc"] > 0.6
    assert (here.folder / "runs" / "feed-9" / "init_from.json").is_file()
    stats = json.loads((here.folder / "data" / "feed-9" / STATS_FILE).read_text())
    assert stats["rows"]["train"] == 1_815


def with_section(base: dict[str, Any], block: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the block in it."""
    merged = dict(base)
    for key, value in block.items():
        if isinstance(value, list) and isinstance(base.get(key), list):
            names = [entry["name"] for entry in value]
            merged[key] = [entry for entry in base[key] if entry["name"] not in names] + value
        elif key == "sides":
            merged[key] = base[key] | value
        else:
            merged[key] = value
    return merged


BLOCKS = [text for text in fenced("toml") if text.strip() not in FEED]


def with_block(text: str, folder: Path) -> Path:
    """A file with the configuration of the example and a block of the page."""
    config = with_section(tomllib.loads(FEED), tomllib.loads(text))
    if "log_csv" in text:
        config["sides"]["video"]["files"] = ["videos/2024-05-0[1-8].parquet"]
    file = folder / "feed.toml"
    file.write_text(tomli_w.dumps(config))
    return file


@pytest.mark.parametrize("text", BLOCKS)
def test_a_block_is_read_with_the_example(text: str, tmp_path: Path) -> None:
    config, *_ = read_recipe(str(with_block(text, tmp_path)))
    assert config.name == "feed"


@pytest.mark.slow
@pytest.mark.parametrize("text", BLOCKS)
def test_a_block_prepares_with_the_example(text: str, raw_with_csv: Path, tmp_path: Path) -> None:
    said = str(dry_run(str(with_block(text, tmp_path)), None, Options(source=str(raw_with_csv), threads=1)))
    assert said.startswith("feed: a dry run")
    assert "prep will refuse" not in said, said


def test_the_page_shows_the_example() -> None:
    pieces = [text for text in fenced("toml") if text.strip() in FEED]
    assert len(pieces) >= 10
    assert len(fenced("toml")) - len(pieces) >= 14


def test_the_table_of_functions_is_what_there_is() -> None:
    assert f"{describe()}\n" in fenced("text")


def test_every_section_of_the_statistics_is_explained() -> None:
    rows = re.findall(r"^\| ([A-Z][a-z ]+) \| .* \|$", PAGE, re.MULTILINE)
    assert [row for row in rows if row in [heading for _, heading, _ in SECTIONS]] == [
        heading for _, heading, _ in SECTIONS
    ]


def keys(model: type[BaseModel]) -> set[str]:
    """Every key below a configuration."""
    found: set[str] = set()
    for name, info in model.model_fields.items():
        found.add(name)
        for inner in re.findall(r"[\w.]*\.(\w+)\b", str(info.annotation)):
            other = getattr(sys.modules[model.__module__], inner, None)
            if isinstance(other, type) and issubclass(other, BaseModel):
                found |= keys(other)
    return found


def test_every_key_is_named() -> None:
    named = keys(PrepConfig)
    assert {"delimiter", "utc_offset", "empty_days", "hash_rows", "max_length", "bins", "rate"} <= named
    held_out = {"days", "hash"}  # what `--append` writes itself
    assert {key for key in named - held_out if not re.search(rf"\b{key}\b", PAGE)} == set()
