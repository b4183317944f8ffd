"""docs/examples/feed_logs.py: its users and videos stay by default, and come and go with an option."""

from __future__ import annotations

import hashlib
import runpy
import sys
from contextlib import chdir
from pathlib import Path

import pyarrow.parquet as pq
import pytest

IDS = ["user_id", "video_id"]


def write_log(repository: Path, folder: Path, *arguments: str) -> list[dict[str, list[object]]]:
    """Run the script in a folder, and return the ids of each day."""
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["feed_logs.py", *arguments])
        runpy.run_path(str(repository / "docs" / "examples" / "feed_logs.py"), run_name="__main__")
    files = sorted((folder / "data" / "feed-raw" / "log").rglob("*.parquet"))
    return [pq.ParquetFile(file).read(IDS).to_pydict() for file in files]


@pytest.fixture(scope="module")
def days(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[object]]]:
    """Twenty days of users and videos that come and go."""
    folder = tmp_path_factory.mktemp("come-and-go")
    return write_log(repository, folder, "1", "20", "--come-and-go", "--users=200", "--rows=1500", "--videos=20")


def test_without_an_option_the_logs_are_those_of_the_other_examples(repository: Path, tmp_path: Path) -> None:
    log = write_log(repository, tmp_path)
    assert [len(day["user_id"]) for day in log] == [2_000] * 8
    digest = hashlib.sha256(repr([list(day.values()) for day in log]).encode()).hexdigest()
    assert digest == "ea703a046f89b8dc6a635d3a6db3d26b8b93d4299ff3da8da15b59ccaf833789"


def test_users_arrive_leave_for_good_and_return(days: list[dict[str, list[object]]]) -> None:
    present = [set(day["user_id"]) for day in days]
    # Users who are seen in the second week, but not in the first, are new.
    before, after = set[object]().union(*present[:7]), set[object]().union(*present[14:])
    assert set[object]().union(*present[7:14]) - before
    assert before - after
    pauses = before & after - set[object]().union(*present[8:13])
    assert len(pauses) > 5
    assert all(130 < len(users) <= 200 for users in present)


def test_a_video_is_shown_for_five_days(days: list[dict[str, list[object]]]) -> None:
    numbers = [{int(str(video)[1:]) for video in day["video_id"]} for day in days]
    for day, videos in enumerate(numbers, 1):
        assert max(videos) < 20 * day
        assert min(videos) >= 20 * (day - 5)
    assert min(numbers[-1]) < 20 * 16  # Some videos of the oldest of these days are still shown.


@pytest.mark.parametrize("days", [("10", "9"), ("0", "3"), ("30", "32"), ("9",)])
def test_days_out_of_order_are_refused(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], days: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        write_log(repository, tmp_path, *days)
    assert refusal.value.code == 2
    assert "days are 1 to 31, and LAST is not before FIRST" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_sizes_are_options(days: list[dict[str, list[object]]]) -> None:
    assert [len(day["user_id"]) for day in days] == [1_500] * 20
