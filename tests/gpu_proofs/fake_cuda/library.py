"""Compilation and loading of `device.cpp`, the part of the fake CUDA device that torch's C++ code asks."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parent / "device.cpp"


def find_problem() -> str | None:
    """Return the reason why the library cannot be compiled here; None if it can."""
    return None if shutil.which("g++") else "needs g++, the C++ compiler; install it, for example by apt install g++"


@cache
def load() -> ctypes.CDLL:
    """Load the library; call this before torch is imported, since torch keeps the hooks that it finds first."""
    return ctypes.CDLL(str(compile_library()), mode=ctypes.RTLD_GLOBAL)


def compile_library() -> Path:
    """Return the library, which is compiled once for each version of torch and of the source."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).resolve().parent
    key = f"{importlib.metadata.version('torch')} {folder} {SOURCE.read_text(encoding='utf-8')}"
    cache_folder = Path(tempfile.gettempdir()) / f"ple-rec-fake-cuda-{os.getuid()}"
    file = cache_folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not file.exists():
        cache_folder.mkdir(mode=0o700, exist_ok=True)
        # Another process may compile at the same time, so the file appears only when it is complete.
        with tempfile.TemporaryDirectory(dir=cache_folder) as temporary:
            output = Path(temporary) / file.name
            flags = ["-O0", "-shared", "-fPIC", "-std=c++20", "-I", str(folder / "include")]
            libraries = ["-L", str(folder / "lib"), "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{folder / 'lib'}"]
            subprocess.run(["g++", *flags, str(SOURCE), "-o", str(output), *libraries], check=True)
            output.replace(file)
    return file
