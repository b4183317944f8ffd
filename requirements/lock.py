"""Remake the pinned requirement files from setup.cfg: `make lock`.

Each file is what pip's own resolver chooses, read from `pip install --dry-run --report`; nothing is installed. No line
holds an index address, so that the files serve any registry or mirror. torch stays a range and its CUDA libraries are
left out: torch pins those itself, and a CPU build that is already at hand may be taken in its place.

    cpu.txt               base and extra `cpu`, of the versions that let extra `dev` stand beside them
    torchrec-no-deps.txt  torchrec, installed with --no-deps because it requires the CUDA wheel of FBGEMM by name
    cuda.txt              base and extra `cuda`, held to the versions of cpu.txt
    dev.txt               what extra `dev` adds
"""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETUP_CFG = HERE.parent / "setup.cfg"
BROUGHT_BY_TORCH = re.compile(r"(nvidia|cuda)-.*|triton")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")
PYTHONS = ("3.11", "3.12", "3.13")
PURE_SOURCE = ("iopath", "pyspark")  # published without a wheel, and of no machine: Python and jars


def requirements(*extras: str) -> list[str]:
    """The base requirements of setup.cfg and those of `extras`."""
    config = configparser.ConfigParser()
    config.read(SETUP_CFG, encoding="utf-8")
    texts = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]


def canonical(name: str) -> str:
    """A distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def dry_run(*arguments: str) -> None:
    """Let pip resolve and install nothing.

    Raises:
        subprocess.CalledProcessError: where pip finds no answer; its own message, on stderr, says why.
    """
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", *arguments], check=True)


def resolve(wanted: list[str], held: dict[str, str]) -> dict[str, str]:
    """Name to version of all that pip would install for `wanted`, `held` being constraints."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "held.txt")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in held.items()), encoding="utf-8")
        report = Path(folder, "report.json")
        dry_run("--ignore-installed", "--report", str(report), "--constraint", str(constraints), *wanted)
        chosen = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonical(item["metadata"]["name"]): item["metadata"]["version"] for item in chosen}


def write(name: str, versions: dict[str, str], torch: str) -> None:
    """Write one requirement file, sorted; torch as the range of setup.cfg."""
    kept = {package: f"{package}=={version}" for package, version in versions.items()}
    if "torch" in kept:
        kept["torch"] = torch
    lines = [line for package, line in sorted(kept.items()) if not BROUGHT_BY_TORCH.fullmatch(package)]
    (HERE / name).write_text("# Made by `make lock` from setup.cfg.\n" + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"requirements/{name}: {len(lines)} requirements")


def check_wheels(name: str) -> None:
    """Ask pip whether every line of a file, but for PURE_SOURCE, has a wheel on every supported Python."""
    flags = [flag for platform in PLATFORMS for flag in ("--platform", platform)]
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    asked = [line for line in lines if line.partition("==")[0] not in PURE_SOURCE]
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, name)
            file.write_text("\n".join(asked) + "\n", encoding="utf-8")
            where = ("--target", str(Path(folder, "target")), "--python-version", python, *flags)
            dry_run("--no-deps", "--only-binary", ":all:", *where, "-r", str(file))
        print(f"requirements/{name}: a wheel of each on Python {python}")


def main() -> None:
    """Resolve and write the four files, then check that wheels exist."""
    torch = next(line for line in requirements("cpu") if canonical(line).startswith("torch>"))
    torchrec = next(line for line in requirements("cuda") if line.startswith("torchrec=="))
    dev = resolve(requirements("cpu", "dev"), {})
    shared = {name: version for name, version in dev.items() if name not in ("torch", "fbgemm-gpu-cpu")}
    cpu = resolve(requirements("cpu"), shared)
    cuda = resolve(requirements("cuda"), shared)
    write("cpu.txt", cpu, torch)
    write("cuda.txt", cuda, torch)
    write("dev.txt", {name: version for name, version in dev.items() if name not in cpu}, torch)
    (HERE / "torchrec-no-deps.txt").write_text(
        f"# Made by `make lock`. Install with --no-deps: torchrec requires the CUDA wheel of FBGEMM.\n{torchrec}\n",
        encoding="utf-8",
    )
    for name in ("cpu.txt", "cuda.txt", "dev.txt", "torchrec-no-deps.txt"):
        check_wheels(name)


if __name__ == "__main__":
    main()
