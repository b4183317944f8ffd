from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ple_rec.runtime import doctor
from ple_rec.runtime.cuda import MissingGpu
from ple_rec.runtime.doctor import Finding
from ple_rec.runtime.versions import CPU_STACK, CUDA_STACK, Stack

if TYPE_CHECKING:
    import torch

PIP = f"{shlex.quote(sys.executable)} -m pip"
FITTING = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0", "torchx": "0.7.0"}
INSTALL_CPU = (
    f"{PIP} install torch==2.13.0 fbgemm-gpu-cpu==1.8.0 pyre-extensions tensorboard tensordict "
    f"torchmetrics==1.0.3 && {PIP} install --no-deps torchrec==1.8.0"
)
TO_CPU_WHEEL = f"{PIP} uninstall -y fbgemm-gpu fbgemm-gpu-cpu && {PIP} install --no-deps fbgemm-gpu-cpu==1.8.0"


class Report:
    """What `doctor` prints in an interpreter that sees the standard library, this clone and one made-up folder."""

    def __init__(self, site: Path, repository: Path, driver: bool = False) -> None:
        code = f"""
            import sys
            sys.path[:0] = {[str(site), str(repository)]!r}
            from ple_rec.runtime import doctor
            doctor.driver_cuda_version = lambda: {"13.0" if driver else None!r}
            raise SystemExit(doctor.run())
        """
        command = [sys.executable, "-I", "-S", "-c", "\n".join(line.strip() for line in code.splitlines())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.stderr
        self.code, self.text = done.returncode, done.stdout

    def fix(self, name: str) -> tuple[str, str]:
        """Value and fix of what is wrong under `name`."""
        found = re.search(rf"^BAD  {name} +(.*)\n +fix: (.*)$", self.text, re.MULTILINE)
        assert found, self.text
        return found[1], found[2]


def install(site: Path, **distributions: str) -> Path:
    """Write the metadata of made-up installed distributions."""
    for name, version in distributions.items():
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        folder.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    return site


def test_nothing_installed(tmp_path: Path, repository: Path) -> None:
    report = Report(tmp_path, repository)
    assert report.code == 2
    assert report.fix("torch") == ("not installed; training needs it", INSTALL_CPU)
    assert report.fix("torchrec") == report.fix("fbgemm") == ("not installed; training needs it", "the same")
    assert report.fix("torchx")[1] == f"{PIP} install torchx==0.7.0"
    assert report.text.endswith("4 problems; see fix\n")
    assert "GiB free of" in report.text


def test_nothing_installed_beside_a_cuda_driver(tmp_path: Path, repository: Path) -> None:
    fix = f"{PIP} install torch==2.14.1 fbgemm-gpu==1.9.0 torchrec==1.9.2 tensorboard"
    assert Report(tmp_path, repository, driver=True).fix("torch") == ("not installed; training needs it", fix)


def test_both_fbgemm_wheels(tmp_path: Path, repository: Path) -> None:
    install(tmp_path, torchrec="1.8.0", fbgemm_gpu="1.8.0", fbgemm_gpu_cpu="1.8.0", torchx="0.7.0")
    report = Report(tmp_path, repository)
    assert report.code == 2
    assert report.fix("fbgemm") == (
        "fbgemm-gpu-cpu 1.8.0, fbgemm-gpu 1.8.0; both wheels own the folder fbgemm_gpu and overwrite each other",
        TO_CPU_WHEEL,
    )
    assert Report(tmp_path, repository, driver=True).fix("fbgemm")[1].endswith("--no-deps fbgemm-gpu==1.8.0")
    install(tmp_path / "second", torch="2.14.1", torchrec="1.9.2", fbgemm_gpu="1.9.0", fbgemm_gpu_cpu="1.9.0")
    second = Report(tmp_path / "second", repository, driver=True)
    assert second.fix("fbgemm")[1].endswith("--no-deps fbgemm-gpu==1.9.0")


def test_a_half_removed_wheel_does_not_count(tmp_path: Path, repository: Path) -> None:
    install(tmp_path, torch="2.13.0", torchrec="1.8.0", fbgemm_gpu="1.8.0", fbgemm_gpu_cpu="1.8.0", torchx="0.7.0")
    (tmp_path / "fbgemm_gpu-1.8.0.dist-info" / "METADATA").unlink()
    assert "ok   fbgemm     fbgemm-gpu-cpu 1.8.0\n" in Report(tmp_path, repository).text


def test_cuda_wheel_without_a_driver(tmp_path: Path, repository: Path) -> None:
    install(tmp_path, torch="2.13.0", torchrec="1.8.0", fbgemm_gpu="1.8.0", torchx="0.7.0")
    value, fix = Report(tmp_path, repository).fix("fbgemm")
    rule = "no CUDA driver (libcuda.so.1) on this machine, and the CUDA wheel does not load without one"
    assert value == f"fbgemm-gpu 1.8.0; {rule}"
    assert fix == f"{TO_CPU_WHEEL}   (or install the CUDA driver)"


@pytest.mark.parametrize(
    ("torch", "torchrec", "fbgemm", "rule", "fix"),
    [
        ("2.14.1", "1.8.0", "1.8.0", "FBGEMM 1.8.0 and torchrec 1.8.0 need torch 2.13", "torch==2.13.0"),
        ("2.12.0+cpu", "1.8.0", "1.8.0", "FBGEMM 1.8.0 and torchrec 1.8.0 need torch 2.13", "torch==2.13.0"),
        ("2.130.0", "1.8.0", "1.8.0", "FBGEMM 1.8.0 and torchrec 1.8.0 need torch 2.13", "torch==2.13.0"),
        ("2.13.0+cpu", "1.9.2", "1.9.0", "FBGEMM 1.9.0 and torchrec 1.9.2 need torch 2.14", "torch==2.14.1"),
        ("2.15.0", "1.9.2", "1.9.0", "FBGEMM 1.9.0 and torchrec 1.9.2 need torch 2.14", "torch==2.14.1"),
    ],
)
def test_a_torch_of_another_stack(
    tmp_path: Path, repository: Path, torch: str, torchrec: str, fbgemm: str, rule: str, fix: str
) -> None:
    install(tmp_path, torch=torch, torchrec=torchrec, fbgemm_gpu_cpu=fbgemm, torchx="0.7.0")
    report = Report(tmp_path, repository)
    assert report.fix("torch") == (f"{torch} does not fit: {rule}", f"{PIP} install {fix}")
    # What does not load because of the version is not given a fix of its own.
    assert report.fix("operators")[1] == "first correct the versions above"
    assert report.text.endswith("2 problems; see fix\n")


@pytest.mark.parametrize(("torch", "other", "fitting"), [("2.13.0", "1.9.2", "1.8.0"), ("2.14.1", "1.8.0", "1.9.2")])
def test_a_torchrec_of_another_stack(tmp_path: Path, repository: Path, torch: str, other: str, fitting: str) -> None:
    fbgemm = {"2.13.0": "1.8.0", "2.14.1": "1.9.0"}[torch]
    install(tmp_path, torch=torch, torchrec=other, fbgemm_gpu_cpu=fbgemm, torchx="0.7.0")
    assert Report(tmp_path, repository).fix("torchrec") == (
        f"{other} does not fit: torch {torch[:4]} needs torchrec {fitting}",
        f"{PIP} install --no-deps torchrec=={fitting}",
    )


@pytest.mark.parametrize(
    ("torch", "torchrec", "other", "fitting"),
    [("2.13.0", "1.8.0", "1.9.0", "1.8.0"), ("2.14.1", "1.9.2", "1.8.0", "1.9.0")],
)
def test_an_fbgemm_of_another_stack(
    tmp_path: Path, repository: Path, torch: str, torchrec: str, other: str, fitting: str
) -> None:
    install(tmp_path, torch=torch, torchrec=torchrec, fbgemm_gpu_cpu=other, torchx="0.7.0")
    assert Report(tmp_path, repository).fix("fbgemm") == (
        f"fbgemm-gpu-cpu {other} does not fit: torch {torch[:4]} needs {fitting}",
        f"{PIP} uninstall -y fbgemm-gpu fbgemm-gpu-cpu && {PIP} install --no-deps fbgemm-gpu-cpu=={fitting}",
    )


def test_another_torchx(tmp_path: Path, repository: Path) -> None:
    install(tmp_path, torchx="0.6.0")
    assert Report(tmp_path, repository).fix("torchx") == (
        "0.6.0; the components are written for 0.7.0",
        f"{PIP} install torchx==0.7.0",
    )


def test_a_torch_that_does_not_load(tmp_path: Path, repository: Path) -> None:
    install(tmp_path, torch="2.13.0", torchrec="1.8.0", fbgemm_gpu_cpu="1.8.0", torchx="0.7.0")
    broken = "raise OSError('libtorch_cpu.so: cannot open shared object file\\nmore')"
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(broken, "utf-8")
    report = Report(tmp_path, repository)
    assert report.code == 2
    value = "torch does not import: OSError: libtorch_cpu.so: cannot open shared object file"
    assert report.fix("operators") == (value, INSTALL_CPU)
    assert report.text.endswith("1 problem; see fix\n")


def test_an_fbgemm_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fbgemm_gpu", None)
    finding = doctor.check_operators(FITTING, cuda=False)
    assert finding.value.startswith("fbgemm_gpu does not import: ModuleNotFoundError: import of fbgemm_gpu halted")
    assert (finding.ok, finding.fix) == (False, TO_CPU_WHEEL)


def test_an_operator_that_computes_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_operators(FITTING, cuda=False).ok
    import torch

    monkeypatch.setattr(torch.ops.fbgemm, "asynchronous_complete_cumsum", lambda lengths: lengths)
    finding = doctor.check_operators(FITTING, cuda=False)
    assert finding.value == "FBGEMM's cumulative sum of 1, 2, 3 is [1, 2, 3]; it must be [0, 1, 3, 6]"
    assert (finding.ok, finding.fix) == (False, TO_CPU_WHEEL)


def test_an_operator_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert doctor.check_operators(FITTING, cuda=False).ok

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("no kernel for CPU")

    monkeypatch.setattr(torch.ops.fbgemm, "asynchronous_complete_cumsum", fail)
    finding = doctor.check_operators(FITTING, cuda=False)
    assert finding == Finding(
        "operators", "FBGEMM does not run: NotImplementedError: no kernel for CPU", False, TO_CPU_WHEEL
    )


def test_this_environment_is_well() -> None:
    findings = {finding.name: finding for finding in doctor.collect_findings()}
    # Another process on the machine may slow two threads down; that is no fault of the installation.
    assert [name for name, finding in findings.items() if not finding.ok and name != "threads"] == []
    assert "gloo" in findings["backends"].value
    assert re.fullmatch(r"fp32 \d+, bf16 \d+ \(.*x\), fp16 .* GFLOP/s", findings["speed"].value)
    names = "python torch torchrec fbgemm torchx spark operators cores memory disk device backends speed threads"
    assert list(findings) == names.split()


class Gpu:
    name, total_memory = "H100", 80 << 30


def _pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Gpu)


def test_a_gpu_beside_the_cpu_wheel_is_worth_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_gpu(monkeypatch)
    device, _ = doctor.check_devices(FITTING, True)
    assert device.ok
    assert re.sub(r"torch uses \d+", "torch uses 1", device.value) == (
        "H100 (80 GiB); training runs on the CPU, since FBGEMM's CPU wheel is installed; to train on the GPU: "
        f"{PIP} uninstall -y fbgemm-gpu fbgemm-gpu-cpu && {PIP} install --no-deps fbgemm-gpu==1.8.0; "
        "torch uses 1 threads"
    )
    device, _ = doctor.check_devices({"fbgemm-gpu": "1.8.0"}, True)
    assert re.fullmatch(r"H100 \(80 GiB\); torch uses \d+ threads", device.value)


def test_a_missing_gpu_is_a_problem_beside_the_cuda_wheel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    old = MissingGpu("the CUDA driver supports CUDA 12.8 at most", "torch needs CUDA 13.0", "update the driver")
    monkeypatch.setattr(doctor, "find_missing_gpu", lambda: old)
    device, _ = doctor.check_devices({"fbgemm-gpu": "1.9.0"}, True)
    assert (device.ok, device.fix) == (False, "update the driver")
    assert device.value.startswith("no GPU: the CUDA driver supports CUDA 12.8 at most; torch needs CUDA 13.0; torch ")
    device, _ = doctor.check_devices(FITTING, True)
    assert device.ok
    cause = "a CUDA driver is here, too; the CUDA driver supports CUDA 12.8 at most"
    assert device.value.startswith(f"cpu, since FBGEMM's CPU wheel is installed ({cause}); torch uses ")
    device, _ = doctor.check_devices(FITTING, False)
    assert (device.ok, device.value.partition(";")[0]) == (True, "cpu")


@pytest.mark.parametrize(("wheel", "device"), [("fbgemm-gpu-cpu", "cpu"), ("fbgemm-gpu", "cuda")])
def test_the_device_that_trains_is_measured(monkeypatch: pytest.MonkeyPatch, wheel: str, device: str) -> None:
    _pretend_gpu(monkeypatch)
    measured: list[str] = []

    def measure(place: torch.device) -> dict[str, float | None]:
        measured.append(place.type)
        return {"fp32": 1.0}

    monkeypatch.setattr(doctor, "installed_versions", lambda: {wheel: "1.8.0"})
    monkeypatch.setattr(doctor, "measure_speed", measure)
    monkeypatch.setattr(doctor, "measure_threads", lambda threads: 1.0)
    doctor.collect_findings()
    assert measured == [device]


def test_cores_and_memory_are_those_of_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(doctor, "usable_cores", lambda: 5)
    monkeypatch.setattr(doctor, "physical_memory_bytes", lambda: 100 << 30)
    monkeypatch.setattr(doctor, "usable_memory_bytes", lambda: 12 << 30)
    cores, memory, disk = doctor.check_machine(tmp_path)
    assert cores.value == "5 usable of 64; OMP_NUM_THREADS 3"
    assert re.fullmatch(r"[\d.]+ GiB free of 100\.0 GiB, this container's limit 12\.0 GiB", memory.value)
    assert disk.value.endswith(f"GiB free in {tmp_path}")
    monkeypatch.setattr(doctor, "usable_memory_bytes", lambda: 100 << 30)
    assert doctor.check_machine(tmp_path)[1].value.endswith("GiB free of 100.0 GiB")


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 10, 9), False), ((3, 11, 0), True), ((3, 13, 5), True), ((3, 14), False)]
)
def test_python(version: tuple[int, ...], ok: bool) -> None:
    finding = doctor.check_python(version)
    assert finding.ok is ok
    rule = "make setup PYTHON=python3.11   (wheels exist for Python 3.11, 3.12 and 3.13)"
    assert finding.fix == ("" if ok else rule)


def test_fitting_versions_need_no_fix() -> None:
    checks = (doctor.check_torch, doctor.check_torchrec, doctor.check_fbgemm)
    assert all(check(FITTING, False).ok for check in checks)
    assert all(check(FITTING | {"torch": "2.13.1+cu130"}, True).ok for check in checks)
    cuda = {"torch": "2.14.1+cu130", "torchrec": "1.9.2"}
    assert all(check(cuda | {"fbgemm-gpu": "1.9.0"}, True).ok for check in checks)
    assert all(check(cuda | {"fbgemm-gpu-cpu": "1.9.0"}, False).ok for check in checks)


def test_spark_is_for_information(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "find_spark_problem", lambda: None)
    monkeypatch.setattr(doctor, "pyspark_version", lambda: "4.3.0")
    monkeypatch.setattr(doctor, "java_version", lambda: 21)
    assert doctor.check_spark() == Finding("spark", "PySpark 4.3.0, Java 21")
    monkeypatch.setattr(doctor, "find_spark_problem", lambda: ("PySpark is not installed", "pip install x"))
    need = "which only `ple-rec prep --engine spark` needs"
    assert doctor.check_spark() == Finding("spark", f"PySpark is not installed, {need}; to have it: pip install x")


def test_torchx_without_torchrun_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = doctor.check_torchx(FITTING)
    folder = shlex.quote(str(Path(sys.executable).parent))
    assert finding.ok
    assert finding.value == f"0.7.0 (before `torchx run -s local_cwd`: export PATH={folder}:$PATH)"


def test_threads_that_collapse() -> None:
    finding = doctor.check_threads(2, 0.2, {1: 100.0, 2: 9.0}.__getitem__)
    assert finding.value == "fp32 100 GFLOP/s with 1 thread, 9 with 2; threads wait for each other"
    assert finding.fix.startswith("export OMP_NUM_THREADS=1")
    assert not finding.ok


def test_threads_that_collapse_on_a_busy_machine() -> None:
    finding = doctor.check_threads(2, 1.5, {1: 100.0, 2: 9.0}.__getitem__)
    busy = "other processes use the cores (load 1.5): check again later, or export OMP_NUM_THREADS=1"
    assert finding == Finding("threads", f"fp32 100 GFLOP/s with 1 thread, 9 with 2; {busy}")


def test_threads_that_collapse_once_are_measured_again() -> None:
    speeds = iter([100.0, 9.0, 100.0, 180.0])
    assert doctor.check_threads(2, 0.2, lambda _: next(speeds)) == Finding(
        "threads", "fp32 100 GFLOP/s with 1 thread, 180 with 2"
    )


def test_one_core_has_no_second_thread() -> None:
    def measure(threads: int) -> float:
        raise AssertionError(threads)

    assert doctor.check_threads(1, 0.2, measure) == Finding("threads", "one core; one thread")


def test_measuring_puts_the_number_of_threads_back() -> None:
    import torch

    before = torch.get_num_threads()
    assert doctor.measure_threads(before + 1) > 0
    assert torch.get_num_threads() == before


def test_speed_names_what_a_device_lacks() -> None:
    finding = doctor.describe_speed({"fp32": 194.4, "bf16": 740.0, "fp16": None})
    assert finding.value == "fp32 194, bf16 740 (3.81x), fp16 not supported GFLOP/s"


def test_run_prints_and_returns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "collect_findings", lambda: [Finding("a", "1")])
    assert doctor.run() == 0
    assert capsys.readouterr().out == "ok   a          1\nall is well\n"
    monkeypatch.setattr(doctor, "collect_findings", lambda: [Finding("a", "1"), Finding("b", "2", False, "do c")])
    assert doctor.run() == 2
    assert capsys.readouterr().out == (
        "ok   a          1\nBAD  b          2\n                fix: do c\n1 problem; see fix\n"
    )


def test_the_commands_name_what_setup_cfg_names(repository: Path) -> None:
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg", encoding="utf-8")
    extras = config["options.extras_require"]

    def bare(requirements: str) -> set[str]:
        return {line.split(">=")[0] for line in requirements.splitlines() if line}

    assert bare(extras["cpu"]) == set(doctor.cpu_extra(CPU_STACK))
    assert bare(extras["cuda"]) == set(doctor.cuda_extra(CUDA_STACK))
    assert f"torchx=={doctor.TORCHX}" in config["options"]["install_requires"].splitlines()


@pytest.mark.parametrize(
    ("device", "wheel", "stack"), [("cpu", "fbgemm-gpu-cpu", CPU_STACK), ("cuda", "fbgemm-gpu", CUDA_STACK)]
)
def test_the_locks_hold_the_stacks(repository: Path, device: str, wheel: str, stack: Stack) -> None:
    pins = (repository / "requirements" / f"{device}.txt").read_text("utf-8").splitlines()
    no_deps = (repository / "requirements" / f"{device}-no-deps.txt").read_text("utf-8")
    assert {f"torch=={stack.torch}", f"{wheel}=={stack.fbgemm}"} <= set(pins)
    assert f"torchrec=={stack.torchrec} --hash=" in no_deps
