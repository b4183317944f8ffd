"""What `make test` says of skipped tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.conftest import pytest_terminal_summary
from tests.skips import skip_summary


def test_reasons_are_counted_by_what_is_missing() -> None:
    reasons = [
        "Skipped: needs a browser: none of chromium, google-chrome on PATH",
        "Skipped: needs a browser on PATH",
        "Skipped: needs 2 GPU(s); torch sees no CUDA device",
        "Skipped: this user may mount nothing",
    ]
    assert skip_summary(reasons).replace("\n", " ") == (
        "Skipped: 2 need a browser (install Chromium (Debian: apt-get install chromium-headless-shell)); "
        "1 need a GPU (an NVIDIA GPU with its driver, then make setup DEVICE=cuda); "
        "1 need something else (pytest -rs lists the reasons)."
    )
    assert skip_summary([]) == ""


def test_the_paragraph_stands_in_the_terminal_summary() -> None:
    report = SimpleNamespace(longrepr=("tests/test_x.py", 3, "Skipped: no Java answers; install Java 17"))
    lines: list[str] = []
    reporter: Any = SimpleNamespace(stats={"skipped": [report, report]}, write_line=lines.append)
    pytest_terminal_summary(reporter)
    assert lines[-1].startswith("Skipped: 2 need Java 17 (apt-get install default-jre-headless")
