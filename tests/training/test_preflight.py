"""A run that was trained on GPUs is read on a host without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ple_rec.config.load import dump_toml
from ple_rec.training.preflight import load_run_config
from tests.training.small import small_config


@pytest.mark.parametrize(
    ("trained_on", "overrides", "device"),
    [("cuda", [], "auto"), ("cuda", ["runtime.device=cuda"], "cuda"), ("cpu", [], "cpu"), ("auto", [], "auto")],
)
def test_the_device_of_a_run_is_that_of_the_host_that_reads_it(
    trained_on: str, overrides: list[str], device: str, tmp_path: Path
) -> None:
    config = small_config(tmp_path / "data", {"runtime": {"device": trained_on}})
    (tmp_path / "config.toml").write_text(dump_toml(config))
    assert load_run_config(tmp_path, overrides).runtime.device == device
