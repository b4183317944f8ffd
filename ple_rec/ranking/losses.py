"""List of the metrics that a fusion makes worse, for warnings when the fusion is used.

A fusion combines the predictions of several tasks to one ranking score. `ple-rec fuse` writes its metrics to
`fusion.json`, beside the fusion itself, `fusion.toml`. Losses of training are in `ple_rec/models/losses.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ple_rec.config.fusion import FusionConfig
from ple_rec.ranking.fusion import exponent_array
from ple_rec.storage import Location

FUSION_FILE, RECORD_FILE = "fusion.toml", "fusion.json"


def worsened_metrics(record: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each metric that a fusion makes worse: the whole 95 % interval of the gain is below 0.

    Args:
        record: Content of `fusion.json`.
    """
    phrases = []
    for metric, value in record["metrics"].items():
        low, high = value["gain_interval"]
        if high < 0:
            phrases.append(f"{metric} {value['gain']:+.4f} ({low:+.4f} to {high:+.4f}) on {record['told_on']}")
    return phrases


def read_worsened_metrics(fusion: FusionConfig, file: Location) -> list[str]:
    """Return the phrases of `worsened_metrics` for a saved fusion.

    The list is empty if no readable `fusion.json` with the same exponents lies beside the file of the fusion.

    Args:
        fusion: Content of `fusion.toml`.
        file: Path of this `fusion.toml`.
    """
    try:
        record = json.loads((file.parent / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    is_same_fusion = list(record.get("exponents", {}).values()) == exponent_array(fusion).tolist()
    return worsened_metrics(record) if is_same_fusion else []
