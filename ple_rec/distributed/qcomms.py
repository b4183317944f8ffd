"""Precision of what the ranks exchange for their tables: TorchRec's quantised communication (`qcomms`).

A rank's pooled rows travel to the others in the forward pass, their gradients come back in the backward pass. A codec
turns fp32 values into fewer bytes before the exchange and back after it; weights and optimizer state stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.types import CommOp

from ple_rec.config.run import ExchangePrecision, QcommsConfig
from ple_rec.errors import UserError

_INT8_ROW = 32  # values that share a scale in FBGEMM's int8 codec
# Sums over ranks are of numbers, which rows of bytes with a scale each are not. TorchRec puts these in the place of
# fp8 there, and leaves int8 to fail.
_IN_SUMS: dict[str, ExchangePrecision] = {"forward": "fp16", "backward": "bf16"}


def codecs_of(
    config: QcommsConfig, batch_size_per_rank: int, dims: Iterable[int], world_size: int
) -> dict[str, Any] | None:
    """Codecs by collective, as TorchRec's sharders and its planner take them; None where all stays fp32.

    TorchRec's own registry replaces bf16 by fp16 for CPUs with a warning. Gloo exchanges bf16, so it is given here.

    Args:
        config: Of the run.
        batch_size_per_rank: B.
        dims: Of the tables.
        world_size: W.

    Raises:
        UserError: int8 with a batch that does not divide into its rows.
    """
    forward, backward = config.forward_precision, config.backward_precision
    if forward == backward == "fp32":
        return None
    multiple = _INT8_ROW // math.gcd(_INT8_ROW, *dims)
    if "int8" in (forward, backward) and world_size > 1 and batch_size_per_rank % multiple:
        raise UserError(
            "embeddings.qcomms",
            f"got int8 with {batch_size_per_rank} samples per rank and step",
            f"its codec takes rows of {_INT8_ROW} values, which multiples of {multiple} samples fill",
            f"set train.batch_size_per_rank to a multiple of {multiple}, or use fp16 or bf16",
        )
    summed = {
        "forward": _IN_SUMS["forward"] if forward == "int8" else forward,
        "backward": _IN_SUMS["backward"] if backward == "int8" else backward,
    }
    return {
        CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL.name: _codecs(forward, backward),
        CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER.name: _codecs(summed["forward"], summed["backward"]),
    }


def _codecs(forward: ExchangePrecision, backward: ExchangePrecision) -> Any:
    return get_qcomm_codecs(QCommsConfig(forward_precision=CommType(forward), backward_precision=CommType(backward)))
