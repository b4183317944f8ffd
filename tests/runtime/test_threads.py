"""Threads that divide no operation."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from ple_rec.runtime.threads import single_threaded_pool


def test_their_products_run_in_them_and_nowhere_else() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    meet = threading.Barrier(2)

    def multiply(_: int) -> tuple[int, int]:
        a = torch.ones(256, 256, requires_grad=True)
        (a @ a).sum().backward()
        meet.wait()
        return threading.get_ident(), torch.get_num_threads()

    try:
        with single_threaded_pool(2, "alone") as pool:
            (first, of_first), (second, of_second) = pool.map(multiply, range(2))
        assert len({first, second, threading.get_ident()}) == 3
        assert of_first == of_second == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_waiting_threads_spin_for_a_while_only_unless_the_user_says_otherwise(
    variables: dict[str, str], expected: str
) -> None:
    inherited = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    program = "import os, ple_rec; print(os.environ.get('GOMP_SPINCOUNT'))"
    found = subprocess.run(
        [sys.executable, "-c", program], env=inherited | variables, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == expected
