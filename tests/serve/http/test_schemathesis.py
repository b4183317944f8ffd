"""The interface as it is described: generated requests, right and wrong, meet no bug and nothing undescribed."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.serve.http.running import Running

EXAMPLES = settings(
    max_examples=40,
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
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
            continue  # nothing of it can be wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @EXAMPLES
        def answers(case: schemathesis.Case) -> None:
            nonlocal asked
            asked += 1
            statuses.add(case.call_and_validate().status_code)

        answers()
    assert asked > 40
    assert (200 in statuses) if mode is GenerationMode.POSITIVE else statuses <= {400, 404, 405, 415, 422}
