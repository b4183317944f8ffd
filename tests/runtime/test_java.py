"""What Spark needs on this machine, told from what stands in its place."""

from __future__ import annotations

import importlib.metadata
import stat
from pathlib import Path

import pytest

from ple_rec.runtime import versions

INSTALL = "install Java 17 or newer"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`JAVA_HOME`, still empty; PySpark counts as installed, and PATH has no Java."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(versions, "version", lambda name: "4.3.0")
    (tmp_path / "bin").mkdir()
    return tmp_path


def write_java(path: Path, *lines: str) -> None:
    """A command that says what `java -version` would, on stderr."""
    path.write_text("#!/bin/sh\n" + "".join(f"echo '{line}' >&2\n" for line in lines))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("line", "major"),
    [
        ('openjdk version "17.0.21" 2026-10-20', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "25" 2025-09-16', 25),
    ],
)
def test_the_version_is_read(home: Path, line: str, major: int) -> None:
    write_java(home / "bin" / "java", "Picked up JAVA_TOOL_OPTIONS: -Xmx1g", line)
    assert versions.java_version() == major
    assert (versions.find_spark_problem() is None) is (major >= 17)


def test_an_old_java_is_named(home: Path) -> None:
    write_java(home / "bin" / "java", 'openjdk version "11.0.2" 2019-01-15')
    assert versions.find_spark_problem() == (f"Java is 11 ({home}/bin/java)", f"{INSTALL}, or set JAVA_HOME to it")


def test_without_java(home: Path) -> None:
    lacks = ("no Java answers", f"{INSTALL} (Debian: apt install default-jre-headless), or set JAVA_HOME")
    assert versions.find_spark_problem() == lacks
    write_java(home / "bin" / "java", "The operation could not be completed")  # a stub that some systems have
    assert versions.find_spark_problem() == lacks


def test_java_on_path_counts_where_no_home_is_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_java(home / "bin" / "java", 'openjdk version "21.0.1"')
    monkeypatch.delenv("JAVA_HOME")
    assert versions.java_command() is None
    monkeypatch.setenv("PATH", f"{home / 'bin'}")
    assert versions.java_command() == str(home / "bin" / "java")


def test_without_pyspark(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(versions, "version", absent)
    assert versions.find_spark_problem() == ("PySpark is not installed", "pip install 'pyspark>=4.1,<5'")
