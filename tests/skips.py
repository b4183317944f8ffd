"""Summary of skipped tests: how many, what each needs, and how to get it."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable

# (word in the skip reason, requirement, how to get it); the first match counts
_MISSING = (
    ("browser", "a browser", "install Chromium (Debian: apt-get install chromium-headless-shell)"),
    ("Java", "Java 17", "apt-get install default-jre-headless, or set JAVA_HOME"),
    ("PySpark", "PySpark", "make setup"),
    ("test-cuda-stack", "the CUDA stack", "make test-cuda-stack"),
    ("C compiler", "a C compiler", "apt-get install gcc libc6-dev"),
    ("GPU", "a GPU", "an NVIDIA GPU with its driver, then make setup DEVICE=cuda"),
    ("CUDA", "a GPU", "an NVIDIA GPU with its driver, then make setup DEVICE=cuda"),
    ("log_standard", "the KuaiRand logs", "docs/kuairand.md says where they are; set PLE_REC_DATA to their folder"),
)
_OTHER = ("something else", "pytest -rs lists the reasons")


def skip_summary(reasons: Iterable[str]) -> str:
    """Return one paragraph for the reasons of all skipped tests; empty without any."""
    counts = Counter(_missing(reason) for reason in reasons)
    if not counts:
        return ""
    parts = [f"{count} need {what} ({how})" for (what, how), count in counts.most_common()]
    return textwrap.fill(f"Skipped: {'; '.join(parts)}.", 100, break_on_hyphens=False)


def _missing(reason: str) -> tuple[str, str]:
    return next(((what, how) for word, what, how in _MISSING if word in reason), _OTHER)
