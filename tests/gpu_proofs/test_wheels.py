"""The wheels of a GPU host, without a GPU: they load, they have a kernel for every operator, an old driver is refused.

The wheels are those of `make test-cuda-stack`, which puts FBGEMM's CUDA wheel into a folder of its own, beside an
environment with its CPU wheel. Stubs stand in for the libraries of NVIDIA's driver.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from ple_rec.config.load import dump_toml
from ple_rec.config.plan_table import Dtype, Kernel, TableOptimizer
from ple_rec.config.run import ExchangePrecision
from ple_rec.models.variants import VARIANTS
from tests.gpu_proofs.stubs import stub_environment
from tests.training.small import small_config, write_small

CUDA_WHEEL = Path(__file__).resolve().parents[2] / ".venv-cuda-stack-fbgemm"
needs_wheels = pytest.mark.skipif(
    torch.version.cuda is None or not CUDA_WHEEL.is_dir(),
    reason="needs the CUDA builds of torch and FBGEMM: make test-cuda-stack",
)
OLD_DRIVER = "the CUDA driver supports CUDA 12.8 at most; torch {} needs a driver for CUDA 13.0, 580 or newer"


def on_path(environment: dict[str, str], *folders: Path) -> dict[str, str]:
    """Return an environment in which Python finds the packages of `folders` before those that are installed."""
    paths = [*map(str, folders), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(paths)}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def missing_kernels(operators: Mapping[str, Iterable[str]], kernels: Iterable[str]) -> set[str]:
    """Return the operators that are called, but have no kernel."""
    return set().union(*operators.values()).difference(kernels)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Operators of every part of the configuration, and kernels of the wheels."""
    environment = on_path(stub_environment(tmp_path_factory.mktemp("stubs"), "nvml"), CUDA_WHEEL)
    process = run(environment, "-m", "tests.gpu_proofs.wheel_operators", str(tmp_path_factory.mktemp("runs")))
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@needs_wheels
def test_every_operator_has_a_kernel_for_cuda(recorded: Any) -> None:
    operators, kernels = recorded["operators"], recorded["kernels"]
    tables = len(get_args(Kernel)) * len(get_args(Dtype)) * len(get_args(TableOptimizer))
    assert len(operators) == tables + len(VARIANTS) + 2 * len(get_args(ExchangePrecision))
    assert missing_kernels(operators, kernels) == set()


@needs_wheels
def test_what_is_recorded_are_the_operators_of_the_configuration(recorded: Any) -> None:
    operators = recorded["operators"]
    for kernel in get_args(Kernel):
        for optimizer in get_args(TableOptimizer):
            names = set(operators[f"{kernel} fp16 {optimizer}"])
            backward = "fbgemm::split_embedding_backward_codegen_{}_{}_exact_cuda"
            assert {backward.format(optimizer, weights) for weights in ("weighted", "unweighted")} <= names
            assert ("fbgemm::new_unified_tensor" in names) == (kernel != "fused")
            assert ("fbgemm::lxu_cache_locking_counter_decrement" in names) == (kernel == "fused_uvm_caching")
    assert "fbgemm::FloatToFused8BitRowwiseQuantized" in operators["int8 table_wise"]
    assert "fbgemm::block_bucketize_sparse_features" in operators["fp32 row_wise"]
    assert {f"aten::_fused_{kind}_" for kind in ("adam", "adamw", "sgd", "adagrad")} <= set().union(*operators.values())


@needs_wheels
@pytest.mark.parametrize(
    "operator",
    [
        "fbgemm::split_embedding_backward_codegen_adam_unweighted_exact_cuda",
        "fbgemm::lru_cache_populate",
        "fbgemm::permute_2D_sparse_data",
        "aten::_fused_adam_",
    ],
)
def test_a_renamed_operator_is_noticed(recorded: Any, operator: str) -> None:
    renamed = [f"{name}_v2" if name == operator else name for name in recorded["kernels"]]
    assert missing_kernels(recorded["operators"], renamed) == {operator}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small training whose device is `auto`."""
    folder = tmp_path_factory.mktemp("training")
    settings = small_config(write_small(folder / "data"), {"runtime": {"device": "auto"}})
    (folder / "config.toml").write_text(dump_toml(settings), encoding="utf-8")
    return folder / "config.toml"


def train(environment: dict[str, str], config: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, as a user does."""
    return run(environment, "-m", "ple_rec", "train", "--config", str(config), "--run-dir", str(folder / "run"), *flags)


@needs_wheels
def test_the_wheels_refuse_an_old_driver(config: Path, tmp_path: Path) -> None:
    environment = on_path(stub_environment(tmp_path, "cuda", "nvml"), CUDA_WHEEL)
    cause = OLD_DRIVER.format(torch.__version__)
    refused = train(environment, config, tmp_path)
    assert refused.returncode == 2
    problem = 'runtime.device: got "auto" beside FBGEMM\'s CUDA wheel, but torch sees no GPU'
    assert f"{problem}: {cause}. Fix: update the driver, or set runtime.device = cpu" in refused.stderr
    doctor = run(environment, "-m", "ple_rec", "doctor")
    assert doctor.returncode == 2
    assert f"BAD  device     no GPU: {cause}; torch uses " in doctor.stdout
    assert "fix: update the driver\n" in doctor.stdout
    trained = train(environment, config, tmp_path, "--set", "runtime.device=cpu")
    assert trained.returncode == 0, trained.stderr


def test_an_environment_for_gpus_never_trains_on_its_cpu_in_silence(config: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "site" / "fbgemm_gpu-1.9.0.dist-info"
    wheel.mkdir(parents=True)
    (wheel / "METADATA").write_text("Metadata-Version: 2.1\nName: fbgemm-gpu\nVersion: 1.9.0\n", encoding="utf-8")
    with_stub = stub_environment(tmp_path, "cuda")
    refused = train(on_path(with_stub, wheel.parent), config, tmp_path)
    assert refused.returncode == 2
    assert 'runtime.device: got "auto" beside FBGEMM\'s CUDA wheel, but torch sees no GPU: ' in refused.stderr


def test_the_cpu_wheel_trains_on_the_cpu_and_says_that_a_driver_is_here(config: Path, tmp_path: Path) -> None:
    said = "runtime.device: auto is the CPU, since FBGEMM's CPU wheel is installed; a driver for CUDA 12.8 is here, too"
    trained = train(stub_environment(tmp_path, "cuda"), config, tmp_path)
    assert (trained.returncode, said in trained.stdout) == (0, True)
    trained = train(stub_environment(tmp_path, "cuda"), config, tmp_path, "--overwrite", "--set", "runtime.device=cpu")
    assert (trained.returncode, said in trained.stdout) == (0, False)
