"""What a training does with its run directory: every state by every flag, and every state as it is read from a disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ple_rec.checkpoint.listing import finished_steps
from ple_rec.checkpoint.manifest import Manifest
from ple_rec.config.load import dump_toml, fingerprint
from ple_rec.config.run import RunConfig
from ple_rec.errors import DataError, UserError
from ple_rec.runs.state import DirectoryState, Resume, decide_action, inspect_directory
from ple_rec.storage import Location
from tests.training.small import small_config

RUN = Path("/runs/a")
FLAGS: list[dict[str, Any]] = [
    {"resume": False, "overwrite": False},
    {"resume": False, "overwrite": True},
    {"resume": True, "overwrite": False},
    {"resume": "auto", "overwrite": False},
]
EMPTY = DirectoryState(
    directory=RUN,
    is_file=False,
    foreign_names=(),
    has_config=False,
    has_saved=False,
    holds_run=False,
    checkpoint_place=RUN / "checkpoints",
    is_outside=False,
    owner=None,
    unowned_names=(),
    steps=(),
    newest=None,
    damage=None,
    changes=(),
    is_finished=False,
)
START = replace(EMPTY, has_config=True)
SAVED = replace(START, has_saved=True, holds_run=True, steps=(4, 8))
DONE = replace(SAVED, is_finished=True)
CHANGED = [("seed", 3, 4)]
OUTSIDE = replace(EMPTY, checkpoint_place=Path("/ck"), is_outside=True)
OWNED = replace(OUTSIDE, owner=str(RUN), steps=(4,))

# What a run does without a flag, with --overwrite, with --resume and with --auto-resume; "!" before part of a refusal.
TABLE: list[tuple[str, DirectoryState, tuple[str, str, str, str]]] = [
    ("nothing", EMPTY, ("begin", "begin", "!holds no run", "begin")),
    ("a file", replace(EMPTY, is_file=True), ("!is a file",) * 4),
    (
        "files of others",
        replace(EMPTY, foreign_names=("thesis.tex",)),
        ("!no run wrote", "!no run wrote", "!holds no run", "!no run wrote"),
    ),
    ("a start", START, ("begin", "begin", "resume", "resume")),
    ("a start of other settings", replace(START, changes=CHANGED), ("begin", "begin", "!seed was 3", "!seed was 3")),
    ("a run", SAVED, ("!already holds a run", "begin", "resume", "resume")),
    ("a run and a file", replace(SAVED, foreign_names=("x",)), ("!no run wrote", "!no run wrote", "resume", "resume")),
    ("other settings", replace(SAVED, changes=CHANGED), ("!already", "begin", "!seed was 3", "!seed was 3")),
    (
        "a configuration that cannot be read",
        replace(SAVED, changes=UserError("config.toml", "unreadable", "it is TOML", "copy it")),
        ("!already", "begin", "!unreadable", "!unreadable"),
    ),
    (
        "a damaged name of the latest checkpoint",
        replace(SAVED, damage=DataError("latest", "holds 'x'", "it must hold a name", "write one")),
        ("!already holds a run", "begin", "!holds 'x'", "!holds 'x'"),
    ),
    ("results", DONE, ("!already holds a run", "begin", "resume", "finished")),
    ("checkpoints away", replace(SAVED, steps=()), ("!already", "begin", "!holds no checkpoint", "!holds no ch")),
    ("results alone", replace(DONE, steps=()), ("!already", "begin", "!holds no checkpoint", "finished")),
    (
        "checkpoints without a configuration",
        replace(EMPTY, holds_run=True, steps=(4,)),
        ("!already holds a run", "begin", "resume", "resume"),
    ),
    ("outside, nothing", OUTSIDE, ("begin", "begin", "!holds no run", "begin")),
    (
        "outside, files of others",
        replace(OUTSIDE, unowned_names=("mine",)),
        ("!no run.json", "!no run.json", "!holds no run", "!no run.json"),
    ),
    (
        "outside, another run's",
        replace(OWNED, owner="/runs/b"),
        ("!checkpoints of /runs/b", "!checkpoints of /runs/b", "!holds no run", "!checkpoints of /runs/b"),
    ),
    ("outside, its own", OWNED, ("!already holds checkpoints", "begin", "resume", "resume")),
    (
        "outside, its own, and a run",
        replace(SAVED, checkpoint_place=Path("/ck"), is_outside=True, owner=str(RUN)),
        ("!already holds a run", "begin", "resume", "resume"),
    ),
    (
        "outside, nobody's, and a run",
        replace(SAVED, checkpoint_place=Path("/ck"), is_outside=True, unowned_names=("step-4",), steps=(4,)),
        ("!already holds a run", "!no run.json", "resume", "resume"),
    ),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return small_config(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("flags", FLAGS, ids=["none", "overwrite", "resume", "auto"])
@pytest.mark.parametrize(("state", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_every_state_by_every_flag(
    config: RunConfig, state: DirectoryState, expected: tuple[str, ...], flags: dict[str, Any]
) -> None:
    action = expected[FLAGS.index(flags)]
    if not action.startswith("!"):
        assert decide_action(state, config, **flags) == action
        return
    with pytest.raises((UserError, DataError)) as caught:
        decide_action(state, config, **flags)
    assert action[1:] in str(caught.value)


def _config_toml(run: Path, config: RunConfig) -> None:
    (run / "config.toml").write_text(dump_toml(config))


def _step(place: Path, step: int, text: str | None = None) -> None:
    (place / f"step-{step}").mkdir(parents=True)
    (place / f"step-{step}" / "manifest.json").write_text(text or Manifest(step, {"threads": step}, {}).to_json())
    (place / "latest").write_text(f"step-{step}\n")


def _results(run: Path, config: RunConfig) -> None:
    (run / "metrics.json").write_text(json.dumps({"config_fingerprint": fingerprint(config), "steps": 4}))
    (run / "report.html").touch()


def _results_without_report(run: Path, config: RunConfig) -> None:
    _results(run, config)
    (run / "report.html").unlink()


def _newest_damaged(run: Path, config: RunConfig) -> None:
    _step(run / "checkpoints", 4)
    _step(run / "checkpoints", 8, "{")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda run, config: None, {"has_config": False, "is_lost": False}),
        (_config_toml, {"has_config": True, "holds_run": False, "changes": []}),
        (lambda run, config: (run / "thesis.tex").touch(), {"foreign_names": ["thesis.tex"]}),
        (
            lambda run, config: _step(run / "checkpoints", 4),
            {"is_lost": True, "holds_run": True, "steps": [4], "newest_path": "step-4"},
        ),
        (
            _newest_damaged,
            {"is_lost": True, "steps": [4, 8], "newest_path": "step-4"},
        ),
        (
            lambda run, config: _step(run / "checkpoints", 4, "{"),
            {"is_lost": True, "newest": None, "newest_path": "step-4"},
        ),
        (lambda run, config: (run / ".saved").touch(), {"has_saved": True, "holds_run": True, "steps": []}),
        (_results, {"has_saved": True, "is_finished": True}),
        (_results_without_report, {"has_saved": True, "is_finished": False}),
        (lambda run, config: (run / "metrics.json").write_text("{"), {"has_saved": True, "is_finished": False}),
    ],
)
def test_what_is_read(
    config: RunConfig, tmp_path: Path, make: Callable[[Path, RunConfig], object], expected: dict[str, Any]
) -> None:
    make(tmp_path, config)
    state = inspect_directory(config, tmp_path)
    found = {name: getattr(state, name) for name in expected}
    if "newest_path" in found:
        found["newest_path"] = found["newest_path"].name
    assert found == expected


def test_the_newest_manifest_is_read_with_what_it_says(config: RunConfig, tmp_path: Path) -> None:
    for step in (4, 8):
        _step(tmp_path / "checkpoints", step)
    (tmp_path / "checkpoints" / "latest").write_text("step-4\n")  # step 8 is of an attempt that was given up
    newest = inspect_directory(config, tmp_path).newest
    assert newest is not None
    assert (newest[0].name, newest[1].written_by) == ("step-4", {"threads": 4})


def test_a_damaged_name_of_the_latest_checkpoint_is_refused_before_anything_is_written(
    config: RunConfig, tmp_path: Path
) -> None:
    """Loading would refuse it, too, but only after the configuration and the plan of the run were written anew."""
    _config_toml(tmp_path, config)
    _step(tmp_path / "checkpoints", 4)
    (tmp_path / "checkpoints" / "latest").write_text("garbage")
    with pytest.raises(DataError, match=r"latest: holds 'garbage'; .* write one of these into it: step-4"):
        _decide(config, tmp_path, resume=True)
    assert decide_action(inspect_directory(config, tmp_path), config, resume=False, overwrite=True) == "begin"


def test_a_first_checkpoint_that_is_written_meanwhile_is_not_away(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is started again looks before it waits for the last attempt, whose rank 0 may be saving."""

    def listing(place: Location) -> list[int]:
        steps = finished_steps(place)
        if not steps:
            _step(tmp_path / "checkpoints", 4)
            (tmp_path / ".saved").touch()
        return steps

    _config_toml(tmp_path, config)
    monkeypatch.setattr("ple_rec.runs.state.finished_steps", listing)
    assert _decide(config, tmp_path, resume="auto") == "resume"


def test_checkpoints_that_are_removed_while_they_are_listed_are_not_away(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last attempt saves step 8 and removes step 4, between the listing and the look at the manifest of step 4."""
    _config_toml(tmp_path, config)
    (tmp_path / ".saved").touch()
    listings = [[], [8]]
    _step(tmp_path / "checkpoints", 8)
    monkeypatch.setattr("ple_rec.runs.state.finished_steps", lambda place: listings.pop(0))
    assert _decide(config, tmp_path, resume="auto") == "resume"
    assert listings == []


def test_a_store_that_cannot_be_read_may_hold_a_run(config: RunConfig, tmp_path: Path) -> None:
    """The run that is there kept its checkpoints in a store that is gone: it is replaced by --overwrite alone."""
    (tmp_path / "config.toml").write_text('checkpoint.path = "s3x://bucket/run"\n')
    state = inspect_directory(config, tmp_path)
    assert state.holds_run
    assert decide_action(state, config, resume=False, overwrite=True) == "begin"
    with pytest.raises(UserError, match="already holds a run"):
        decide_action(state, config, resume=False, overwrite=False)


def test_a_place_outside_has_an_owner(config: RunConfig, tmp_path: Path) -> None:
    run, place = tmp_path / "run", tmp_path / "ck"
    outside = small_config(Path(config.data.path), {"checkpoint": {"path": str(place)}})
    assert inspect_directory(outside, run).unowned_names == []
    _step(place, 4)
    assert (inspect_directory(outside, run).unowned_names, inspect_directory(outside, run).is_lost) == (
        ["latest", "step-4"],
        False,
    )
    (place / "run.json").write_text(json.dumps({"run": str(run)}))
    state = inspect_directory(outside, run)
    assert (state.owner, state.unowned_names, state.steps, state.is_lost) == (str(run), [], [4], True)
    assert not inspect_directory(outside, tmp_path / "other").is_lost
    (place / "run.json").write_text("{")
    with pytest.raises(UserError, match="holds the checkpoints of an unknown run"):
        _decide(outside, run, resume="auto")


def _decide(config: RunConfig, run_dir: Path, *, resume: Resume) -> str:
    return decide_action(inspect_directory(config, run_dir), config, resume=resume, overwrite=False)
