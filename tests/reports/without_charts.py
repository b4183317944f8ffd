"""Reports without their charts, for tests that train and look at none: to draw them takes longer than to train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from ple_rec.reports.run import page

_DRAWN = ("curves", "weights", "calibration", "throughput")


@contextmanager
def without_charts() -> Iterator[None]:
    """Leave the sections that are drawn out of every report that is written inside."""
    with mock.patch.object(page, "SECTIONS", [section for section in page.SECTIONS if section.anchor not in _DRAWN]):
        yield
