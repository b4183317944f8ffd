"""The plugin that counts CPU seconds and preparations, on runs of pytest of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = "pytester"

FILE = """
from data_prep.pipeline import Pipeline

def test_spends_time():
    end = __import__("time").process_time() + 0.2
    while __import__("time").process_time() < end:
        pass

def test_prepares():
    for _ in range(2):
        try:
            Pipeline.run(None)
        except AttributeError:
            pass
"""


def run(pytester: pytest.Pytester, most: int, *options: str) -> pytest.RunResult:
    """Run a folder with eleven files of tests, of which one spends time and prepares twice."""
    pytester.makeini("[pytest]\nmarkers = slow\n")
    pytester.makeconftest(
        "import tests.costs\n"
        f"tests.costs.MOST_PREPARES = {most}\n"
        "def pytest_configure(config):\n"
        "    config.pluginmanager.register(tests.costs.Costs())\n"
    )
    folder = pytester.mkdir("tests")
    for i in range(10):
        (folder / f"test_{i}.py").write_text("def test_nothing(): pass\n")
    (folder / "dear").mkdir()
    (folder / "dear" / "test_dear.py").write_text(FILE)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-m", "not slow", *options)


def test_folders_files_and_preparations_of_two_processes_are_told(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository))
    told = run(pytester, 2, "-n", "2")
    told.assert_outcomes(passed=12)
    assert told.ret == pytest.ExitCode.OK
    told.stdout.re_match_lines([r"\d+ in all; collecting \d+, .*dear \d", r" +\d+\.\d  tests/dear/test_dear.py"])
    told.stdout.fnmatch_lines("2 preparations; a run of the fast tests has 2 at most")


def test_one_preparation_more_than_there_may_be_fails_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository))
    told = run(pytester, 1)
    told.assert_outcomes(passed=12)
    assert told.ret == pytest.ExitCode.TESTS_FAILED
