"""`ple-rec init`: what it takes the columns of a log for, and that prep and training take the files it writes."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import random
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.guess.roles import guess_roles
from data_prep.guess.times import days_of
from ple_rec.cli import main
from ple_rec.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = 3_000


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


@pytest.mark.usefixtures("no_charts")
def test_the_logs_of_the_example_are_prepared_and_trained_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["feed_logs.py"])
    runpy.run_path(str(REPOSITORY / "docs" / "examples" / "feed_logs.py"), run_name="__main__")
    capsys.readouterr()
    config, commands = init(capsys, "feed", "--from", "data/feed-raw/log")
    assert (config["name"], config["group"], config["log"]["files"]) == ("feed", "user_id", ["."])
    assert (config["time"]["value"], config["time"]["unit"]) == ("time_ms", "ms")
    assert config["split"] == {
        "by": "day",
        "train": ["2024-05-01", "2024-05-06"],
        "valid": ["2024-05-07", "2024-05-07"],
        "test": ["2024-05-08", "2024-05-08"],
    }
    assert [task["label"] for task in config["tasks"]] == ["is_click", "is_share", "play_time_ms / 10000"]
    assert [sparse["name"] for sparse in config["sparse"]] == ["user_id", "video_id", "tab", "history", "hour"]
    assert config["sparse"][3] == {"name": "history", "table": "video_id", "bag": True, "max_length": 50}
    assert [dense["name"] for dense in config["dense"]] == ["network_mbps", "duration_ms"]
    text = Path("feed/prep.toml").read_text()
    marked = [line for line in text.splitlines() if line.startswith(("name = ", "group", "value", "by"))][1:]
    assert [line for line in marked if "# guess: " not in line] == ['value = "time.hour"']
    assert "#   recency  guess: its type is list<" in text
    page = (REPOSITORY / "docs" / "prep.md").read_text()
    shown = page.partition("Some lines of `mine/prep.toml`:\n\n```text\n")[2].partition("```")[0].splitlines()
    assert len(shown) == 6
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
    assert config.get("group") == ('"Customer ID"' if days == 6 else None)
    sparse = {each["name"]: each for each in config["sparse"]}
    assert list(sparse) == ["Customer_ID", "item", "case", "tags", "device", "hour"]
    assert sparse["case"]["value"] == '"case"'
    assert sparse["tags"]["value"] == "split(tags, '|')"
    assert config["dense"] == [{"name": "price", "normaliser": "log"}]
    assert [(task["name"], task["kind"]) for task in config["tasks"]] == [
        *(("bought", "binary"), ("is_share", "binary"), ("watch_time_sec", "regression")),
    ]
    assert config["tasks"][2]["space"] == "watch_time_sec is not null"
    text = Path("shop/prep.toml").read_text()
    for column in (
        "impression_id  guess: its name is that of a key",
        "const  guess: it has one value",
        "note  guess: it has no",
    ):
        assert f"#   {column}" in text
    assert "watch_time_sec" in run(capsys, commands)


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
        (["--from", "s3://bucket/log"], "--from: got s3://bucket/log; what is looked at lies on this machine. Fix: "),
        (["--from", "plain.csv"], "--from: no column looks like a label; a model needs one. Fix: name it: --label "),
        (
            ["--from", "headless.csv"],
            "headless.csv: its first line has the cell '7'; the first line names the columns.",
        ),
        (
            ["--from", "empty.csv"],
            "empty.csv: no row, or no column that all files have; columns are guessed by their values. Fix: ",
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
    assert main(["init", "new", *argv]) == 2
    assert capsys.readouterr().err.startswith(f"ple-rec: {message}")
    assert not (here / "new").exists()


def test_nothing_is_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(here / "log.csv")
    (here / "mine").mkdir()
    (here / "mine" / "train.toml").write_text("mine\n")
    assert main(["init", "mine", "--from", "log.csv"]) == 2
    told = "mine/train.toml: is there; nothing is overwritten. Fix: give another DIR, or move it away\n"
    assert capsys.readouterr().err == f"ple-rec: {told}"
    assert [file.name for file in (here / "mine").iterdir()] == ["train.toml"]


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (pa.array([1_714_521_600, 1_714_608_000]), "s"),
        (pa.array([1_714_521_600_000, 1_714_608_000_000]), "ms"),
        (pa.array([1_714_521_600_000_000, 1_714_608_000_000_000]), "us"),
        (pa.array([20240501, 20240502]), "date"),
        (pa.array(["2024-05-01", "2024-05-02"]), "date"),
        (pa.array([dt.date(2024, 5, 1), dt.date(2024, 5, 2)]), "date"),
        (pa.array([dt.datetime(2024, 5, 1, 3), dt.datetime(2024, 5, 2)]), "timestamp"),
        (pa.array([dt.datetime(2024, 5, 1, 3), dt.datetime(2024, 5, 2)], pa.timestamp("us", "UTC")), "timestamp"),
    ],
)
def test_a_time_is_told_by_its_values(values: pa.Array, unit: str) -> None:
    rows = pa.table({"user_id": [1, 2], "event_time": values, "click": [0, 1]})
    time = guess_roles(rows).time
    assert time is not None
    assert (time.column.name, time.unit) == ("event_time", unit)
    assert sorted(days_of(values, unit)) == [dt.date(2024, 5, 1), dt.date(2024, 5, 2)]


def roles_of(columns: dict[str, Any]) -> tuple[dict[str, str], set[str], set[str]]:
    """Return the kinds of the labels, the features and the columns that are left out."""
    roles = guess_roles(pa.table(columns))
    labels: dict[str, str] = {label.column.name: label.kind for label in roles.labels}
    return labels, {feature.name for feature in roles.features}, set(roles.left_out)


def test_columns_of_public_logs() -> None:
    draw = random.Random(0)

    def ints(high: int) -> list[int]:
        return [draw.randrange(high) for _ in range(ROWS)]

    def flags(share: float) -> list[int]:
        return [int(draw.random() < share) for _ in range(ROWS)]

    movielens = {
        "userId": ints(600),
        "movieId": ints(9_000),
        "rating": ints(10),
        "timestamp": [10**9 + i for i in ints(10**6)],
    }
    assert roles_of(movielens) == ({"rating": "regression"}, {"userId", "movieId", "hour"}, set())
    kuairand = {
        **{"user_id": ints(600), "video_id": ints(900), "date": [20220408] * ROWS, "is_rand": [0] * ROWS},
        **{"time_ms": [1_649_400_000_000 + i for i in ints(10**8)], "is_click": flags(0.4), "is_hate": [0] * ROWS},
        **{"long_view": flags(0.3), "play_time_ms": ints(60_000), "duration_ms": ints(600_000), "tab": ints(15)},
        **{"profile_stay_time": ints(900), "is_profile_enter": flags(0.01)},
    }
    assert roles_of(kuairand) == (
        {
            **{"is_click": "binary", "long_view": "binary", "is_profile_enter": "binary"},
            **{"play_time_ms": "regression", "profile_stay_time": "regression"},
        },
        {"user_id", "video_id", "duration_ms", "tab", "hour"},
        {"date", "is_rand", "is_hate"},
    )
    shop = {
        **{"session_id": [f"s{i // 3}" for i in range(ROWS)], "uid": [f"u{i}" for i in ints(50)], "price": ints(10**4)},
        **{"purchased": [bool(i) for i in flags(0.1)], "order_amount": ints(10**4), "added_to_cart": flags(0.2)},
        **{"query": [f"q {i}" for i in range(ROWS)]},
    }
    labels = {"purchased": "binary", "added_to_cart": "binary", "order_amount": "regression"}
    assert roles_of(shop) == (labels, {"uid", "price"}, {"session_id", "query"})


def test_names_that_become_the_same_stay_apart() -> None:
    rows = pa.table(
        {"a b": ["x", "y"], "a_b": ["x", "y"], "hour": [1, 2], "ts": [1_714_521_600, 2_000_000_000], "y": [0, 1]}
    )
    features = guess_roles(rows).features
    assert [(feature.name, feature.keys.get("value")) for feature in features] == [
        *(("a_b", """'"a b"'"""), ("a_b_2", '"a_b"'), ("hour", None)),
    ]


def test_a_log_without_features_is_refused() -> None:
    with pytest.raises(UserError, match="no column of the log can be a feature"):
        guess_roles(pa.table({"click": [0, 1]}))


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


def test_rows_without_a_user_or_a_time_are_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = [None, *(dt.datetime(2024, 5, 1) + dt.timedelta(hours=i) for i in range(99))]
    rows = {"user_id": [*range(99), None], "seen_at": times, "click": [i % 2 for i in range(100)]}
    pq.write_table(pa.table(rows), here / "log.parquet")
    config, commands = init(capsys, "some", "--from", str(here / "log.parquet"))
    assert config["log"]["where"] == "user_id is not null and seen_at is not null"
    assert main(commands[0]) == 0
