"""Raw files that are replaced, broken off or removed while a run reads them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

from data_prep.sources.find import find_all
from data_prep.sources.footers import identify
from data_prep.survey import Survey, survey
from tests.data_prep.plain_logs import DAY_ROWS, Logs, day_of

CHANGED = r"it has changed while it was read; .* Fix: run again when nothing writes to them$"


def test_a_file_that_is_replaced_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs(tmp_path)

    def late(*arguments: Any) -> Survey:
        found = survey(*arguments)
        logs.spoil(2, "price", [777.0] * DAY_ROWS, pa.float64())
        return found

    monkeypatch.setattr("data_prep.pipeline.survey", late)
    assert re.search(rf"^log/day 2.parquet: {CHANGED}", logs.refusal())


@pytest.mark.parametrize("change", ["truncate", "shorten", "spoil", "remove", "touch"])
def test_an_error_of_a_file_that_has_changed_says_so(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these looks like damage, lost rows or a bad row of a file that nobody touches."""
    logs = Logs(tmp_path)
    file = logs.file(2)

    def early(*arguments: Any) -> Survey:
        if change == "truncate":
            file.write_bytes(file.read_bytes()[:-200])
        elif change == "shorten":
            logs.write(2, day_of(2).slice(5))
        elif change == "spoil":
            logs.spoil(2, "duration_ms", {5: -1})
        elif change == "remove":
            file.unlink()
        else:
            logs.spoil(3, "duration_ms", {5: -1})
            os.utime(file, ns=(0, 0))  # of the same bytes, but of another time
        return survey(*arguments)

    monkeypatch.setattr("data_prep.pipeline.survey", early)
    changed = r"it can no longer be read \(No such file or directory\);" if change == "remove" else CHANGED
    assert re.search(rf"^log/day 2.parquet: {changed}", logs.refusal())


def test_a_file_that_changes_while_footers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs(tmp_path)

    def late(*arguments: Any) -> Any:
        found = find_all(*arguments)
        logs.file(2).write_bytes(b"PAR1 of which the rest is on its way")
        return found

    monkeypatch.setattr("data_prep.run.find_all", late)
    assert re.search(rf"^log/day 2.parquet: {CHANGED}", logs.refusal())


@pytest.mark.parametrize("change", ["more", "broken"])
def test_a_csv_file_that_changes_while_it_is_converted(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest is of what it was before, and the conversion of what it is."""
    logs = Logs(tmp_path)
    for day in range(1, 5):
        logs.file(day).unlink()
        pacsv.write_csv(day_of(day), logs.raw / f"log/day {day}.csv")

    def late(file: Any, meter: Any) -> str:
        found = identify(file, meter)
        if file.display_name == "log/day 4.csv":
            with Path(file.path).open("a", encoding="utf-8") as stream:
                stream.write('1,"v1",1650240060000,100,0.5,1\n' if change == "more" else "1,2\n")
        return found

    monkeypatch.setattr("data_prep.sources.files.identify", late)
    assert re.search(rf"^log/day 4.csv: {CHANGED}", logs.refusal())
