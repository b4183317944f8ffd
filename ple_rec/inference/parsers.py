"""Choice of the parser of each input feature; the parsers are in `feature_parsing.py` and `history_parsing.py`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ple_rec.data.encode import Encoder
from ple_rec.data.vector_lookup import VectorLookup
from ple_rec.inference.feature_parsing import (
    BagParser,
    DenseParser,
    FeatureParser,
    IdParser,
    VectorParser,
    WeightedBagParser,
)
from ple_rec.inference.history_parsing import HistoryParser
from ple_rec.inference.signature import InputFeature


def make_parser(
    feature: InputFeature, encoder: Encoder, vector_lookups: Mapping[str, VectorLookup] = MappingProxyType({})
) -> FeatureParser:
    """Return the parser of a feature.

    Args:
        feature: Input feature of the model.
        encoder: Encoder that maps the raw values of sparse features to ids.
        vector_lookups: Look-ups of vectors by key, by name of the feature.
    """
    if feature.dense:
        return DenseParser(feature)
    if feature.vector is not None:
        return VectorParser(feature, feature.vector, vector_lookups.get(feature.name))
    if feature.events is not None:
        return HistoryParser(feature, feature.events, encoder)
    if feature.weighted:
        return WeightedBagParser(feature, encoder)
    return BagParser(feature, encoder) if feature.bag else IdParser(feature, encoder)
