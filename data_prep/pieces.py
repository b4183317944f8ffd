"""Bags that `split` cuts from text, and what tells that it cuts them at the wrong places."""

from __future__ import annotations

import logging
import re

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ple_rec.config.prep import SparseSpec

logger = logging.getLogger(__name__)

_ODD = r"""^[\[\s"']"""
_MANY = 0.01  # of the values: a text of its own may begin so


def warn_of_pieces(feature: SparseSpec, values: pa.Array) -> None:
    """Warn where pieces of a `split` begin with a bracket, a quote or a blank, as those of a list written as text do.

    Args:
        feature: Feature whose bag is, or is not, cut by `split`.
        values: Values of the bag, or of its table.
    """
    if not feature.bag or not re.search(r"\bsplit\s*\(", feature.source) or not pt.is_string(values.type):
        return
    odd = values.filter(pc.match_substring_regex(values, _ODD))
    if len(odd) > _MANY * len(values):
        logger.warning(
            "sparse feature %s: %s of %s values begin with a bracket, a quote or a blank, such as %r, which `%s` makes "
            "part of an id. Fix: take these out by replace before, see docs/prep.md#files",
            feature.name,
            f"{len(odd):,}",
            f"{len(values):,}",
            odd[0].as_py(),
            feature.source,
        )
