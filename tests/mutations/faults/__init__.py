"""Faults that a refactor could bring in, each named by its meaning, with the tests that should catch it.

`tests/test_mutations.py` holds that every text still stands once in its file. Where code was renamed or moved, write
the same fault for what the code has become; do not drop it.
"""

from __future__ import annotations

from tests.mutations.fault import Fault
from tests.mutations.faults import gpu, learning, preparation, runs, serving

FAULTS: tuple[Fault, ...] = (
    *learning.FAULTS,
    *runs.FAULTS,
    *preparation.FAULTS,
    *serving.FAULTS,
    *gpu.FAULTS,
)
