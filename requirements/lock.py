"""Remake the pinned requirement files from setup.cfg: `make lock`.

Each file is what pip's own resolver chooses, read from `pip install --dry-run --report`; nothing is installed. No line
holds an index address, so that the files serve any registry or mirror. torch's CUDA libraries are left out: torch pins
those itself, and a CPU build that is already at hand may be taken in its place.

    cpu.txt        base and extra `cpu`, of the versions that let extra `dev` stand beside them
    cuda.txt       base and extra `cuda`, held to the versions of cpu.txt where they share a package
    *-no-deps.txt  what is installed with --no-deps, with hashes: TorchRec, which requires the CUDA wheel of FBGEMM by
                   name, and iopath, of which there is a source archive alone; pip takes hashes for whole files
    dev.txt        what extra `dev` adds
"""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ple_rec.runtime.versions import CPU_STACK

HERE = Path(__file__).resolve().parent
SETUP_CFG = HERE.parent / "setup.cfg"
BROUGHT_BY_TORCH = re.compile(r"(nvidia|cuda)-.*|triton")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")
PYTHONS = ("3.11", "3.12", "3.13")
# These have no wheel, but need no compiler: they are Python and jars.
PURE_SOURCE = ("iopath", "pyspark")
NO_DEPS = ("iopath", "torchrec")


def requirements(*extras: str) -> list[str]:
    """Return the base requirements of setup.cfg and those of some extras."""
    config = configparser.ConfigParser()
    config.read(SETUP_CFG, encoding="utf-8")
    texts = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]


def canonical(name: str) -> str:
    """Return the name of a distribution in the form that registries compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def dry_run(*arguments: str) -> list[Any]:
    """Return the packages that pip would install, in the form of its report; nothing is installed.

    Raises:
        subprocess.CalledProcessError: pip finds no set of versions; its message on stderr says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), *arguments], check=True)
        chosen: list[Any] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return chosen


def for_python(version: str) -> tuple[str, ...]:
    """Return the arguments by which pip chooses for another Python on Linux; they work only with --no-deps."""
    platforms = [flag for platform in PLATFORMS for flag in ("--platform", platform)]
    return ("--no-deps", "--target", "nowhere", "--python-version", version, *platforms)


def resolve(specifiers: list[str], constraints: dict[str, str]) -> dict[str, str]:
    """Return the version of each package that pip would install, by name.

    Args:
        specifiers: Requirements such as "torch==2.13.0".
        constraints: Versions that pip has to choose, by name.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "constraints.txt")
        file.write_text("".join(f"{name}=={version}\n" for name, version in constraints.items()), encoding="utf-8")
        chosen = dry_run("--constraint", str(file), *specifiers)
    versions = {canonical(item["metadata"]["name"]): item["metadata"]["version"] for item in chosen}
    return {
        name: version.partition("+")[0] for name, version in versions.items() if not BROUGHT_BY_TORCH.fullmatch(name)
    }


def hashes(requirement: str) -> list[str]:
    """Return the SHA-256 of each archive that pip would take for one requirement on the supported Pythons."""
    name = requirement.partition("==")[0]
    kind = ("--no-binary" if name in PURE_SOURCE else "--only-binary", name)
    chosen = [item for python in PYTHONS for item in dry_run(*for_python(python), *kind, requirement)]
    return sorted({item["download_info"]["archive_info"]["hashes"]["sha256"] for item in chosen})


def write(name: str, lines: list[str]) -> None:
    """Write one requirement file."""
    text = "\n".join(["# Made by `make lock` from setup.cfg.", *lines])
    (HERE / name).write_text(text + "\n", encoding="utf-8")
    print(f"requirements/{name}: {len(lines)} requirements")


def write_stack(device: str, versions: dict[str, str]) -> None:
    """Write the two files of a device."""
    write(f"{device}.txt", [f"{name}=={versions[name]}" for name in sorted(versions) if name not in NO_DEPS])
    pins = [f"{name}=={versions[name]}" for name in NO_DEPS]
    write(
        f"{device}-no-deps.txt", [" ".join([pin, *(f"--hash=sha256:{value}" for value in hashes(pin))]) for pin in pins]
    )


def check_wheels(name: str) -> None:
    """Check that every requirement of a file, except PURE_SOURCE, has a wheel on every supported Python.

    Raises:
        subprocess.CalledProcessError: A wheel is missing.
    """
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()[1:]
    with_wheels = [line for line in lines if line.partition("==")[0] not in PURE_SOURCE]
    for python in PYTHONS:
        dry_run(*for_python(python), "--only-binary", ":all:", *with_wheels)
        print(f"requirements/{name}: a wheel of each on Python {python}")


def main() -> None:
    """Resolve and write the files, then check that wheels exist."""
    dev = resolve(requirements("cpu", "dev"), {})
    shared = {name: version for name, version in dev.items() if name not in ("torch", "fbgemm-gpu-cpu")}
    cpu = resolve(requirements("cpu"), shared)
    cuda = resolve(requirements("cuda"), shared)
    write_stack("cpu", cpu | {"torchrec": CPU_STACK.torchrec})
    write_stack("cuda", cuda)
    write("dev.txt", [f"{name}=={dev[name]}" for name in sorted(dev) if name not in cpu])
    for name in ("cpu.txt", "cuda.txt", "dev.txt"):
        check_wheels(name)


if __name__ == "__main__":
    main()
