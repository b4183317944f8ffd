"""A manifest of a stranger: every type, name and number in it is looked at before it is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ple_rec.checkpoint.manifest import MANIFEST, FileInfo, Manifest, read_manifest
from ple_rec.cli import main
from ple_rec.errors import DataError
from tests.checkpoint.forging import DOORS, SHOW, STEP, change_manifest, forge_value, run

WHOLE: dict[str, Any] = {"version": 2, "step": 3, "files": {"a": {"bytes": 3, "crc32": "0123abcd"}}}


def _read(tmp_path: Path, content: str) -> Manifest:
    path = tmp_path / "step-3"
    path.mkdir()
    (path / MANIFEST).write_text(content)
    return read_manifest(path)


def test_manifests_of_both_versions_are_read(tmp_path: Path) -> None:
    raw = WHOLE | {"written_by": {"ranks": 1, "tasks": ["like"], "later": [{"a": 1.5}]}}
    (tmp_path / "2").mkdir()
    assert _read(tmp_path / "2", json.dumps(raw)) == Manifest(3, raw["written_by"], {"a": FileInfo(3, "0123abcd")})
    assert _read(tmp_path, '{"version": 1, "step": 3, "files": {"a": 3}}') == Manifest(3, {}, {"a": FileInfo(3, None)})


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "null",
        "",
        '{"version": 2, "step": 1e999, "files": {}}',
        *(
            json.dumps(WHOLE | {"written_by": {key: value}})
            for key, value in {
                "ranks": "two",
                "threads": -1,
                "batch_size": "16",
                "dataset": 1,
                "tasks": [1, 2],
                "inputs": "a",
                "table_rows": {"user": "x"},
                "columns": {"user": [1.5]},
                "unreported_steps": "1",
                "evaluation_pending": 1,
            }.items()
        ),
        json.dumps(WHOLE | {"written_by": {"ranks": 10**8}}),  # more than files
        json.dumps(WHOLE | {"written_by": []}),
        json.dumps(WHOLE | {"version": 99}),
        json.dumps(WHOLE | {"version": "\x1b[2J"}),
        json.dumps(WHOLE | {"step": 4}),
        json.dumps(WHOLE | {"step": "3"}),
        *(json.dumps(WHOLE | {"files": {"a": size}}) for size in (3, "3", [3], None, {}, {"bytes": -1, "crc32": None})),
        *(json.dumps(WHOLE | {"files": {"a": {"bytes": n, "crc32": None}}}) for n in ("3", 3.0, 2**63, True)),
        *(json.dumps(WHOLE | {"files": {"a": {"bytes": 3, "crc32": crc}}}) for crc in (1, "ABCDEFGH", "0123abcd\n")),
        *(
            json.dumps(WHOLE | {"files": {name: {"bytes": 3, "crc32": None}}})
            for name in ("", ".", "..", "../x", "/x", "a\\b", "a\0", "\ud800", "a" * 300, "\x1b[2J", "a\n")
        ),
    ],
    ids=lambda content: content.replace(json.dumps(WHOLE)[:-1], "")[:60],
)
def test_what_no_run_writes_is_unreadable(content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        _read(tmp_path, content)
    error = refused.value
    assert error.place == str(tmp_path / "step-3" / MANIFEST)
    assert error.value.startswith("unreadable (")
    assert error.value.isprintable()
    assert len(error.value) < 330


def test_every_door_says_so(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change_manifest(lambda raw: raw["written_by"].update(table_rows={"user": "x"}))
    assert main(["checkpoint", "list", "tiny"]) == 0
    assert "damaged" in capfd.readouterr().out
    for argv in (["checkpoint", "verify", "tiny"], SHOW, *DOORS.values()):
        code, said = run(argv, capfd)
        assert code == 3
        assert "Traceback" not in said
        assert argv[1] == "verify" or "written_by.table_rows.user" in said


def test_a_step_is_the_same_everywhere(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    renamed = STEP.with_name("step-32")
    shutil.copytree(STEP, renamed)
    code, said = run([*DOORS["evaluate"], "--checkpoint", "step-32"], capfd)
    assert (code, said.partition("; ")[0]) == (3, f"ple-rec: {renamed}/{MANIFEST}: unreadable (its step is 16)")
    shutil.rmtree(renamed)
    for step in (10, 1000):
        forge_value("position.step", step)
        code, said = run(DOORS["resume"], capfd)
        assert (code, f"ple-rec: {STEP}, position: it says step {step}; " in said) == (3, True)


@pytest.mark.parametrize(
    "values",
    [
        {"step": "32"},
        {"step": 16.5},
        {"step": -3},
        {"best_score": "x"},
        {"best_score": float("nan")},
        {"best_step": 17},
        {"seconds": "x"},
        {"seconds": float("inf")},
    ],
    ids=str,
)
def test_a_position_that_no_run_has_is_refused(
    values: dict[str, Any], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for key, value in values.items():
        forge_value(f"position.{key}", value)
    code, said = run(DOORS["resume"], capfd)
    assert (code, "Traceback" in said) == (3, False)
    assert f"ple-rec: {STEP}" in said


def test_a_random_state_that_is_none_is_refused(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    forge_value("rng.0", torch.zeros_like(torch.get_rng_state()))
    code, said = run(DOORS["resume"], capfd)
    assert (code, f"ple-rec: {STEP}, random state: Invalid mt19937 state; " in said) == (3, True)
