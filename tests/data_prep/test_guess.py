"""`ple-rec init`: what it takes the columns of a log for, and that prep and training take the files it writes."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import gzip
import random
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from data_prep.guess.check import problem_of
from data_prep.guess.files import PREP, write_files
from data_prep.guess.log import open_log
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
            "--from, a.json: its name tells no format; all files of a table have one format, told by .parquet, .csv or "
            ".csv.gz. Fix: name files of one format, whose names end in .parquet, .csv, .csv.gz or .tsv",
        ),
        (["log.csv"], "init: --from missing; it is needed. Fix: write --from log.csv"),
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


def test_a_folder_after_the_files_is_taken_for_one_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--from", "logs", "feed"]) == 2
    told = "init: DIR missing; it is needed. Fix: write DIR before --from, which takes every word after it\n"
    assert capsys.readouterr().err == f"ple-rec: {told}"


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


@pytest.mark.usefixtures("here", "no_charts")
def test_names_of_columns_become_names_that_prep_takes(capsys: pytest.CaptureFixture[str]) -> None:
    odd = ["用户_id", "商品_id", "点击", "été", "item, id", "a # b", "a b", "a-b", "a_b", "A_B_", "group", "n" * 300]
    odd += ["label_click", "time.hour", 'q"x', "l\nm", "\x7f"]
    config = accepted(small() | {name: ["a", "b", "c"] * 200 for name in odd}, capsys)
    names = [
        "user_id",
        "id",
        "id_2",
        "column_6",
        "ete",
        "item_id",
        "a_b",
        "a_b_2",
        "a_b_3",
        "a_b_4",
        "A_B_5",
        "group_2",
    ]
    names += ["n" * 60, "label_click_2", "q_x", "l_m", "column_19", "hour"]
    assert list(names_of(config, "sparse")) == names
    assert "#   time.hour  guess: an expression does not read its name" in Path("log/prep.toml").read_text()


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=strategies.data())
def test_whatever_the_header_prep_takes_the_file(
    data: strategies.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    odd = strategies.sampled_from(["a b", "a-b", "A_b", "__", "7", "group", "hour", "label_x", "x", "log_day", "case"])
    text = strategies.text(strategies.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=90)
    names = data.draw(strategies.lists(odd | text, unique=True, min_size=1, max_size=8))
    kinds: list[Any] = [["p", "q", "r"], [1.5, 2.5, float("nan")], [1, 2, 3], [True, False, None], [1.0, None, 70.0]]
    columns = {name: kinds[data.draw(strategies.integers(0, 4))] * 100 for name in names}
    columns |= {"x_click": [0, 1, 1] * 100, "place": [f"place {i % 9}" for i in range(300)]}
    folder = tmp_path_factory.mktemp("header")
    pq.write_table(pa.table(columns), folder / "log.parquet")
    with open_log([str(folder / "log.parquet")]) as log:
        write_files(folder / "new", log, guess_roles(log.rows, (), log.unreadable))
        assert problem_of(folder / "new" / PREP, log) == ""


@pytest.mark.usefixtures("here", "no_charts")
def test_columns_that_prep_does_not_read_are_left_out_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    rows = small()
    columns = rows | {
        **{"Kind": ["a"] * 600, "kind": ["b"] * 600, "half": pa.array([1.0, 2.0] * 300, pa.float16())},
        **{"price": pa.array([decimal.Decimal("1.50")] * 600, pa.decimal128(10, 2)), "bytes": [b"1", b"2"] * 300},
    }
    assert accepted(columns, capsys).get("dense") is None
    left_out = Path("log/prep.toml").read_text().partition("# Columns that are left out:")[2]
    assert (
        "Kind  guess: the file has 'Kind' and 'kind'; engines do not tell names apart by their order or case"
        in left_out
    )
    assert "half  guess: type halffloat; half precision is not read; write it as float" in left_out
    assert "price  guess: type decimal128(10, 2); decimals differ between engines; write it as double" in left_out
    assert main(["init", "other", "--from", "log.parquet", "--label", "price"]) == 2
    assert capsys.readouterr().err.startswith("ple-rec: --label: price is not read; type decimal128(10, 2); ")
    for city in ("Rome", "__HIVE_DEFAULT_PARTITION__"):
        Path("cities", f"city={city}").mkdir(parents=True)
        pq.write_table(pa.table(rows), f"cities/city={city}/0.parquet")
    _, commands = init(capsys, "hive", "--from", "cities")
    assert (
        "#   city  guess: the folder city=__HIVE_DEFAULT_PARTITION__ gives it no value"
        in Path("hive/prep.toml").read_text()
    )
    assert main(commands[0]) == 0


@pytest.mark.usefixtures("here", "no_charts")
def test_a_split_by_a_hash_leaves_no_split_empty(capsys: pytest.CaptureFixture[str]) -> None:
    floats = small() | {"user_id": [float("nan"), *map(float, small()["user_id"][1:])]}
    del floats["ts"]
    config = accepted(floats, capsys, "floats")
    user = "cast(user_id as int)"
    assert (config["group"], config["split"]["value"]) == (user, user)
    assert (config["log"]["where"], names_of(config, "sparse")) == (f"{user} is not null", {"user_id": user})
    for rows, users in ((40, 5), (2_000, 9)):
        few = {"user_id": small(rows, users)["user_id"], "click": small(rows)["click"]}
        assert accepted(few, capsys, f"alone{users}")["split"]["value"] == "user_id"
        few["note"] = [None, *(f"n{i}" for i in range(1, rows))]
        assert accepted(few, capsys, f"few{users}")["split"]["value"] == "coalesce(note, '')"
        told = Path(f"few{users}/prep.toml").read_text()
        assert f"rows of equal value lie in one split; {users} users are too few" in told
    numbers = {"a": [i / 7 for i in range(300)], "b": [True, False, None] * 100, "click": [0, 1, 1] * 100}
    assert (
        accepted(numbers, capsys, "numbers")["split"]["value"]
        == "concat(coalesce(cast(cast(b as int) as string), ''), ':', floor(a * 1000))"
    )


@pytest.mark.usefixtures("here", "no_charts")
def test_times_that_lie_far_out(capsys: pytest.CaptureFixture[str]) -> None:
    rows = small(2_000)
    late = dt.datetime(2262, 1, 1)
    times = [late, *(dt.datetime(2024, 5, 1) + dt.timedelta(minutes=i) for i in range(1_999))]
    config = accepted({"user_id": rows["user_id"], "click": rows["click"], "seen": times}, capsys, "one")
    assert (config["on_bad_row"], config["time"]["value"], config["split"]["by"]) == ("drop", "seen", "hash")
    config = accepted({"user_id": rows["user_id"], "click": rows["click"], "seen": [late] * 2_000}, capsys, "all")
    assert "time" not in config
    assert (
        "#   seen  guess: a time that too many rows lack, or not in 2000 to 2099" in Path("all/prep.toml").read_text()
    )
    config = accepted(rows | {"ts": [0, *rows["ts"][1:]]}, capsys, "zero")
    assert config["log"]["where"] == "ts between 946771200 and 4102358399"
    assert config["split"]["train"][0] == "2024-05-01"


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
        file = Path("two", PREP)
        file.write_text(file.read_text().replace('kind = "regression"', 'kind = "binary"'))
        said = "bad rows 33.33% break tasks[0].label: a binary label is 0 or 1 (prep will refuse them)"
        assert problem_of(file, log) == said


def time_and_value(columns: dict[str, Any]) -> tuple[str, str] | None:
    """Return the time of a log and its expression, of which no feature may be."""
    roles = guess_roles(pa.table(columns))
    assert not {feature.name for feature in roles.features} & {"ts", "event_time", "user_created_at", "seen"}
    return None if roles.time is None else (roles.time.column.name, roles.time.value)


def test_the_time_of_the_row_is_chosen_among_times() -> None:
    rows = small(ROWS)
    del (plain := dict(rows))["ts"]
    ids = {"event_id": [10**9 + i for i in range(ROWS)]}
    assert time_and_value(ids | rows) == ("ts", "ts")
    assert time_and_value(ids | plain) is None
    joined = {"user_created_at": [1_500_000_000 + 86_400 * user for user in rows["user_id"]]}
    assert time_and_value(joined | plain | {"event_time": rows["ts"]}) == ("event_time", "event_time")
    published = {"first_at": [1_500_000_000 + 86_400 * user for user in rows["user_id"]]}
    assert time_and_value(published | rows) == ("ts", "ts")
    assert time_and_value(plain | {"ts": [None, *rows["ts"][1:]]}) == ("ts", "ts")
    assert time_and_value(plain | {"ts": [time + 0.5 for time in rows["ts"]]}) == ("ts", "floor(ts)")
    assert time_and_value(plain | {"ts": [None if i % 2 else time for i, time in enumerate(rows["ts"])]}) is None
    assert time_and_value(plain | {"seen": rows["ts"]}) == ("seen", "seen")
    texts = [str(dt.datetime.fromtimestamp(time, dt.UTC)) for time in rows["ts"]]
    assert time_and_value(plain | {"seen": texts}) == ("seen", "seen")


@pytest.mark.usefixtures("here", "no_charts")
def test_texts_that_hold_lists_or_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(4)
    columns = small(1_500) | {
        "history": ["|".join(str(draw.randrange(300)) for _ in range(6)) for _ in range(1_500)],
        "price": [f"{draw.randrange(10_000)},{draw.randrange(100):02}" for _ in range(1_500)],
        "watch_time": [f"{draw.randrange(100)},5" for _ in range(1_500)],
    }
    config = accepted(columns, capsys)
    assert names_of(config, "sparse")["history"] == "split(history, '|')"
    assert names_of(config, "dense") == {"price": "cast(replace(price, ',', '.') as double)"}
    assert config["tasks"][1]["label"] == "cast(replace(watch_time, ',', '.') as double) / 10"


def test_numbers_that_name_something_are_ids() -> None:
    draw = random.Random(5)
    rows = small(20_000) | {
        "zork": [draw.randrange(400) for _ in range(20_000)],
        "blah": [50_000 + 7_919 * draw.randrange(400) for _ in range(20_000)],
        "price": [5_000 + 100 * draw.randrange(400) for _ in range(20_000)],
        "seen_before": [int(draw.expovariate(1 / 60)) for _ in range(20_000)],
        "kind": [float(draw.randrange(9)) for _ in range(20_000)],
    }
    features = {feature.name: feature for feature in guess_roles(pa.table(rows)).features}
    assert [name for name, feature in features.items() if feature.dense] == ["price", "seen_before"]
    assert features["zork"].why.endswith(
        "values in the sample, which return often, spread evenly up to 399: ids, not amounts"
    )
    assert features["blah"].why.endswith("which return often and are 50,000 or more: ids, not amounts")
    assert features["kind"].keys == {"value": '"cast(kind as int)"'}


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
