"""CPU time of the tests by folder, the dearest files, and the number of preparations, printed after a run.

CPU time is that of the test's process and of the processes that it started and waited for. A fixture that several
tests share counts for the first of them. Under xdist a worker sends what its tests took with their reports.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

# Most preparations of raw logs in one run of the fast tests, without those of child processes: 10 % above the 606 of
# the day on which this was written. A preparation is what most tests pay for, and .2 to .3 s each.
MOST_PREPARES = 670
_FILES_SHOWN = 10


class Costs:
    """Plugin of pytest that counts CPU seconds and preparations.

    A test has a report for each of its phases: setup, call and teardown. Each carries `cpu_seconds` and `prepares`.
    """

    def __init__(self) -> None:
        self._last_seconds = 0.0  # CPU time of this process at the last report.
        self._prepares = 0  # Preparations since the last report.
        self._collecting: list[float] = []
        self._seconds_of_file: Counter[str] = Counter()
        self._all_prepares = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what collecting took, and count preparations from now on."""
        self._last_seconds = _cpu_seconds()
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["collecting"] = self._last_seconds
        else:
            self._collecting.append(self._last_seconds)
        from data_prep.pipeline import Pipeline

        run = Pipeline.run

        def counted_run(pipeline: Pipeline) -> None:
            self._prepares += 1
            run(pipeline)

        pytest.MonkeyPatch().setattr(Pipeline, "run", counted_run)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        """Add to a report what its phase took."""
        report = yield
        before, self._last_seconds = self._last_seconds, _cpu_seconds()
        report.cpu_seconds, report.prepares, self._prepares = self._last_seconds - before, self._prepares, 0
        return report

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add up what a report carries."""
        self._seconds_of_file[report.nodeid.partition("::")[0]] += report.cpu_seconds
        self._all_prepares += report.prepares

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over from a worker of xdist what collecting took."""
        if "collecting" in getattr(node, "workeroutput", {}):
            self._collecting.append(node.workeroutput["collecting"])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run of the fast tests that has more preparations than it may."""
        is_fast = session.config.option.markexpr == "not slow"
        if is_fast and self._all_prepares > MOST_PREPARES and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the sums of a run of many files."""
        if len(self._seconds_of_file) <= _FILES_SHOWN:
            return
        terminalreporter.section("CPU seconds")
        for line in self._lines():
            terminalreporter.write_line(line)
        terminalreporter.write_line(
            f"{self._all_prepares} preparations; a run of the fast tests has {MOST_PREPARES} at most"
        )

    def _lines(self) -> list[str]:
        folders: Counter[str] = Counter()
        for file, seconds in self._seconds_of_file.items():
            folders["/".join(file.split("/")[:2]) if file.count("/") > 1 else "tests"] += seconds
        collecting = sum(self._collecting)
        total = collecting + folders.total()
        shares = [f"{name.removeprefix('tests/')} {seconds:.0f}" for name, seconds in folders.most_common()]
        files = [f"{seconds:6.1f}  {file}" for file, seconds in self._seconds_of_file.most_common(_FILES_SHOWN)]
        return [f"{total:.0f} in all; collecting {collecting:.0f}, {', '.join(shares)}", *files]


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
