"""Every unit as whole text, and what people write as numbers."""

from __future__ import annotations

import pytest

from ple_rec.text.units import clock_text, gib_text, mean_sd_text, parse_bytes, parse_count, short_bytes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (59.9, "0:59"), (2471.3, "41:11"), (3600.0, "1:00:00"), (360_061.0, "100:01:01")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (0.73124, 0.00213, "0.7312 +- 0.0021"),
        (0.73124, None, "0.7312"),
        (0.000213, 0.000012, "2.130e-04 +- 1.200e-05"),
    ],
)
def test_a_mean_and_its_deviation(mean: float, sd: float | None, text: str) -> None:
    assert mean_sd_text(mean, sd) == text


def test_gib_keeps_its_unit_at_every_size() -> None:
    texts = [gib_text(0), gib_text(3 << 20), gib_text(44_238_000_000), gib_text(5 << 40, 0)]
    assert texts == [
        "0.0 GiB",
        "0.0 GiB",
        "41.2 GiB",
        "5,120 GiB",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4GiB", 4 << 30),
        (" 512 mib ", 512 << 20),
        ("8GB", 8 * 10**9),
        ("1.5k", 1500),
        ("7", 7),
        ("2TI", 2 << 40),
        ("0", None),
        ("-1GiB", None),
        ("GiB", None),
        ("4 GiB more", None),
        ("", None),
    ],
)
def test_sizes_are_parsed(text: str, value: int | None) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("value", [512, 1 << 20, 3 << 30, 2 << 40])
def test_what_is_printed_can_be_parsed(value: int) -> None:
    assert parse_bytes(short_bytes(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20e6", 20e6),
        ("20M", 20e6),
        ("1.5k", 1500.0),
        ("20,000,000", 20e6),
        ("2,00", None),
        ("0", None),
        ("inf", None),
        ("nan", None),
        ("many", None),
        ("", None),
    ],
)
def test_counts_are_parsed(text: str, value: float | None) -> None:
    assert parse_count(text) == value
