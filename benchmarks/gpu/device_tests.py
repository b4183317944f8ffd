"""Stage: the tests that are marked `gpu`, by pytest in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.stage import Deadline, StageLines, StageSettings

_REPOSITORY = Path(__file__).resolve().parents[2]
# A rehearsal runs the tests of this file that need no GPU.
_REHEARSED = ("tests/modules/test_experts.py",)
# A file with one of these texts has tests that are marked `gpu`.
_MARKS = re.compile(r"mark\.gpu|^from tests\.training\.devices import .*\bdevices\b", re.MULTILINE)


def gpu_test_files(repository: Path = _REPOSITORY) -> list[str]:
    """Return the files with tests for GPUs, so that pytest need not import all tests."""
    files = sorted((repository / "tests").rglob("test_*.py"))
    return [str(file.relative_to(repository)) for file in files if _MARKS.search(file.read_text(encoding="utf-8"))]


def run_tests(settings: StageSettings, deadline: Deadline) -> StageLines:
    """Run the tests, and show those that fail as they come.

    Raises:
        ValueError: A test has failed, or none has passed.
    """
    files = gpu_test_files() if settings.device == "cuda" else _REHEARSED
    marks = "gpu" if settings.device == "cuda" else "not gpu"
    command = [sys.executable, "-m", "pytest", "-v", "-rs", "--tb=short", "-p", "no:cacheprovider", "-m", marks, *files]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=_REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        sys.stdout.write(line)
        if re.search(r"::.* (FAILED|ERROR)|^SKIPPED|^E  ", line):
            yield f"- {line.strip()}"
        last = line.strip("= \n") or last
    sys.stdout.flush()
    if process.wait() or " passed" not in last:
        raise ValueError(last or "pytest has printed nothing")
    return last
