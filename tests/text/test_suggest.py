"""The name that was meant, as whole text."""

from __future__ import annotations

from pathlib import Path

from ple_rec.text.suggest import did_you_mean, nearest_name
from tests.project_files import project_files

KNOWN = ("click", "like", "watch_time")


def test_the_nearest_name_is_suggested() -> None:
    assert nearest_name("clik", KNOWN) == nearest_name("CLICK", KNOWN) == "click"
    assert did_you_mean("clik", KNOWN) == "did you mean 'click'?"
    assert did_you_mean("watchtime", dict.fromkeys(KNOWN), "`", suffix=" else ") == "did you mean `watch_time`? else "


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert nearest_name("revenue", KNOWN) is None
    assert did_you_mean("revenue", KNOWN, suffix=" else ") == ""
    assert nearest_name("clik", KNOWN, cutoff=0.95) is None
    assert nearest_name("x", ()) is None


def test_a_name_from_data_cannot_steer_a_terminal() -> None:
    assert did_you_mean("a\x1b[2J", ["a\x1b[2Jb"]) == r"did you mean 'a\x1b[2Jb'?"


def test_difflib_is_imported_by_the_helper_alone(repository: Path) -> None:
    users = {
        file.relative_to(repository).as_posix()
        for file in project_files(["ple_rec", "data_prep"], ".py")
        if "difflib" in file.read_text(encoding="utf-8")
    }
    assert users == {"ple_rec/text/suggest.py"}
