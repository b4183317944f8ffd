"""Codecs for the values that ranks exchange for their embedding tables: TorchRec's quantised communication (`qcomms`).

A rank sends rows, pooled or not, to the others in the forward pass and receives their gradients in the backward pass. A
codec encodes fp32 values in fewer bytes for the exchange. Weights and optimizer state keep their type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.types import CommOp

from ple_rec.config.run import ExchangePrecision, QcommsConfig
from ple_rec.errors import UserError

# Number of values that share a scale in FBGEMM's int8 codec.
_INT8_ROW = 32
# A collective that sums over ranks cannot add int8 values with different scales. In such sums TorchRec itself replaces
# fp8 by these types, but lets int8 fail. Unpooled rows are exchanged in these types, too, since their number differs
# from batch to batch, so that their values do not fill whole rows of the int8 codec.
_PRECISION_WITHOUT_INT8: dict[str, ExchangePrecision] = {"forward": "fp16", "backward": "bf16"}


def qcomm_codecs(
    config: QcommsConfig, batch_size_per_rank: int, dims: Iterable[int], world_size: int
) -> dict[str, Any] | None:
    """Return the codecs by name of the collective, for TorchRec's sharders and planner; None if all values stay fp32.

    TorchRec's own registry warns on CPUs and replaces bf16 by fp16. Gloo can exchange bf16, so it is kept here.

    Args:
        config: Precision of the exchanges of the run.
        batch_size_per_rank: Number of samples per rank and step, B.
        dims: Number of columns of each table whose rows are pooled.
        world_size: Number of ranks, W.

    Raises:
        UserError: The precision is int8, there are several ranks, and B * dim of some table is not a multiple of 32,
            the number of values in a row of the int8 codec.
    """
    forward, backward = config.forward_precision, config.backward_precision
    if forward == backward == "fp32":
        return None
    multiple = _INT8_ROW // math.gcd(_INT8_ROW, *dims)
    if "int8" in (forward, backward) and world_size > 1 and batch_size_per_rank % multiple:
        raise UserError(
            "embeddings.qcomms",
            f"got int8 with {batch_size_per_rank} samples per rank and step",
            f"the codec needs whole rows of {_INT8_ROW} values, so the batch size must be a multiple of {multiple}",
            f"set train.batch_size_per_rank to a multiple of {multiple}, or use fp16 or bf16",
        )
    without_int8 = _codecs(
        _PRECISION_WITHOUT_INT8["forward"] if forward == "int8" else forward,
        _PRECISION_WITHOUT_INT8["backward"] if backward == "int8" else backward,
    )
    return {
        CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL.name: _codecs(forward, backward),
        CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER.name: without_int8,
        CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL.name: without_int8,
    }


def _codecs(forward: ExchangePrecision, backward: ExchangePrecision) -> Any:
    return get_qcomm_codecs(QCommsConfig(forward_precision=CommType(forward), backward_precision=CommType(backward)))
