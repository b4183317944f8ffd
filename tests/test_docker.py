"""docker/*.Dockerfile, without Docker: what they copy is there, what they run is what requirements/setup.sh runs."""

from __future__ import annotations

import configparser
import fnmatch
import re
from pathlib import Path

import pytest

DEVICES = ("cpu", "cuda")


def steps(repository: Path, device: str) -> list[tuple[str, str]]:
    """Instruction and arguments, one a step, without comments and line breaks."""
    text = (repository / "docker" / f"{device}.Dockerfile").read_text()
    joined = re.sub(r"\s*\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [(step, words) for step, _, words in (line.partition(" ") for line in joined.splitlines() if line)]


def of(repository: Path, device: str, step: str) -> list[str]:
    return [words for found, words in steps(repository, device) if found == step]


@pytest.mark.parametrize("device", DEVICES)
def test_all_that_is_copied_is_there(repository: Path, device: str) -> None:
    ignored = [line for line in (repository / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    sources = [source for words in of(repository, device, "COPY") for source in words.split()[:-1]]
    for source in sources:
        assert (repository / source).exists(), source
        assert not any(fnmatch.fnmatch(source, pattern.removeprefix("**/")) for pattern in ignored), source
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg")
    packages = config["options.packages.find"]["include"].replace("*", "").split()
    assert set(packages) <= set(sources)


@pytest.mark.parametrize("device", DEVICES)
def test_the_packages_are_those_of_the_set_up(repository: Path, device: str) -> None:
    installed = [words for words in of(repository, device, "RUN") if not words.startswith("apt-get")]
    ran = [command for words in installed for command in words.split(" && ")]
    setup = (repository / "requirements" / "setup.sh").read_text()
    assert "pip install -r requirements/$device.txt -r requirements/dev.txt" in setup
    no_deps = "--no-deps --no-build-isolation -r requirements/{}-no-deps.txt"
    for command in (no_deps.format("$device"), "--no-build-isolation --editable ."):
        assert command in setup
    first = [f"pip install -r requirements/{device}.txt", f"pip install {no_deps.format(device)}"]
    assert ran[:2] == first
    pins = f"--constraint requirements/{device}.txt --constraint requirements/dev.txt"
    assert ran[-1] == f"pip install --no-build-isolation {pins} --editable '.[s3]'"
    loads = "python -W ignore -c 'import torch, fbgemm_gpu, torchrec'"
    assert ran[2:-1] == ([loads] if device == "cpu" else [])  # FBGEMM's CUDA library needs a driver
    assert "-W ignore -c 'import torch, fbgemm_gpu, torchrec'" in setup


@pytest.mark.parametrize("device", DEVICES)
def test_torchx_can_start_a_job_in_it(repository: Path, device: str) -> None:
    """It puts `python`, `env` or `bash` with arguments where a command goes; an entry point would come before it."""
    (base,) = of(repository, device, "FROM")
    assert base == "python:3.11-slim"  # Debian, which has env and bash
    assert of(repository, device, "ENTRYPOINT") == []
    assert "Python :: 3.11" in (repository / "setup.cfg").read_text()


def test_the_images_differ_by_the_device_alone(repository: Path) -> None:
    cpu, cuda = (steps(repository, device) for device in DEVICES)
    (compiler,) = [words for words in of(repository, "cuda", "RUN") if words.startswith("apt-get")]
    assert " gcc libc6-dev " in compiler  # for Triton
    extra = {("ENV", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"), ("RUN", compiler)}
    index = {("ARG", "PIP_EXTRA_INDEX_URL=")}
    loads = " && python -W ignore -c 'import torch, fbgemm_gpu, torchrec'"
    same = {(step, words.replace("requirements/cpu", "requirements/cuda").replace(loads, "")) for step, words in cpu}
    assert same - index == set(cuda) - extra
