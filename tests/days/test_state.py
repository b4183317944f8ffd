"""A call on a chain whose versions, runs and records are of another start, or gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.load import load_schema
from ple_rec.days import removal
from ple_rec.days.chain import Chain
from ple_rec.errors import UserError
from ple_rec.storage import remove_tree
from tests.days.days import day_name, latest, record_of, run
from tests.inference.exported import set_latest


def test_an_older_version_of_the_same_day_is_not_taken_for_the_accepted_one(chain: Path) -> None:
    """After a roll-back the day was done again, and killed between the gate and the publication of v4."""
    accepted = record_of(day_name(5)) | {"verdict": "accepted", "version": str(Path("model/versions/v4"))}
    Path(f"chain/records/{day_name(5)}.json").write_text(json.dumps(accepted))
    set_latest(Path("model"), "v2")
    Path("model/versions/v1/model.json").write_text("{")  # Old versions are not read.
    record = run()
    assert (record.verdict, record.version, latest()) == ("published", str(Path("model/versions/v4")), "v4")


def test_a_run_that_started_from_another_version_is_refused(chain: Path) -> None:
    Path(f"chain/records/{day_name(5)}.json").unlink()
    set_latest(Path("model"), "v1")
    message = (
        rf"the run of this day started from chain/runs/{day_name(4)}:step-\d+; the served version now is of "
        rf"chain/runs/first:step-\d+. Fix: remove chain/runs/{day_name(5)} to train the day anew"
    )
    with pytest.raises(UserError, match=message):
        run()
    shutil.rmtree(f"chain/runs/{day_name(5)}/checkpoints")
    for name in ("metrics.json", ".saved"):
        Path(f"chain/runs/{day_name(5)}/{name}").unlink()
    with pytest.raises(UserError, match=message):
        run()


def test_the_record_of_a_served_day_is_written_anew(chain: Path) -> None:
    before = record_of(day_name(5))
    Path(f"chain/records/{day_name(5)}.json").unlink()
    run()
    lost: dict[str, Any] = {
        "compared_with": None,
        "differences": [],
        "seconds": {},
        "notes": ["the record was missing; the differences to the version before are not known"],
    }
    assert record_of(day_name(5)) == before | lost
    assert (latest(), sorted(path.name for path in Path("model/versions").iterdir())) == ("v3", ["v1", "v2", "v3"])


def test_a_served_day_without_its_run_is_not_trained_anew(chain: Path) -> None:
    Path(f"chain/records/{day_name(5)}.json").unlink()
    shutil.rmtree(f"chain/runs/{day_name(5)}")
    with pytest.raises(UserError, match=r"names v3, a version of this day; .* let latest name an older version first"):
        run()
    assert not Path(f"chain/runs/{day_name(5)}").exists()


def test_a_day_after_an_open_one(chain: Path) -> None:
    """Day 5 is open after a roll-back to day 4, and day 6 is asked for."""
    Path(f"chain/records/{day_name(5)}.json").unlink()
    set_latest(Path("model"), "v2")
    record = run(6)
    assert record.started_from is not None
    assert record.started_from.startswith(f"chain/runs/{day_name(4)}:")
    assert record.notes == (
        f"{day_name(5)} is not finished, so its rows are in no run; {day_name(6)} goes on without it",
    )
    with pytest.raises(UserError, match=rf"names a version of {day_name(6)}; a later day is served already"):
        run(5)
    assert latest() == "v4"


def test_a_removal_that_was_stopped_is_completed(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(directory: Path) -> None:
        raise KeyboardInterrupt

    served = load_schema(Path(f"chain/datasets/{day_name(5)}")).fingerprint
    monkeypatch.setattr(removal, "remove_tree", stop)
    with pytest.raises(KeyboardInterrupt):
        removal.remove_old_days(Chain(Path("chain")), served, 2)
    monkeypatch.setattr(removal, "remove_tree", remove_tree)
    assert [each.name for each in Chain(Path("chain")).days] == [day_name(4), day_name(5)]
    removal.remove_old_days(Chain(Path("chain")), served, 2)
    for folder in ("chain/datasets", "chain/runs"):
        assert sorted(path.name for path in Path(folder).iterdir()) == [day_name(4), day_name(5)]
