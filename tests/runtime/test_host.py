"""Cores and memory under the limits of control groups of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ple_rec.runtime.host import physical_memory_bytes, usable_cores, usable_memory_bytes

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _sixteen_cores_and_64_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GIB // 4096}.__getitem__)


class Host:
    """Files of control groups below a folder, as a kernel would show them."""

    def __init__(self, folder: Path, membership: str) -> None:
        self.mount, self.membership = folder / "cgroup", folder / "membership"
        self.mount.mkdir()
        self.membership.write_text(membership)

    def write(self, name: str, text: str) -> Host:
        file = self.mount / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
        return self

    @property
    def usable(self) -> tuple[int, float]:
        where = (self.mount, self.membership)
        return usable_cores(*where), usable_memory_bytes(*where) / GIB


def test_without_control_groups_affinity_and_physical_memory_count(tmp_path: Path) -> None:
    nowhere = (tmp_path / "cgroup", tmp_path / "membership")
    assert (usable_cores(*nowhere), usable_memory_bytes(*nowhere)) == (16, 64 * GIB)
    assert physical_memory_bytes() == 64 * GIB


def test_version_2_in_a_container(tmp_path: Path) -> None:
    host = Host(tmp_path, "0::/\n").write("cpu.max", "400000 100000").write("memory.max", str(8 * GIB))
    assert host.usable == (4, 8)


def test_version_1_in_a_container(tmp_path: Path) -> None:
    host = Host(tmp_path, "4:memory:/docker/5f\n2:cpu,cpuacct:/docker/5f\n0::/\n")
    host.write("cpu/cpu.cfs_quota_us", "300000").write("cpu/cpu.cfs_period_us", "50000")
    host.write("memory/memory.limit_in_bytes", str(5 * GIB))
    assert host.usable == (6, 5)


def test_no_limit_is_max_or_minus_one_or_huge(tmp_path: Path) -> None:
    host = Host(tmp_path, "4:memory:/\n2:cpu:/\n0::/\n").write("cpu.max", "max 100000").write("memory.max", "max")
    host.write("cpu/cpu.cfs_quota_us", "-1").write("cpu/cpu.cfs_period_us", "100000")
    host.write("memory/memory.limit_in_bytes", "9223372036854771712")
    assert host.usable == (16, 64)


@pytest.mark.parametrize(("own", "above"), [("200000 100000", "max 100000"), ("max 100000", "200000 100000")])
def test_the_smallest_limit_up_to_the_root_counts(tmp_path: Path, own: str, above: str) -> None:
    host = Host(tmp_path, "0::/slice/job\n").write("slice/job/cpu.max", own).write("slice/cpu.max", above)
    host.write("slice/memory.max", str(3 * GIB)).write("slice/job/memory.max", str(7 * GIB))
    host.write("slice/other/cpu.max", "100000 100000").write("slice/other/memory.max", str(GIB))  # not ours
    assert host.usable == (2, 3)


def test_version_1_groups_of_this_process(tmp_path: Path) -> None:
    host = Host(tmp_path, "3:cpuset:/\n2:cpuacct,cpu:/job\n1:memory:/job/a\n")
    host.write("cpu/job/cpu.cfs_quota_us", "250000").write("cpu/job/cpu.cfs_period_us", "100000")
    host.write("memory/job/memory.limit_in_bytes", str(9 * GIB))
    assert host.usable == (2, 9)


@pytest.mark.parametrize(("quota", "cores"), [("20000", 1), ("199000", 1), ("200000", 2), ("9900000", 16)])
def test_quotas_round_down_to_at_least_one_core(tmp_path: Path, quota: str, cores: int) -> None:
    assert Host(tmp_path, "0::/\n").write("cpu.max", f"{quota} 100000").usable[0] == cores


def test_a_group_outside_the_containers_view_is_left_alone(tmp_path: Path) -> None:
    host = Host(tmp_path, "0::/../job\n").write("../job/cpu.max", "100000 100000")
    assert host.usable == (16, 64)


def test_importing_it_imports_no_torch(repository: Path) -> None:
    code = "import sys, ple_rec.runtime.host, ple_rec.runtime.versions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0
