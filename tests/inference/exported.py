"""`ple-rec export` in this process, and what an operator does with its versions."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from ple_rec.cli import main
from ple_rec.config.choices import TablePrecision

PRECISIONS: tuple[TablePrecision, ...] = get_args(TablePrecision)


def export_run(run: Path, model_dir: Path, *argv: str, code: int = 0) -> Path:
    """Export a run, with examples unless `argv` says another number; `code` is how the verb ends."""
    assert main(["export", str(run), "--out", str(model_dir), "--examples", "24", *argv]) == code
    return model_dir


def set_latest(model_dir: Path, name: str) -> None:
    """Let `latest` name a version, by one rename."""
    draft = model_dir / ".latest.draft"
    draft.write_text(f"{name}\n")
    draft.replace(model_dir / "latest")
