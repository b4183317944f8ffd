"""`ple-rec prep`: its words, what it refuses, where it prints what, and what a dry run says."""

from __future__ import annotations

import io
import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep import progress as progress_module
from data_prep.engines.duck import DuckEngine
from data_prep.expressions import FUNCTIONS, OPERATORS
from data_prep.progress import Progress
from data_prep.run import recipe_names
from ple_rec.cli import main
from ple_rec.cli.app import parse
from ple_rec.cli.prep import SYNTHETIC
from ple_rec.config.prep import PrepConfig
from ple_rec.runtime import versions
from tests.data_prep.feed_logs import write_logs, write_toml

KNOWN = (
    "ali-ccp, census, kuairand, kuairand-six-days, kuairand-six-days-histories, kuairand-six-days-rates, "
    "kuairand-six-days-rates-histories, mmoe-synthetic, tencent, tencent-synthetic"
)
SEE = "Fix: run `ple-rec prep --help`"
RUN = ["prep", "feed.toml", "--from", "raw", "--out", "d"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small raw logs, not to be changed."""
    return write_logs(tmp_path_factory.mktemp("logs"))


@pytest.fixture
def here(tmp_path: Path, logs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `raw/` and `feed.toml`."""
    (tmp_path / "raw").symlink_to(logs)
    write_toml(tmp_path / "feed.toml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], argv: list[str], code: int = 0) -> tuple[str, str]:
    """What a command prints on stdout and on stderr."""
    assert main(argv) == code
    out, err = capsys.readouterr()
    return out, err


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prep", "--help"]) == 0
    text, names = capsys.readouterr().out, []
    listed = text.partition("data sets by name:\n")[2].partition("or a TOML file")[0]
    for line in listed.splitlines():
        names.append(line.split()[0])
    assert set(names) >= {*SYNTHETIC, "census", "kuairand", "ali-ccp"}
    assert set(names) <= {*SYNTHETIC, *recipe_names()}
    examples = re.findall(r"^  ple-rec (prep .*)$", text, re.MULTILINE)
    assert len(examples) == 5
    for example in examples:
        parse(shlex.split(example))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["prep"], "ple-rec prep: NAME|FILE and --out missing; it needs both. Fix: see `ple-rec prep --help`"),
        (["prep", "--out", "d"], "ple-rec prep: NAME|FILE missing; it needs one. Fix: see `ple-rec prep --help`"),
        (["prep", "feed.toml"], "ple-rec prep: --out missing; it needs one. Fix: see `ple-rec prep --help`"),
        (
            ["prep", "kuairnd", "--out", "d"],
            f"prep: unknown data set 'kuairnd'; known are {KNOWN}. Fix: did you mean 'kuairand'?",
        ),
        (
            ["prep", "tencent-sythetic", "--out", "d"],
            f"prep: unknown data set 'tencent-sythetic'; known are {KNOWN}. Fix: did you mean 'tencent-synthetic'?",
        ),
        (
            ["prep", "zzz", "--out", "d"],
            f"prep: unknown data set 'zzz'; known are {KNOWN}. "
            "Fix: name one of them, or the path of a TOML file of your own",
        ),
        (
            ["prep", "feed", "--out", "d"],
            f"prep: unknown data set 'feed'; known are {KNOWN}. Fix: did you mean 'feed.toml'?",
        ),
        (
            ["prep", "fed.toml", "--out", "d"],
            "fed.toml: no such file in {here}; it is a TOML file, or one of " + KNOWN + ". "
            "Fix: did you mean 'feed.toml'?",
        ),
        (
            ["prep", "/nowhere/feed.toml", "--out", "d"],
            f"/nowhere/feed.toml: no such file; it is a TOML file, or one of {KNOWN}. "
            "Fix: name one of them, or the path of a TOML file of your own",
        ),
        (
            [*RUN, "--rows", "5", "--seed", "1"],
            "ple-rec prep feed.toml: got --rows, --seed; synthetic data sets take them. Fix: drop it",
        ),
        ([*RUN, "--raw"], "ple-rec prep feed.toml: got --raw; synthetic data sets take them. Fix: drop it"),
        (
            [*RUN, "--parent", "p"],
            "--parent: no --append; it names the dataset to which a day is added. Fix: give --append day=N, or drop it",
        ),
        (
            [*RUN, "--append", "day=5"],
            "--append day=5: no --parent; a day is appended to an existing dataset. Fix: name it: --parent DIR",
        ),
        (
            [*RUN, "--master", "local[2]"],
            "--master: --engine duckdb; only Spark has a master. Fix: add --engine spark",
        ),
        (
            ["prep", "feed.toml", "--from", "rwa", "--out", "d"],
            "rwa: no such file or folder; --from names the raw files. Fix: check the path",
        ),
        (
            ["prep", "tencent-synthetic", "--out", "d", "--from", "raw", "--set", "a=1"],
            "ple-rec prep tencent-synthetic: got --from, --set; it is generated, not read. Fix: drop it",
        ),
        (
            ["prep", "mmoe-synthetic", "--out", "d", "--append", "day=9", "--parent", "p", "--master", "local"],
            "ple-rec prep mmoe-synthetic: got --append, --parent, --master; it is generated, not read. Fix: drop it",
        ),
        (
            ["prep", "mmoe-synthetic", "--out", "d", "--engine", "spark"],
            "ple-rec prep mmoe-synthetic: got --engine spark; it is generated on one machine. Fix: drop it",
        ),
        (
            ["prep", "tencent-synthetic", "--out", "d", "--correlation", "0.5"],
            "--correlation: tencent-synthetic; only mmoe-synthetic has one. Fix: drop it",
        ),
        (
            ["prep", "tencent-synthetic", "--out", "d", "--correlation", "0", "--dim", "8"],
            "--correlation, --dim: tencent-synthetic; only mmoe-synthetic has one. Fix: drop it",
        ),
        (
            ["prep", "mmoe-synthetic", "--out", "d", "--correlation", "1.5"],
            "correlation: got 1.5; it is a cosine of two weights. Fix: set a number in [-1, 1]",
        ),
        (
            ["prep", "mmoe-synthetic", "--out", "d", "--raw"],
            "--raw: mmoe-synthetic; only tencent-synthetic has raw logs. Fix: drop it",
        ),
        (
            ["prep", "tencent-synthetic", "--out", "d", "--raw", "--overwrite", "--memory", "1GiB", "--dry-run"],
            "--raw: got --overwrite, --memory, --dry-run; raw logs are written in blocks to a new folder. Fix: drop it",
        ),
    ],
)
def test_input_that_is_refused(here: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    before = sorted(here.iterdir())
    assert said(capsys, argv, 2) == ("", f"ple-rec: {message.format(here=here)}\n")
    assert sorted(here.iterdir()) == before


def test_spark_without_java_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "version", lambda name: "4.3.0")
    monkeypatch.setenv("JAVA_HOME", str(here / "nowhere"))
    assert said(capsys, [*RUN, "--engine", "spark"], 2)[1] == (
        "ple-rec: --engine spark: no Java answers; Spark is PySpark and a Java that runs it. Fix: install Java 17 or "
        "newer (Debian: apt install default-jre-headless), or set JAVA_HOME\n"
    )


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--memory", "4", "got '4'; at least 64MiB is needed. Fix: did you mean 4GiB?"),
        ("--memory", "10MB", f"got '10MB'; at least 64MiB is needed. {SEE}"),
        ("--memory", "4XB", f"got '4XB'; expected a size such as 4GiB, 512MiB or 8GB. {SEE}"),
        ("--memory", "-4GiB", f"got '-4GiB'; expected a size such as 4GiB, 512MiB or 8GB. {SEE}"),
        ("--memory", "", f"got ''; expected a size such as 4GiB, 512MiB or 8GB. {SEE}"),
        ("--threads", "0", f"got '0'; expected a positive int. {SEE}"),
        ("--threads", "1.5", f"got '1.5'; expected a positive int. {SEE}"),
        ("--rows", "1.5e0", f"got '1.5e0'; expected a positive int. {SEE}"),
        ("--rows", "1e400", f"got '1e400'; expected a positive int. {SEE}"),
        ("--rows", "many", f"got 'many'; expected a positive int. {SEE}"),
        ("--engine", "polars", f"got 'polars'; known: duckdb, spark. {SEE}"),
    ],
)
def test_values_that_a_flag_refuses(capsys: pytest.CaptureFixture[str], flag: str, value: str, message: str) -> None:
    assert main([*RUN, f"{flag}={value}"]) == 2
    assert capsys.readouterr().err == f"ple-rec: {flag}: {message}\n"


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        ("memory", "4GiB", 4 << 30),
        ("memory", "512 mib", 512 << 20),
        ("memory", "1.5G", 1_500_000_000),
        ("memory", "8GB", 8 * 10**9),
        ("rows", "2e6", 2_000_000),
        ("rows", "1_000", 1_000),
    ],
)
def test_values_that_a_flag_reads(flag: str, text: str, value: int) -> None:
    assert getattr(parse([*RUN, f"--{flag}", text]).values["options"], flag) == value


def test_help_config_lists_every_key_and_every_function(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, ["prep", "--help-config"])
    assert err == ""
    for key in PrepConfig.model_fields:
        assert re.search(rf"(?m)^\W*{key}\b", out), key
    assert all(f"\n{function.signature} " in out for function in FUNCTIONS.values())
    assert all(f"\n{form} " in out for form in OPERATORS)


def test_what_a_dry_run_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.iterdir())
    out, err = said(capsys, [*RUN, "--dry-run", "--threads", "1"])
    assert [line for line in err.splitlines() if "%" not in line] == [
        "small-feed: log: reading the footers of 4 file(s)",
        "small-feed: users: reading the footers of 1 file(s)",
        "small-feed: sampling 1,200 of 1,200 rows of the log",
    ]
    assert sorted(here.iterdir()) == before
    sizes = re.compile(r"\b[\d.]+ (B|KiB|MiB|GiB|TiB)")  # of files, which a Parquet writer's version changes
    lines = [re.sub(" +", " ", sizes.sub("SIZE", line)).strip() for line in out.splitlines()]
    assert lines == [
        "small-feed: a dry run; nothing is written to d",
        "log 4 file(s) 1,200 rows SIZE",
        "users 1 file(s) 45 rows SIZE",
        "sample 1,200 rows: the whole log",
        "split train 50%, valid 25%, test 25%, none 0% of the sample",
        "days 2022-04-15 to 2022-04-16 train",
        "2022-04-17 valid",
        "2022-04-18 test",
        "column becomes train values sampled in all, about",
        "user_id rows of table user_id 50 50",
        "video_id rows of table video 58 58",
        "history bag of rows of table video 58 58",
        "age rows of table age 7 7",
        "hour rows of table hour 24 24",
        "folder rows of table folder 1 1",
        "duration_bucket 5 buckets",
        "price dense, log",
        "valid_view binary: play_time_ms > threshold",
        "completion regression: clip(play_time_ms / duration_ms, 0, 1) where duration_ms > 0",
        "share binary: is_share where is_click = 1",
        "tables 6, with about 192 rows in all; SIZE of fp32 weights at dim 16",
    ]


def test_a_dry_run_tells_what_prep_would_refuse(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["prep", "feed.toml", "--from", "raw", "--dry-run"]
    out, _ = said(capsys, [*run, "--set", "checks.duration=duration_ms >= 4500"], 3)
    rule = r"checks\.duration: duration_ms: .*: duration_ms >= 4500"
    assert re.search(rf"\n  bad rows     \d\d\.\d\d% break {rule} \(prep will refuse the log\)\n", out)
    assert out.splitlines()[-1].startswith("  tables ")  # the whole report comes before the exit code
    drop = ["--set", "checks.duration=duration_ms >= 4500", "--set", "on_bad_row=drop"]
    out, _ = said(capsys, [*run, *drop], 3)
    assert "duration_ms >= 4500 (more than max_bad_fraction = 0.001: prep will refuse the log)\n" in out
    out, _ = said(capsys, [*run, *drop, "--set", "max_bad_fraction=0.9"])
    assert "duration_ms >= 4500 (dropped)\n" in out
    out, _ = said(capsys, [*run, "--set", "log.where=user_id > 0"])
    assert re.search(r"\n  sample       1,\d\d\d rows: the whole log; those of 1,200 that log\.where keeps\n", out)
    assert "  not known " not in out
    out, err = said(capsys, [*run, "--set", "sparse[0].value=usr_id"], 3)
    assert out == ""
    assert err.endswith(
        "column 'usr_id': there is no such column; feed.toml: sparse[0].value `usr_id` needs it in every file. "
        "Fix: did you mean 'user_id'?\n"
    )


@pytest.mark.parametrize(
    "override",
    ["split.valid=[7, 7]", 'split={by="hash",value="user_id",valid=1e-9,test=0.2}'],
    ids=["a day without rows", "a split without rows"],
)
def test_a_dry_run_over_the_whole_log_refuses_what_prep_refuses(
    here: Path, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    _, real = said(capsys, [*RUN, "--set", override], 3)
    out, dry = said(capsys, [*RUN, "--dry-run", "--set", override], 3)
    assert out == ""
    assert "no row" in dry
    assert dry.splitlines()[-1] == real.splitlines()[-1]


def test_a_dry_run_of_synthetic_data_makes_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.iterdir())
    assert said(capsys, ["prep", "tencent-synthetic", "--dry-run"])[0] == (
        "tencent-synthetic: a dry run; nothing is written\n"
        "  rows         995,000,000\n"
        "  tables       24, with about 49,629,152 rows in all; 2.96 GiB of fp32 weights at dim 16\n"
    )
    assert said(capsys, ["prep", "mmoe-synthetic", "--dry-run", "--rows", "1000"])[0] == (
        "mmoe-synthetic: a dry run; nothing is written\n  rows         1,000\n"
    )
    assert sorted(here.iterdir()) == before


def test_the_summary_goes_to_stdout_and_progress_to_stderr(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, RUN)
    assert out.startswith("d: prepared, fingerprint ")
    assert out.endswith("  look at d/stats.html\n")
    assert [line for line in err.splitlines() if "%" not in line] == []  # over before there is anything to tell
    out, _ = said(capsys, RUN)
    assert out.startswith("d: already prepared, fingerprint ")
    out, err = said(capsys, [*RUN, "--set", "name=other"], 2)
    assert out == ""
    assert err.splitlines()[-1].startswith("ple-rec: d: holds a dataset of another configuration or other raw files (")
    assert '); configuration: name is "other", was "small-feed"; a dataset directory is replaced on request only' in err
    assert err.endswith("Fix: pass --overwrite, or name another --out\n")
    out, _ = said(capsys, [*RUN, "--set", "name=other", "--overwrite", "--memory", "256MiB", "--threads", "1"])
    assert out.startswith("d: prepared, ")


def test_data_that_is_refused_ends_with_3(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, [*RUN, "--set", "split.valid=[7, 7]"], 3)
    assert out == ""
    assert err.splitlines()[-1].startswith("ple-rec: feed.toml: split.valid: no row on 2022-04-21; ")
    assert not (here / "d").exists()


def test_synthetic_data_ends_with_what_is_reachable(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    engine = DuckEngine.__init__

    def record(self: Any, folder: Path, **settings: Any) -> None:
        given.append(settings["memory"])
        engine(self, folder, **settings)

    monkeypatch.setattr(DuckEngine, "__init__", record)
    make = ["prep", "tencent-synthetic", "--rows", "10000", "--out", "t", "--memory", "1GiB", "--threads", "1"]
    out, _ = said(capsys, make)
    assert given == [1 << 30]
    reachable = json.loads((here / "t" / "stats.json").read_text())["reachable"]["test"]
    assert out.splitlines()[-1].startswith(
        f"  best reachable on test: vtr auc {reachable['vtr']['auc']:.4f}, vcr mse {reachable['vcr']['mse']:.4f}, "
    )
    again, _ = said(capsys, make)
    assert again == out.replace("t: prepared", "t: already prepared")


def test_the_process_of_two_regressions_ends_with_its_floor(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = [
        "prep",
        "mmoe-synthetic",
        "--rows",
        "1e3",
        "--dim",
        "5",
        "--correlation",
        "0.8",
        "--out",
        "m",
        "--threads",
        "1",
    ]
    out, _ = said(capsys, make)
    stats = json.loads((here / "m" / "stats.json").read_text())
    floor = ", ".join(f"{task} mse {figures['mse']:.4f}" for task, figures in stats["reachable"]["test"].items())
    related = stats["correlation"]["test"][0]["r"]
    assert out.splitlines()[-1] == f"  best reachable on test: {floor}; correlation of the labels {related:.4f}"
    assert "  0 sparse features, 5 dense" in out


def test_raw_logs_name_what_comes_next(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, ["prep", "tencent-synthetic", "--raw", "--rows", "10000", "--out", "r", "--threads", "1"])
    assert out == "r: 10,000 rows in 8 files; next: ple-rec prep tencent --from r --out DIR\n"
    out, _ = said(capsys, ["prep", "tencent", "--from", "r", "--dry-run"])
    assert out.startswith("tencent: a dry run; nothing is written\n  log               8 file(s)          10,000 rows")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_progress_is_lines_without_a_terminal(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "_DRAW_SECONDS", 0.0)
    progress = Progress("feed", stream)
    progress.say("digesting")
    with progress.running({"survey": 1.0, "encode": 3.0}, 2_000):
        progress.begin_phase("survey")
        progress.begin_phase("encode")
        progress.advance(1_000)
        began = time.monotonic()
        while "1,000 of 2,000" not in stream.getvalue() and time.monotonic() < began + 10:
            time.sleep(0.02)
    text = stream.getvalue()
    state = r"encode  1,000 of 2,000 rows  [\d,]+ rows/s  \d\.\d GiB  \d:\d\d left"
    if stream.isatty():
        assert "\rfeed: digesting" in text
        assert re.search(rf"\rfeed: \|[^|]{{10}}\|  62%  {state}", text)
        assert text.endswith("\r")
        assert "\n" not in text
    else:
        assert text.startswith("feed: digesting\n")
        assert re.search(rf"(?m)^feed:  62%  {state}$", text)
        assert "\x1b" not in text
        assert "\r" not in text


def test_progress_never_claims_more_than_all(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress("feed")
    with progress.running({"count": 1.0}, 100):
        progress.begin_phase("count")
        progress.advance(250)
        share, text = progress.state(time.monotonic() + 5)
    assert share == 1
    assert text.startswith("count  250 of 100 rows")
    assert text.endswith("  0:00 left")


def test_a_name_that_is_none_is_told_before_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prep", "censsus"]) == 2
    assert "did you mean 'census'?" in capsys.readouterr().err
