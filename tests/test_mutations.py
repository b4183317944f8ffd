"""The list of faults follows the code, and the script that tries them tells caught ones from survivors."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests.mutations.fault import Fault
from tests.mutations.faults import FAULTS
from tests.mutations.run import run, undefined_names

TESTS = """
import subprocess, sys
from twice import twice

def test_of_this_process():
    assert twice(2) == 4

def test_of_a_child():
    code = "from twice import twice; assert twice(0) == 0"
    assert subprocess.run([sys.executable, "-c", code], cwd="/").returncode == 0
"""


@pytest.fixture(scope="module")
def undefined(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What ruff says of names that nothing defines, in a file `<number of the fault>.py` for each fault."""
    folder = tmp_path_factory.mktemp("faults")
    for i, fault in enumerate(FAULTS):
        if (repository / fault.file).is_file():
            source = (repository / fault.file).read_text(encoding="utf-8")
            (folder / f"{i}.py").write_text(fault.changed(source), encoding="utf-8")
    return undefined_names(folder)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_can_still_be_made(fault: Fault, repository: Path, undefined: str) -> None:
    count = fault.count(repository)
    assert count == 1, (
        f"{fault.name!r}: its text stands {count} times in {fault.file}, and must stand once; write the fault anew in "
        f"tests/mutations/faults for what the code has become, and try it: "
        f"python -m tests.mutations.run {fault.name!r}"
    )
    source = (repository / fault.file).read_text(encoding="utf-8")
    assert fault.changed(source) != source
    ast.parse(fault.changed(source))
    said = [line for line in undefined.splitlines() if Path(line.split(":")[0]).stem == str(FAULTS.index(fault))]
    assert not said, f"{fault.name!r} uses a name that nothing defines, so that any test would notice it: {said}"
    assert not [test for test in fault.tests if not (repository / test).exists()]


def test_faults_have_different_names() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_caught_ones_survivors_and_moved_ones_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the plugins take longer than the tests
    root, file = tmp_path / "tree", "twice/__init__.py"
    (root / "twice").mkdir(parents=True)
    (root / file).write_text("def twice(x: int) -> int:\n    return 2 * x\n")
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (root / "test_it.py").write_text(TESTS)
    (root / "test_wrong.py").write_text("def test_wrong():\n    assert False\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    faults = [
        Fault("1 of 0", file, "2 * x", "2 * x + (x == 0)", ("test_it.py",)),
        Fault("a square", file, "2 * x", "x * x", ("test_it.py",)),
        Fault("of another text", file, "2 * y", "3 * y", ("test_it.py",)),
        Fault("of tests that fail anyway", file, "2 * x", "x", ("test_wrong.py",)),
        Fault("of a name that nothing defines", file, "2 * x", "2 * y", ("test_it.py",)),
        Fault("of a module that cannot be imported", file, "def twice", "2 / 0\ndef twice", ("test_it.py",)),
        Fault("of tests that cannot be collected", file, "def twice", "def other", ("test_it.py",)),
    ]
    lines: list[str] = []
    fates = run(root, faults, 1, lines.append)
    assert [(fate.caught, fate.text) for fate in fates] == [
        (True, "test_it.py::test_of_a_child"),
        (False, "SURVIVED"),
        (False, "MOVED: its text stands 0 times in twice/__init__.py: write it anew"),
        (False, "NOT TRIED: test_wrong.py::test_wrong fails without it"),
        (False, "INVALID: twice/__init__.py:2:16: F821 Undefined name `y`"),
        (False, "INVALID: ZeroDivisionError: division by zero"),
        (False, "INVALID: test_it.py"),
    ]
    assert len(lines) == len(faults) + 2  # each set of tests once without a fault
    assert (root / file).read_text().endswith("return 2 * x\n")
