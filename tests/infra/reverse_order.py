"""Plugin of pytest that runs the tests from the last to the first: `-p reverse_order` (`three-places.sh`)."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reverse the order."""
    items.reverse()
