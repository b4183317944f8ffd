"""A chain of days in an object store: datasets, runs, records and model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ple_rec.errors import UserError
from ple_rec.runs.directory import hold_prefix
from ple_rec.storage import location, names_in
from ple_rec.storage.location import Remote
from tests.days.days import day_name, run, write_feed
from tests.object_store import object_store, use_store

pytestmark = pytest.mark.slow
ADDRESSES = ('folder="s3://days/chain"', 'model="s3://days/model"')


def test_two_days_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLE_REC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(write_feed(tmp_path / "feed", 5))
    with object_store("days") as endpoint:
        use_store(endpoint, monkeypatch)
        first, second = run(None, *ADDRESSES), run(None, *ADDRESSES, 'export.form="delta"', "export.delta_share=1.0")
        assert [each.verdict for each in (first, second)] == ["published", "published"]
        assert (second.day, second.compared_with, second.form) == (day_name(4), "v1", "delta")
        folder = location("s3://days/chain")
        assert names_in(folder / "records") == [f"{day_name(4)}.json", "first.json"]
        record = json.loads((folder / "records" / f"{day_name(4)}.json").read_text(encoding="utf-8"))
        assert record == second.to_json()
        assert (location("s3://days/model") / "latest").read_text(encoding="utf-8").strip() == "v2"
        assert isinstance(folder, Remote)
        with hold_prefix(folder), pytest.raises(UserError, match="in use"):
            run(None, *ADDRESSES)
        third = run(None, *ADDRESSES, "keep=2")
        assert third.verdict == "published"
        assert names_in(folder / "runs") == [day_name(4), day_name(5)]
