"""Stage: measurements of this machine for `ple-rec plan --calibration`, and the plan with and without them."""

from __future__ import annotations

from benchmarks.calibrate import measure
from benchmarks.gpu.loop import free_memory, run_overrides
from benchmarks.gpu.page import row_line, table_lines
from benchmarks.gpu.stage import Deadline, StageLines, StageSettings
from ple_rec.config.calibration import Calibration, StepTime
from ple_rec.config.cluster import PRESETS, Cluster
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.planning.calibrate import calibrated, measured_figures
from ple_rec.planning.plan_input import describe_dataset, plan_run

# File in `--out` that `ple-rec plan --calibration` reads.
FILE = "calibration.json"
_RECIPE = "tencent-ple"
# Samples of a rank in a rehearsal, which takes few timings.
_REHEARSED_SAMPLES, _REHEARSED_TIMINGS = (64, 256), 2


def calibrate(settings: StageSettings, deadline: Deadline) -> StageLines:
    """Measure steps, tables, matrix products, copies and the loader beside a training, and write the file."""
    free_memory(settings)
    file = settings.out / FILE
    if settings.device == "cuda":
        calibration = measure("cuda", settings.data, file, _RECIPE, overrides=("train.precision=bf16",))
    else:
        calibration = measure(
            "cpu",
            settings.data,
            file,
            _RECIPE,
            samples=_REHEARSED_SAMPLES,
            timings=_REHEARSED_TIMINGS,
            overrides=("train.precision=fp32",),
        )
    yield f"`{FILE}`: {calibration.describe()}"
    yield from table_lines("tables, samples", "forward, ms", "backward and update, ms")
    for table in calibration.tables:
        yield row_line(f"{table.samples:,}", f"{table.forward_ms:.3f}", f"{table.backward_ms:.3f}")
    yield from table_lines("matrix product, M x K x N", "ms", "TFLOP/s")
    for gemm in calibration.gemms:
        tflops = 2e-9 * gemm.m * gemm.k * gemm.n / gemm.ms
        yield row_line(f"{gemm.m:,} x {gemm.k} x {gemm.n}", f"{gemm.ms:.4f}", f"{tflops:.2f}")
    yield from table_lines("copy from pinned memory, bytes", "ms", "GB/s")
    for copy in calibration.copies:
        yield row_line(f"{copy.bytes:,}", f"{copy.ms:.4f}", f"{copy.bytes / copy.ms / 1e6:.1f}")
    hardware = PRESETS[calibration.device]
    yield from table_lines("figure of the plan", "assumed", "measured")
    for key, value in measured_figures(calibration, hardware).items():
        yield row_line(key, f"{getattr(hardware, key):.4g}", f"{value:.4g}")
    yield from table_lines("step, samples", "measured, ms", "host, ms", "device, ms", "plan, ms", "plan calibrated, ms")
    for step in calibration.steps:
        planned, again = _planned(settings, calibration, step)
        device_ms = "" if step.device_ms is None else f"{step.device_ms:.2f}"
        yield row_line(f"{step.samples:,}", f"{step.ms:.2f}", f"{step.host_ms:.2f}", device_ms, planned, again)
    last = calibration.steps[-1]
    return (
        f"{last.ms:.2f} ms a step of {last.samples:,} samples, plan {planned}, calibrated {again}; the loader reads "
        f"{calibration.loader_rows_per_s:,.0f} rows/s beside training"
    )


def _planned(settings: StageSettings, calibration: Calibration, step: StepTime) -> tuple[str, str]:
    """Return the milliseconds of a step by the plan of the preset, and by that of the measurements, as texts."""
    overrides = run_overrides(settings, step.samples, f"train.precision={calibration.precision}")
    config = load_config(RunConfig, _RECIPE, overrides)
    cluster = Cluster(hosts=1, ranks_per_host=1, hardware=PRESETS[calibration.device])
    texts = []
    for each in (cluster, calibrated(cluster, calibration, FILE)):
        estimate = plan_run(config, describe_dataset(config), each).estimate
        assert estimate is not None
        texts.append(f"{estimate.step_ms:.3g} ({estimate.bound})")
    return texts[0], texts[1]
