"""In which precision dense layers are served: what the export says, or of `auto` what is faster where it serves.

The model itself is timed, since what bf16 brings depends on its layers as much as on the processor: small ones lose
more by casts than they gain. Versions of one architecture are measured once, and so served alike.

Shape suffixes: B items, D width of x.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

import torch

from ple_rec.config.choices import AskedPrecision, UsedPrecision, faster_precision
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.grouped import Grouped
from ple_rec.runtime.threads import threads_of_one

Milliseconds = Mapping[UsedPrecision, float]
_ITEMS = 500  # of the request that is timed
_SECONDS, _ROUNDS = 0.3, 3  # of timing, at least
_MEASURED: dict[Hashable, Milliseconds] = {}


class Settled(NamedTuple):
    """What is served.

    Args:
        precision: Precision of matrix products.
        model: Model in that precision.
        milliseconds: Time of a request in both precisions; empty where nothing but fp32 was asked for.
    """

    precision: UsedPrecision
    model: MultiTaskModel
    milliseconds: Milliseconds


def settle(asked: AskedPrecision, build: Callable[[UsedPrecision], MultiTaskModel]) -> Settled:
    """Return the model in the precision of the export; for `auto`, bf16 where it is clearly faster here, else fp32.

    Args:
        asked: Precision that the export names.
        build: Function that makes the model in a precision, ready to score without gradients.
    """
    if asked == "fp32":
        return Settled("fp32", build("fp32"), {})
    models: dict[UsedPrecision, MultiTaskModel] = {"bf16": build("bf16")}
    key = models["bf16"].architecture
    if key not in _MEASURED:
        models["fp32"] = build("fp32")
        with threads_of_one(1, "timing") as pool:
            _MEASURED[key] = pool.submit(_timed, models).result()
    took = _MEASURED[key]
    used = faster_precision(1 / took["fp32"], 1 / took["bf16"]) if asked == "auto" else asked
    return Settled(used, models[used] if used in models else build(used), took)


def _timed(models: Mapping[UsedPrecision, MultiTaskModel]) -> Milliseconds:
    """Return the time of a request, by turns. The best counts: neighbours only ever slow one."""
    columns = models["bf16"].shared_columns
    x_BD = torch.rand(_ITEMS, columns.width, generator=torch.Generator().manual_seed(0))
    x = Grouped.of(x_BD, torch.zeros(_ITEMS, dtype=torch.long), torch.zeros(1, dtype=torch.long), columns)
    best: dict[UsedPrecision, float] = dict.fromkeys(models, math.inf)
    end, rounds = time.perf_counter() + _SECONDS, 0
    with torch.no_grad():
        while rounds < _ROUNDS or time.perf_counter() < end:
            rounds += 1
            for precision, model in models.items():
                begun = time.perf_counter()
                model.score(x)
                best[precision] = min(best[precision], 1000 * (time.perf_counter() - begun))
    return best
