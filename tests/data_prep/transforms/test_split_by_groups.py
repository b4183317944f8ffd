"""A split that deals out whole groups of rows: chance counts groups, and columns that tell one are left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data_prep.output.summary import Summary
from data_prep.stats.drift import Groups, psi, verdict
from tests.data_prep.plain_logs import DAY_1, TOML, Logs

USERS = 300
BY_USER = 'split={by="hash",value="user_id",valid=0.1,test=0.1}'
FEATURES = """
[[sparse]]
name = "user"
value = "user_id"

[[sparse]]
name = "city"

[[dense]]
name = "age"
"""


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """Users with 1 to some 70 rows each, all of the same city and age."""
    random = np.random.default_rng(3)
    logs = Logs(tmp_path_factory.mktemp("users"), TOML + FEATURES, days=0)
    user = np.repeat(np.arange(USERS), random.geometric(1 / 12, USERS))
    city, age = random.integers(0, 60, USERS), random.normal(40, 9, USERS)
    table = pa.table(
        {
            "user_id": user,
            "video_id": [f"v{i}" for i in random.integers(0, 5, len(user))],
            "time_ms": DAY_1 + np.arange(len(user)),
            "duration_ms": np.full(len(user), 9),
            "price": random.random(len(user)),
            "is_like": random.integers(0, 2, len(user)),
            "city": [f"c{i}" for i in city[user]],
            "age": age[user],
        }
    )
    logs.write(1, table)
    return logs


@pytest.fixture(scope="module")
def found(logs: Logs) -> Summary:
    return logs.prepare(BY_USER)


def test_groups_are_counted_instead_of_rows(logs: Logs, found: Summary) -> None:
    groups = found.stats["groups"]
    assert (groups["by"], groups["columns"]) == ("user_id", ["user"])
    assert sum(found.stats["rows"].values()) > 3000
    assert groups["train"] + groups["later"] < USERS  # of unequal size, they scatter like fewer
    assert 0.35 * USERS < groups["train"] < 0.8 * USERS
    for name, bins in (("city", 61), ("age", 10), ("price", 10)):
        drift = found.stats["drift"][name]
        assert drift["chance"] == pytest.approx((bins - 1) * (1 / groups["train"] + 1 / groups["later"]), rel=0.05)
        assert verdict(drift["psi"], drift["chance"]) == "stable"
    assert found.stats["drift"]["age"]["psi"] > 0.25  # by rows it would be a large drift


def test_the_column_of_the_groups_is_left_out(logs: Logs, found: Summary) -> None:
    assert found.stats["drift"]["user"] == {"psi": None, "chance": None, "oov": 1.0}
    page = (logs.out / "stats.html").read_text("utf-8")
    section = " ".join(re.sub(r"<[^>]+>", " ", page[page.index("Drift from train") :]).split())
    assert "an upper bound, what it would be on average if all rows of a user_id were alike" in section
    assert "Left out: user . The split deals out each value of user_id whole, so none of train is in valid" in section
    assert not re.search(r"\b(moderate|large) ", section[section.index("Left out") : section.index("Rows left out")])


def test_an_appended_day_counts_the_groups_that_it_holds_out(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML + FEATURES[: FEATURES.index('[[sparse]]\nname = "city"')], days=5)
    logs.prepare()
    parent = logs.out
    logs.out = tmp_path / "day-5"
    day = logs.prepare("append={valid=0.3,test=0.3}", append="day=5", parent=parent)
    groups: dict[str, Any] = day.stats["groups"]
    assert (groups["by"], groups["columns"]) == ("user_id", ["user"])
    assert groups["train"] + groups["later"] == pytest.approx(7, abs=0.2)  # seven users of three or four rows
    assert day.stats["drift"]["user"]["psi"] is None


def test_a_split_by_day_counts_rows(tmp_path: Path) -> None:
    found = Logs(tmp_path).prepare()
    assert "groups" not in found.stats
    rows = found.stats["rows"]
    later = rows["valid"] + rows["test"]
    assert found.stats["drift"]["video_id"]["chance"] == pytest.approx(5 * (1 / rows["train"] + 1 / later), rel=0.21)


@pytest.mark.parametrize("skewed", [False, True], ids=["equal", "skewed"])
def test_chance_is_what_groups_of_alike_rows_give(skewed: bool) -> None:
    """On average; groups of unequal size scatter like fewer."""
    random, bins, drawn, chances = np.random.default_rng(5), 10, [], []
    for _ in range(100):
        size = random.geometric(1 / 12, 2000) if skewed else np.full(2000, 12)
        bin_of, held = random.integers(0, bins, 2000), random.random(2000) < 0.2
        counts, groups = [], []
        for some in (~held, held):
            counts.append(np.bincount(bin_of[some], size[some], bins).astype(int).tolist())
            groups.append(size[some].sum() ** 2 / (size[some] ** 2).sum())
        each = psi(*counts, groups=Groups("user_id", (), *groups))
        drawn.append(each["psi"] or 0.0)
        chances.append(each["chance"] or 0.0)
    assert np.mean(drawn) == pytest.approx(np.mean(chances), rel=0.15)
