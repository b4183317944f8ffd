"""`ple-rec init` as it is called: prep and training take the files that it writes; what it refuses and says."""

from __future__ import annotations

import csv
import datetime as dt
import json
import runpy
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.init.files import PREP_FILE, find_problem, write_files
from data_prep.init.log import open_log
from data_prep.init.roles import guess_roles
from ple_rec.cli import main
from tests.data_prep.init.guess_logs import ROWS, init, run, small, write_csv

REPOSITORY = Path(__file__).resolve().parents[3]


def write_rows(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write columns as a CSV file."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))


@pytest.mark.usefixtures("no_charts")
def test_the_logs_of_the_example_are_prepared_and_trained_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["feed_logs.py"])
    runpy.run_path(str(REPOSITORY / "docs" / "examples" / "feed_logs.py"), run_name="__main__")
    capsys.readouterr()
    config, commands = init(capsys, "feed", "--from", "data/feed-raw/log")
    assert (config["name"], config["group"], config["log"]["files"]) == ("feed", ["user_id", "time.day"], ["."])
    assert (config["time"]["value"], config["time"]["unit"]) == ("time_ms", "ms")
    assert config["split"] == {
        "by": "day",
        "train": ["2024-05-01", "2024-05-06"],
        "valid": ["2024-05-07", "2024-05-07"],
        "test": ["2024-05-08", "2024-05-08"],
    }
    assert [task["label"] for task in config["tasks"]] == ["is_click", "is_share", "play_time_ms / 10000"]
    names = ["user_id", "video_id", "tab", "history", "context_net_type", "hour"]
    assert [sparse["name"] for sparse in config["sparse"]] == names
    assert config["sparse"][3] == {"name": "history", "table": "video_id", "bag": True, "max_length": 50}
    assert [dense["name"] for dense in config["dense"]] == ["network_mbps", "duration_ms", "context_net_mbps"]
    ids, outcomes = ("user_id", "video_id"), {"is_click": "rate", "is_share": "rate", "play_time_ms": "mean"}
    assert config["rates"] == [
        {"name": f"{key}_{of}_{kind}", "key": [key], "of": of, "window": "all"}
        for key in ids
        for of, kind in outcomes.items()
    ]
    text = Path("feed/prep.toml").read_text()
    marked = [line for line in text.splitlines() if line.startswith(("name = ", "group", "value", "by"))][1:]
    assert [line for line in marked if "# guess: " not in line] == [
        "value = \"json(context, '$.net.type')\"",
        "value = \"cast(json(context, '$.net.mbps') as double)\"",
        'value = "time.hour"',
    ]
    assert "#   recency  guess: its type is list<" in text
    page = (REPOSITORY / "docs" / "prep.md").read_text()
    shown = page.partition("Some lines of `mine/prep.toml`:\n\n```text\n")[2].partition("```")[0].splitlines()
    assert len(shown) == 8
    assert set(shown) <= set(text.splitlines())
    assert commands == [
        ["prep", "feed/prep.toml", "--from", "data/feed-raw/log", "--out", "data/feed", "--dry-run"],
        ["train", "--config", "feed/train.toml"],
    ]
    assert "is_click" in run(capsys, commands)


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize(("name", "delimiter", "days"), [("log.csv", ",", 6), ("log.csv.gz", ";", 1)])
def test_a_csv_log_is_prepared_and_trained_on(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, delimiter: str, days: int
) -> None:
    (here / "raw").mkdir()
    write_csv(here / "raw" / name, delimiter, days, text_users=days == 1)
    config, commands = init(capsys, "shop", "--from", f"raw/{name}")
    assert config["log"]["files"] == [name]
    assert config["log"]["csv"]["nulls"] == ["", "NULL"]
    assert config["log"]["csv"].get("delimiter", ",") == delimiter
    assert config["split"]["by"] == ("day" if days == 6 else "hash")
    assert config["group"] == ['"Customer ID"', "time.day"]
    assert ("append" in config) == (days == 6)
    sparse = {each["name"]: each for each in config["sparse"]}
    assert list(sparse) == ["Customer_ID", "item", "case", "tags", "device", "hour"]
    assert sparse["case"]["value"] == '"case"'
    assert sparse["tags"]["value"] == "split(tags, '|')"
    assert config["dense"] == [{"name": "price", "normaliser": "log"}]
    assert [(task["name"], task["kind"]) for task in config["tasks"]] == [
        *(("bought", "binary"), ("is_share", "binary"), ("watch_time_sec", "regression")),
    ]
    assert config["tasks"][2]["space"] == "watch_time_sec is not null"
    keys = [rate["key"] for rate in config.get("rates", [])]
    assert keys == ([['"Customer ID"']] * 3 + [["item"]] * 3 if days == 6 else [])
    text = Path("shop/prep.toml").read_text()
    for column in (
        "impression_id  guess: its name is that of a key",
        "const  guess: it has one value",
        "note  guess: it has no",
    ):
        assert f"#   {column}" in text
    assert "watch_time_sec" in run(capsys, commands)


def test_a_day_is_added_to_what_init_wrote(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(day: int, users: range) -> None:
        ids = [f"8f14e45f-{user:012x}" for user in users for _ in range(20)]
        times = [dt.datetime(2024, 5, day) + dt.timedelta(seconds=i) for i in range(len(ids))]
        rows = {"user_id": ids, "ts": times, "click": [i % 2 for i in range(len(ids))], "tab": ["a", "b"] * 300}
        (here / f"day{day}").mkdir()
        pq.write_table(pa.table(rows), here / f"day{day}" / "log.parquet")

    for day in range(1, 5):
        write(day, range(30))
    write(5, range(20, 50))
    config, commands = init(capsys, "shop", "--from", *(f"day{day}/log.parquet" for day in range(1, 5)))
    assert (config["group"], config["append"]) == (["user_id", "time.day"], {"valid": 0.05, "test": 0.05})
    assert config["tables"] == {"user_id": {"capacity": 46}, "tab": {"capacity": 4}}
    why = "1.5 times the 30 values expected from 1,800 rows, to leave rows for new values of later days"
    assert f"capacity = 46  # guess: {why}\n" in Path("shop/prep.toml").read_text()
    assert main(commands[0][:-1]) == 0
    append = ["--append", "day=2024-05-05", "--parent", "data/shop", "--set", "log.files=['day5']"]
    append += ["--set", "append={valid = 0.2, test = 0.2}"]  # of thirty users, for each to have some
    assert main(["prep", "shop/prep.toml", "--from", ".", "--out", "data/shop-5", *append]) == 0
    tables = tomllib.loads((here / "data" / "shop-5" / "schema.toml").read_text())["tables"]
    user = next(table for table in tables if table["name"] == "user_id")
    assert user["capacity"] == 46
    assert 31 < user["rows"] <= 46
    stats = json.loads((here / "data" / "shop" / "stats.json").read_text())
    assert "overflow" not in stats or not stats["overflow"]


@pytest.mark.usefixtures("no_charts")
def test_a_log_of_every_awkward_column_is_prepared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = small(1_200)
    write_rows(
        here / "log.csv",
        {
            "user_id": [f"8f14e45f-{user:012x}" for user in rows["user_id"]],
            "item": [f"i{i % 40}" for i in range(1_200)],
            "ts": rows["ts"],
            "click": rows["click"],
            "history": [str(np.array([f"i{i % 7}", f"i{i % 40}"])) for i in range(1_200)],
            "tags": [str(["new york", f"t{i % 5}"]) for i in range(1_200)],
            "vector": [str(np.array([0.5, i % 9])) for i in range(1_200)],
            "context": [str({"page": i % 5}) for i in range(1_200)],
            "views": [f"{i * 997 % 60_000:,}" for i in range(1_200)],
            "price": [f"{i % 70},{i % 100:02}" for i in range(1_200)],
            "device": [f"{4.6e18 + 1e15 * (i % 50)!r}" for i in range(1_200)],
            "is_bot": [int(i % 90 == 0) for i in range(1_200)],
            "user_agent": [f"Mozilla/5.0 ({i % 30})" for i in range(1_200)],
            "position": [i % 20 for i in range(1_200)],
        },
    )
    assert main(["init", "shop", "--from", "log.csv"]) == 0
    said = capsys.readouterr().out
    assert "; 6 features, 3 columns left out, 4 columns for you to decide\n" in said
    for name in ("vector: texts such as ", "context: texts such as ", "views: '", "device: floats as large as "):
        assert f"\n{name}" in said
    text = Path("shop/prep.toml").read_text()
    asked, _, left_out = text.partition("# Columns that wait for your decision:\n")[2].partition("\n\n")
    assert [line.split()[1:3] for line in asked.splitlines()] == [
        *(["vector", "ask:"], ["context", "ask:"], ["views", "ask:"], ["device", "ask:"]),
    ]
    assert [line.split()[1] for line in left_out.splitlines()[1:]] == ["is_bot", "user_agent", "position"]
    config = tomllib.loads(text)
    sparse = {each["name"]: each for each in config["sparse"]}
    assert list(sparse) == ["user_id", "item", "history", "tags", "hour"]
    assert (sparse["history"]["table"], sparse["tags"]["table"]) == ("item", "tags")
    assert [each["name"] for each in config["dense"]] == ["price"]
    prep = ["prep", "shop/prep.toml", "--from", "log.csv", "--out", "data/shop"]
    assert main([*prep, "--dry-run"]) == 0
    assert main(prep) == 0
    train = ["train", "--config", "shop/train.toml", "--set", "train.epochs=", "--set", "train.steps=4"]
    assert main(train) == 0
    assert "\nsubgroup GAUC by user_id, time.day over groups with both classes: click" in capsys.readouterr().out


def test_many_columns_are_said_to_take_long(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table(small()), here / "log.parquet")
    for columns, said in ((2, True), (3, False)):  # user_id and the hour
        monkeypatch.setattr("data_prep.init.files.SLOW_COLUMNS", columns)
        assert main(["init", f"log{columns}", "--from", "log.parquet"]) == 0
        assert ("prep takes a minute or more for 2 features: " in capsys.readouterr().out) == said


@pytest.mark.usefixtures("no_charts")
def test_one_label_makes_a_model_of_one_task(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(here / "log.csv")
    config, commands = init(capsys, "one", "--from", "log.csv", "--label", "bought")
    assert [task["name"] for task in config["tasks"]] == ["bought"]
    left_out = Path("one/prep.toml").read_text().partition("# Columns that are left out:")[2]
    assert "is_share  guess: an outcome, which is not known when a score is needed" in left_out
    assert tomllib.loads(Path("one/train.toml").read_text())["model"]["variant"] == "single_task"
    assert "bought" in run(capsys, commands)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--from", "log.csv", "--label", "boughtt"], "--label: got 'boughtt'; the log has impression_id, "),
        (["--from", "log.csv", "--label", "item"], "--label: item is string; a label is 0 or 1, a truth value or a "),
        (["--from", "lgo.csv"], "--from: nothing matches 'lgo.csv' below .; "),
        (["--from", "s3://bucket/log"], "--from: got s3://bucket/log; init reads only files of this machine. Fix: "),
        (["--from", "plain.csv"], "--from: no column looks like a label; a model needs one. Fix: name it: --label "),
        (
            ["--from", "headless.csv"],
            "headless.csv: its first line has the cell '7'; the first line names the columns, each once.",
        ),
        (
            ["--from", "pandas.csv"],
            "pandas.csv: column 1 has no name; the first line names the columns, each once. Fix: name it; pandas leaves"
            " its index out by to_csv(..., index=False)",
        ),
        (["--from", "twice.csv"], "twice.csv: 'a' stands twice in its first line; the first line names the columns, "),
        (
            ["--from", "nothing"],
            "--from: nothing matches '.' below nothing; nothing has nothing. Fix: name a folder with .parquet, .csv or",
        ),
        (["--from", "json"], "--from: nothing matches '.' below json; json has a.json. Fix: name a folder with "),
        (
            ["--from", "json/a.json"],
            "--from, a.json: its name shows no format; all files of a table have one format, shown by .parquet, .csv "
            "or .csv.gz. Fix: name files of one format, whose names end in .parquet, .csv, .csv.gz or .tsv",
        ),
        (["log.csv"], "init: --from missing; it is needed. Fix: write --from log.csv"),
        (
            ["--from", "empty.csv"],
            "empty.csv: no row, or no column that all files have; the roles of columns are guessed by their values. ",
        ),
    ],
)
def test_what_is_refused_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    write_csv(here / "log.csv")
    (here / "plain.csv").write_text("user_id,a\n1,2\n2,3\n")
    (here / "headless.csv").write_text("7,click\n1,0\n2,1\n")
    (here / "empty.csv").write_text("user_id,click\n")
    (here / "pandas.csv").write_text(",user_id,click\n0,7,1\n")
    (here / "twice.csv").write_text("a,a,click\n0,7,1\n")
    (here / "nothing").mkdir()
    (here / "json").mkdir()
    (here / "json" / "a.json").write_text("{}")
    assert main(["init", "new", *argv]) == 2
    assert capsys.readouterr().err.startswith(f"ple-rec: {message}")
    assert not (here / "new").exists()


def test_nothing_is_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(here / "log.csv")
    (here / "mine").mkdir()
    (here / "mine" / "train.toml").write_text("mine\n")
    assert main(["init", "mine", "--from", "log.csv"]) == 2
    told = "mine/train.toml: exists; init overwrites no file. Fix: give another DIR, or move the file away\n"
    assert capsys.readouterr().err == f"ple-rec: {told}"
    assert [file.name for file in (here / "mine").iterdir()] == ["train.toml"]


@pytest.mark.usefixtures("no_charts")
def test_a_log_of_parquet_as_pandas_writes_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = [dt.datetime(2024, 1, 1, 15, tzinfo=dt.UTC) + dt.timedelta(hours=i / 10) for i in range(ROWS)]
    columns = {
        "uid": pa.array([i % 77 for i in range(ROWS)], pa.uint64()),
        "seen_at": pa.array(times, pa.timestamp("us", "Asia/Shanghai")),
        "price": [float("nan") if i % 5 == 0 else i + 0.5 for i in range(ROWS)],
        "kind": pa.array(["a", "b", "c"] * (ROWS // 3)).dictionary_encode(),
        "more": pa.array([{"a": 1}] * ROWS),
        "watch_seconds": [float("nan") if i % 3 else float(i % 50) for i in range(ROWS)],
        "is_like": [i % 3 == 0 for i in range(ROWS)],
    }
    (here / "logs").mkdir()
    pq.write_table(pa.table(columns), here / "logs" / "1.parquet")
    pq.write_table(pa.table(columns).drop_columns(["kind"]), here / "logs" / "2.parquet")
    config, commands = init(capsys, "panda", "--from", "logs")
    assert (config["time"]["unit"], config["time"]["utc_offset"]) == ("timestamp", "+08:00")
    assert config["split"]["train"][0] == "2024-01-01"  # 15:00 UTC is 23:00 there
    assert config["dense"] == [
        {"name": "price", "value": "case when abs(price) < 3e38 then price end", "normaliser": "standard"}
    ]
    assert config["tasks"][1]["space"] == "abs(watch_seconds) < 3e38"
    left_out = Path("panda/prep.toml").read_text().partition("# Columns that are left out:")[2]
    assert "kind  guess: not every file has it" in left_out
    assert "is_like" in run(capsys, commands)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_times_that_are_text_give_days_however_parquet_stores_them(
    kind: pa.DataType, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = pa.array([f"2024-05-0{1 + i * 6 // ROWS} 07:30:00" for i in range(ROWS)]).cast(kind)
    rows = {"user_id": [i % 77 for i in range(ROWS)], "seen_at": times, "click": [i % 2 for i in range(ROWS)]}
    pq.write_table(pa.table(rows), here / "log.parquet")
    config, _ = init(capsys, "some", "--from", str(here / "log.parquet"))
    assert (config["split"]["by"], config["split"].get("test")) == ("day", ["2024-05-06", "2024-05-06"])


def test_rows_without_a_user_or_a_time_are_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = [None, *(dt.datetime(2024, 5, 1) + dt.timedelta(hours=i) for i in range(99))]
    rows = {"user_id": [*range(99), None], "seen_at": times, "click": [i % 2 for i in range(100)]}
    pq.write_table(pa.table(rows), here / "log.parquet")
    config, commands = init(capsys, "some", "--from", str(here / "log.parquet"))
    assert config["log"]["where"] == "user_id is not null and seen_at is not null"
    assert main(commands[0]) == 0


def test_the_dataset_lies_apart_from_the_log_and_the_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, log in (("feed", "data/feed"), ("data/x", "logs")):
        Path(log).mkdir(parents=True)
        pq.write_table(pa.table(small()), Path(log) / "log.parquet")
        _, commands = init(capsys, folder, "--from", log)
        assert main(commands[0][:-1]) == 0
        name = f"{Path(folder).name}-dataset"
        assert tomllib.loads(Path(folder, "train.toml").read_text())["data"]["path"] == f"data/{name}"
        assert (here / "data" / name / "_SUCCESS").is_file()


@pytest.mark.usefixtures("here")
def test_rows_that_nothing_tells_apart(capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"tags": [["a"], ["b"]] * 40, "revenue": [1e13 + 0.5, 2e13 + 0.5] * 40}), "log.parquet")
    assert main(["init", "new", "--from", "log.parquet"]) == 2
    assert "--from: the log has neither days nor a column of integers, texts or " in capsys.readouterr().err
    assert not Path("new").exists()


def test_a_folder_after_the_files_is_taken_for_one_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--from", "logs", "feed"]) == 2
    told = "init: DIR missing; it is needed. Fix: write DIR before --from, which takes every word after it\n"
    assert capsys.readouterr().err == f"ple-rec: {told}"


@pytest.mark.usefixtures("here")
def test_what_prep_would_refuse_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"user_id": [1, 2], "click": [0, 1]}), "log.parquet")
    assert main(["init", "new", "--from", "log.parquet"]) == 0
    said = "prep refuses new/prep.toml as it is: prep.toml: split: no row lies in "
    assert said in capsys.readouterr().out
    rows = small() | {"click": [0, 1, 2] * 200}
    pq.write_table(pa.table(rows), "log.parquet")
    with open_log(["log.parquet"]) as log:
        write_files(Path("two"), log, guess_roles(log.rows, ["click"]))
        file = Path("two", PREP_FILE)
        file.write_text(file.read_text().replace('kind = "regression"', 'kind = "binary"'))
        said = "bad rows 33.33% break tasks[0].label: a binary label is 0 or 1 (prep will refuse the log)"
        assert find_problem(file, log) == said


@pytest.mark.usefixtures("no_charts")
def test_tab_separated_files_are_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "logs").mkdir()
    write_csv(here / "logs" / "a.tsv", "\t")
    for name, source, files in (("one", "logs/a.tsv", "a.tsv"), ("all", "logs", "**/*.tsv")):
        config, commands = init(capsys, name, "--from", source)
        assert (config["log"]["files"], config["log"]["format"]) == ([files], "csv")
        assert main(commands[0]) == 0


def test_counts_and_a_place_among_the_logs_are_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = small()
    (here / "logs").mkdir()
    pq.write_table(pa.table({"user_id": rows["user_id"], "click": rows["click"], "n": [1] * 600}), "logs/0.parquet")
    assert main(["init", "logs", "--from", "logs"]) == 0
    said = capsys.readouterr().out
    assert "1 feature, 1 column left out\n" in said
    assert "logs lies in the folder of the log: prep will warn that it does not read the two files\n" in said
