"""What the columns of a log are taken for, and that prep takes the names and splits that come of it."""

from __future__ import annotations

import datetime as dt
import decimal
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from data_prep.init.files import PREP_FILE, find_problem, write_files
from data_prep.init.log import open_log
from data_prep.init.roles import guess_roles
from data_prep.init.times import distinct_days
from ple_rec.cli import main
from ple_rec.errors import UserError
from tests.data_prep.init.guess_logs import ROWS, accepted, init, names_of, small


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
    assert sorted(distinct_days(values, unit)) == [dt.date(2024, 5, 1), dt.date(2024, 5, 2)]


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
    names += ["n" * 60, "label_click_2", "time_hour", "q_x", "l_m", "column_20", "hour"]
    assert list(names_of(config, "sparse")) == names
    assert config["sparse"][names.index("time_hour")]["value"] == '"time.hour"'


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
        assert find_problem(folder / "new" / PREP_FILE, log) == ""


@pytest.mark.usefixtures("here", "no_charts")
def test_columns_that_prep_does_not_read_are_left_out_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    rows = small()
    columns = rows | {
        **{"Kind": ["a"] * 600, "kind": ["b"] * 600, "half": pa.array([1.0, 2.0] * 300, pa.float16())},
        **{"price": pa.array([decimal.Decimal(i) / 4 for i in range(600)], pa.decimal128(10, 2))},
        "bytes": [b"1", b"2"] * 300,
    }
    assert list(names_of(accepted(columns, capsys), "dense")) == ["price"]  # a decimal is a number
    left_out = Path("log/prep.toml").read_text().partition("# Columns that are left out:")[2]
    assert (
        "Kind  guess: the file has 'Kind' and 'kind'; engines cannot tell columns apart whose names differ at most in "
        "case" in left_out
    )
    assert "half  guess: type halffloat; half precision is not read; write it as float" in left_out
    assert main(["init", "other", "--from", "log.parquet", "--label", "bytes"]) == 2
    assert capsys.readouterr().err.startswith("ple-rec: --label: bytes is not read; type binary; bytes are not text; ")
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
    many = [late, late + dt.timedelta(days=1)] * 30 + times[60:]
    config = accepted({"user_id": rows["user_id"], "click": rows["click"], "seen": many}, capsys, "many")
    assert config["max_bad_fraction"] == 0.06
    config = accepted(rows | {"ts": [0, *rows["ts"][1:]]}, capsys, "zero")
    assert config["log"]["where"] == "ts between 946771200 and 4102358399"
    assert config["split"]["train"][0] == "2024-05-01"


def test_labels_beyond_all_measure() -> None:
    for large in (1e305, 1e308):
        roles = guess_roles(pa.table({"user_id": [1, 2, 3], "revenue": [large, -large, 1.0]}))
        assert [label.value for label in roles.labels] == ["revenue"]


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


def test_lists_share_the_table_of_the_column_that_has_most_of_their_items() -> None:
    rows = small() | {
        "item": [f"i{i % 40}" for i in range(600)],
        "popular": [[f"i{i % 3}"] for i in range(600)],  # few of the values, and each item is one of them
        "mixed": [[f"i{i % 100}"] for i in range(600)],  # all values, and most items are none of them
    }
    features = {feature.name: feature for feature in guess_roles(pa.table(rows)).features}
    assert (features["popular"].table, features["mixed"].table) == ("item", "mixed")


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
    assert [name for name, feature in features.items() if feature.is_dense] == ["price", "seen_before"]
    assert features["zork"].why.endswith(
        "values in the sample, which return often, spread evenly up to 399: ids, not amounts"
    )
    assert features["blah"].why.endswith("which return often and are 50,000 or more: ids, not amounts")
    assert features["kind"].keys == {"value": '"cast(kind as int)"'}


@pytest.mark.usefixtures("here", "no_charts")
def test_a_column_with_the_name_of_a_keyword_is_a_feature(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["select", "case", "order", "null"]
    config = accepted(small(600) | {word: ["a", "b", "c"] * 200 for word in words}, capsys)
    assert set(words) <= set(names_of(config, "sparse"))
