"""Training prints what it logs, as it does for the command line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ple_rec.text.messages import print_messages


@pytest.fixture(autouse=True)
def printed() -> Iterator[None]:
    """Print what a test's own process logs."""
    with print_messages():
        yield
