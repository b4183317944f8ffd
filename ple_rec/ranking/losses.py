"""Metrics that a fusion made worse, by the `fusion.json` that was written with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ple_rec.config.fusion import FusionConfig
from ple_rec.ranking.fusion import exponents_of
from ple_rec.storage import Location

FUSION_FILE, RECORD_FILE = "fusion.toml", "fusion.json"


def losses(record: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each metric whose gain is below 0 with its whole 95 % interval.

    Args:
        record: Content of `fusion.json`.
    """
    phrases = []
    for metric, value in record["metrics"].items():
        low, high = value["gain_interval"]
        if high < 0:
            phrases.append(f"{metric} {value['gain']:+.4f} ({low:+.4f} to {high:+.4f}) on {record['told_on']}")
    return phrases


def losses_of(fusion: FusionConfig, file: Location) -> list[str]:
    """Return the losses of a saved fusion, or none if no `fusion.json` with the same exponents lies beside it.

    Args:
        fusion: Content of the file.
        file: File of the fusion, a `fusion.toml`.
    """
    try:
        record = json.loads((file.parent / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    same = list(record.get("exponents", {}).values()) == exponents_of(fusion).tolist()
    return losses(record) if same else []
