"""`ple-rec export` in this process, with examples unless `argv` says another number."""

from __future__ import annotations

from pathlib import Path

from ple_rec.cli import main


def export_run(run: Path, model_dir: Path, *argv: str, code: int = 0) -> Path:
    """Export a run; `code` is how the verb ends."""
    assert main(["export", str(run), "--out", str(model_dir), "--examples", "24", *argv]) == code
    return model_dir
