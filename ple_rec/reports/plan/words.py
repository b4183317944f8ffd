"""Times and shares as the page of a plan writes them."""

from __future__ import annotations


def short_ms(value: float) -> str:
    """Return milliseconds in three digits: `13.6 ms`, `0.0297 ms`, `1,240 ms`."""
    if value >= 99.95:
        return f"{value:,.0f} ms"
    return f"{value:.3g} ms" if value >= 1e-3 else "0 ms" if value == 0 else "< 0.001 ms"


def percent(share: float) -> str:
    """Return a share of 1 in three digits: `12.5 %`, `0.0977 %`, `< 0.001 %`."""
    hundredths = 100 * share
    if 0 < hundredths < 1e-3:
        return "< 0.001 %"
    return f"{hundredths:.0f} %" if hundredths >= 99.95 else f"{hundredths:.3g} %"


def span(first: int, last: int) -> str:
    """Return `rank 3`, `ranks 0-7`."""
    return f"rank {first}" if first == last else f"ranks {first}-{last}"
