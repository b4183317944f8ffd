"""The interface as it is described: generated requests, right and wrong, meet no bug and nothing undescribed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.serving.http.running import Running

EXAMPLES = settings(
    max_examples=12,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_described(server: Running, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked, statuses = 0, set[int]()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
            continue  # nothing of it can be wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @EXAMPLES
        def answers(case: schemathesis.Case[Any]) -> None:
            nonlocal asked
            asked += 1
            answer = case.call()
            statuses.add(answer.status_code)
            if not re.search("as many (weights|values) as", answer.text):  # which JSON schema cannot say
                case.validate_response(answer)

        answers()
    assert asked > 20
    assert (200 in statuses) if mode is GenerationMode.POSITIVE else statuses <= {400, 404, 405, 415, 422}
