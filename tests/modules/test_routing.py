from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ple_rec.modules.routing import Routing

ROUTING = Routing(
    experts=("a.0", "b.0", "shared.0"),
    source_E=(0, 1, 2),
    outputs=("a", "b"),
    edges_OE=((True, False, True), (False, True, True)),
    selector_O=(0, 1),
    hidden=(8, 4),
)


def test_width_and_experts_of_a_stream() -> None:
    assert ROUTING.width == 4
    routing = replace(ROUTING, source_E=(0, 0, 2))
    assert [routing.count_experts_reading(stream) for stream in range(4)] == [2, 0, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_E": (0, 1)}, "3 experts, but source_E or edges_OE has another length"),
        (
            {"edges_OE": ((True, False, True), (False, True))},
            "3 experts, but source_E or edges_OE has another length",
        ),
        ({"selector_O": (0,)}, "2 outputs, but edges_OE or selector_O has another length"),
        ({"outputs": ("a", "b", "c")}, "2 outputs, but edges_OE or selector_O has another length"),
        ({"edges_OE": ((True, False, True),)}, "2 outputs, but edges_OE or selector_O has another length"),
        ({"source_E": (0, 2, 1)}, "experts must be in the order of their streams, got source_E = (0, 2, 1)"),
        ({"edges_OE": ((True, False, True), (False, False, False))}, "output 'b' reads no expert"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, tuple[object, ...]], message: str) -> None:
    message = message.replace("2 outputs", "3 outputs") if "outputs" in change else message
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(ROUTING, **change)  # type: ignore[arg-type]
