"""Compilation of `device.cpp`, the part of the fake CUDA device that torch's C++ code asks."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parent / "device.cpp"


def find_problem() -> str | None:
    """Return the reason why the library cannot be compiled here; None if it can."""
    return None if shutil.which("g++") else "needs g++, the C++ compiler; install it, for example by apt install g++"


def library() -> Path:
    """Return the compiled library, which is compiled once for each version of torch and of the source."""
    # torch must not be imported here, since the library has to be loaded before.
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    torch_folder = Path(spec.origin).resolve().parent
    key = f"{importlib.metadata.version('torch')} {torch_folder} {SOURCE.read_text(encoding='utf-8')}"
    folder = Path(tempfile.gettempdir()) / f"ple-rec-fake-cuda-{os.getuid()}"
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not file.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        # Another process may compile at the same time, so the file appears only when it is complete.
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            output = Path(temporary) / file.name
            libraries = ["-L", str(torch_folder / "lib"), "-lc10", "-ltorch_cpu"]
            libraries.append(f"-Wl,-rpath,{torch_folder / 'lib'}")
            flags = ["-O0", "-shared", "-fPIC", "-std=c++20", "-I", str(torch_folder / "include")]
            subprocess.run(["g++", *flags, str(SOURCE), "-o", str(output), *libraries], check=True)
            output.replace(file)
    return file
