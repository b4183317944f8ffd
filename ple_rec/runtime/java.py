"""Whether Spark can run here: PySpark, and a Java that it takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

JAVA = 17  # the oldest that Spark 4 runs on
PYSPARK = "pyspark>=4,<5"
_SECONDS = 20


def java_command() -> str | None:
    """The Java that Spark would start: of `JAVA_HOME`, else the one on PATH."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java" if not home else str(Path(home, "bin", "java")))


def java_version() -> int | None:
    """The major version of that Java; None without one that answers."""
    command = java_command()
    if command is None:
        return None
    try:
        done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found[1]) if found else None


def pyspark_version() -> str | None:
    """The version of PySpark that is installed; nothing is imported."""
    try:
        return version("pyspark")
    except PackageNotFoundError:
        return None


def spark_lacks() -> tuple[str, str] | None:
    """What is missing for Spark to run on this machine, and what mends it; None where nothing is."""
    if pyspark_version() is None:
        return "PySpark is not installed", f"pip install '{PYSPARK}'"
    java = java_version()
    if java is None:
        return (
            "no Java answers",
            f"install Java {JAVA} or newer (Debian: apt install default-jre-headless), or set JAVA_HOME",
        )
    if java < JAVA:
        return f"Java is {java} ({java_command()})", f"install Java {JAVA} or newer, or set JAVA_HOME to it"
    return None
