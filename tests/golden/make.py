"""Make all artefacts anew: `python -m tests.golden.make OUT`. README.md says when that is allowed."""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.golden import command_line, facts, steps
from tests.golden.doors import REPOSITORY, serving
from tests.golden.raw_logs import write_raw_logs

_KEPT = ("raw", "data/golden", "runs/one", "runs/two", "models", "predictions", "plan.json", "expected")
_TEXT = (".csv", ".json", ".jsonl", ".md", ".toml")


def make(at: Path) -> None:
    """Make everything in an empty folder, what is kept and what is only looked at."""
    expected: dict[str, Any] = {}
    steps.copy_configurations(at)
    write_raw_logs(at / "raw")
    steps.prepare(at)
    steps.append(at)
    expected["dataset"] = {name: facts.dataset(at / "data" / name) for name in ("golden", "csv", "next")}
    for run in steps.RANKS:
        steps.train(run, at)
    expected["run"] = {name: facts.run(at / "runs" / name) for name in steps.RANKS}
    expected["checkpoint"] = {name: facts.checkpoint(Path("runs") / name, at) for name in steps.RANKS}
    steps.fuse(at)
    expected["fusion"] = facts.fusion(at / "runs" / "one" / "fusion")
    steps.export(at)
    expected["model"] = facts.model(at / "models" / "golden")
    steps.predict(at)
    expected["predictions"] = facts.predictions(at / "predictions")
    steps.plan(at)
    expected["outputs"] = facts.outputs(at)
    with serving("models/golden", at) as address:
        expected["server"] = facts.server(address)
        expected["ranked"] = facts.ranked(address)
    expected["options"] = command_line.options(at)
    expected["configuration"] = command_line.configuration_keys(at)
    expected["environment"] = command_line.environment_names()
    expected["exit_codes"] = {
        "of one process": command_line.exit_codes(at),
        "of many runs": command_line.exit_codes_of_many_runs(at),
    }
    (at / "expected").mkdir()
    for name, content in expected.items():
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (at / "expected" / f"{name}.json").write_text(f"{text}\n")


def keep(at: Path, out: Path) -> None:
    """Move what is committed from `at` to `out`, without pages and without traces of this machine.

    Raises:
        ValueError: a file names a folder or the host of this machine, or `out` holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / "expected").is_dir():
        raise ValueError(f"{out} holds something else than golden artefacts; give another folder")
    files = [file for name in _KEPT for file in ((at / name).rglob("*") if (at / name).is_dir() else [at / name])]
    for file in files:
        page = file.suffix == ".html" and "data" not in file.relative_to(at).parts  # _SUCCESS names that of a dataset
        if page or file.name in (".lock", "_lock"):  # a lock has the name of the host
            file.unlink()
    folders = [str(folder).encode() for folder in (at, REPOSITORY, Path.home())]
    host = re.compile(
        rf"\b{re.escape(platform.node())}\b".encode()
    )  # of text alone: a short name occurs in any numbers
    for file in (file for file in files if file.is_file()):
        content = file.read_bytes()
        named = any(folder in content for folder in folders) or (file.suffix in _TEXT and host.search(content))
        if named:
            raise ValueError(f"{file.relative_to(at)} names a folder or the host of this machine")
    shutil.rmtree(out, ignore_errors=True)
    for name in _KEPT:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(at / name, out / name)


def main() -> None:
    """Make the artefacts in the folder that the command line names."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tests.golden.make OUT, e.g. tests/golden/artefacts")
    out, start = Path(sys.argv[1]), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        keep(Path(folder), out)
    sizes = [file.stat().st_size for file in out.rglob("*") if file.is_file()]
    seconds = time.monotonic() - start
    sys.stdout.write(f"{out}: {len(sizes)} files, {sum(sizes):,} bytes, made in {seconds:.0f} s\n")


if __name__ == "__main__":
    main()
