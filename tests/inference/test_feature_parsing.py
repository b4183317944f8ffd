"""A parser takes what its JSON schema shows, and nothing else."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as s

from ple_rec.inference.ranker import Ranker
from ple_rec.inference.request_error import RequestError

FEATURES = ["user_id", "city", "hour", "price_bin", "price", "history", "tags"]
SCALARS = (
    s.none()
    | s.booleans()
    | s.integers()
    | s.floats(allow_nan=False, allow_infinity=False)
    | s.integers(-(2**70), 2**70).map(str)
    | s.sampled_from(["03", "-0", "3\n", "\u0663", "9" * 41, "-" + "9" * 40, "v1", "", 1e39, -3.5e38, 3.4e38, 2**63])
)
LISTS = s.lists(SCALARS, max_size=3)
VALUES = (
    SCALARS
    | LISTS
    | s.dictionaries(s.sampled_from(["values", "weights", "other"]), s.none() | LISTS, max_size=3)
    | s.lists(SCALARS, max_size=3).map(lambda weights: {"values": ["t1"] * len(weights), "weights": weights})
)


@pytest.mark.parametrize("name", FEATURES)
@given(value=VALUES)
@example(value=["v1"] * 1000)
@example(value=["v1"] * 1001)
@example(value={"values": ["t1"] * 1000, "weights": [1] * 1000})
@example(value={"values": ["t1"] * 1001, "weights": [1] * 1001})
@example(value={"values": None, "weights": []})
@settings(deadline=None, derandomize=True, max_examples=150, suppress_health_check=list(HealthCheck))
def test_a_parser_takes_what_its_schema_says(ranker: Ranker, name: str, value: Any) -> None:
    schema = ranker.schemas()["ScoreRequest"]
    message = ""
    try:
        ranker.read_score({"rows": [{name: value}]})
    except RequestError as error:
        message = str(error)
    if "as many weights as values" not in message:  # which JSON schema cannot say
        assert jsonschema_rs.is_valid(schema, {"rows": [{name: value}]}) is (message == ""), message
