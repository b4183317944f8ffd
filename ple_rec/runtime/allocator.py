"""The C library's allocator, told to keep what a step has used: the next step needs as much.

glibc gives a large buffer back to the system when it is freed, and takes it page by page, zeroed, when it is asked for
again, in every step. Imports no torch.
"""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3), and what they are set to.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = (
    # The largest that glibc takes. Tables and the like are larger: they come and go with their pages as before.
    (_MMAP_THRESHOLD, 32 << 20),
    (_TRIM_THRESHOLD, 1 << 30),  # free bytes at the end of the heap that are kept
    (_TOP_PAD, 64 << 20),
)


def keep_pages() -> bool:
    """Set it for this process; whether the C library knows how (glibc does, musl does not)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([bool(mallopt(parameter, value)) for parameter, value in _SETTINGS])
