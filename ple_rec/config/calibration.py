"""`Calibration`: measurements of a host, by which `ple-rec plan --calibration FILE` replaces assumed figures.

`python -m benchmarks.calibrate` and `make gpu-smoke` write the file. It has measurements only. The figures of a plan
follow from them in `ple_rec.planning.calibrate`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from ple_rec.config.base import Config, PositiveFloat, PositiveInt
from ple_rec.config.cluster import Device
from ple_rec.config.prep_columns import MAX_ROWS
from ple_rec.config.problems import ConfigError, parse_document
from ple_rec.config.run import TableDim
from ple_rec.errors import Option, UserError
from ple_rec.storage import Location, short_message

CALIBRATION_VERSION: Final = 1


class StepTime(Config):
    """Median time of a training step, without the loader."""

    samples: PositiveInt = Field(description="samples of a rank")
    ms: PositiveFloat = Field(description="time of the step")
    host_ms: PositiveFloat = Field(description="time until the host has issued the step")
    device_ms: PositiveFloat | None = Field(None, description="time of the step's kernels; missing without a GPU")


class TablesTime(Config):
    """Median time of all tables of a model: look-up, and backward pass with the update of the rows."""

    samples: PositiveInt = Field(description="samples of a rank")
    tables: PositiveInt
    rows: PositiveInt = Field(description="rows of all tables")
    dim: TableDim
    ids: PositiveFloat = Field(description="ids of a sample, of all tables together")
    forward_ms: PositiveFloat
    backward_ms: PositiveFloat


class GemmTime(Config):
    """Median time of a matrix product M x K by K x N, as a layer of the model has it."""

    m: PositiveInt
    k: PositiveInt
    n: PositiveInt
    ms: PositiveFloat


class TransferTime(Config):
    """Median time of a copy from pinned memory, or of an all-to-all."""

    bytes: PositiveInt = Field(description="bytes of the copy, or those that a rank gives to the all-to-all")
    ms: PositiveFloat


class ExchangeTimes(Config):
    """All-to-alls of ranks on one host, and steps of these ranks with every table table-wise."""

    ranks: PositiveInt
    all_to_all: tuple[TransferTime, ...] = Field(min_length=2)
    steps: tuple[StepTime, ...] = Field(min_length=2)


class Calibration(Config):
    """Measurements of a host."""

    # JSON's `true` and `1.0` would be equal to Literal[1].
    version: Annotated[int, Field(ge=CALIBRATION_VERSION, le=CALIBRATION_VERSION)]
    device: Device = Field(description="preset of the device")
    device_name: str = Field(description="name of the GPU, or of the processor")
    host: str = Field(description="processor and cores")
    versions: Mapping[str, str] = Field(description="versions of the libraries")
    measured_at: str = Field(description="date and time")
    recipe: str = Field(description="configuration whose model was measured")
    precision: Literal["fp32", "bf16"] = Field(description="precision of the matrix products")
    flops_per_sample: PositiveInt = Field(description="FLOPs of a sample's forward pass")
    steps: tuple[StepTime, ...] = Field(min_length=2, description="steps of one rank")
    tables: tuple[TablesTime, ...] = Field(min_length=2)
    gemms: tuple[GemmTime, ...]
    copies: tuple[TransferTime, ...] = Field(description="copies from pinned memory; none without a GPU")
    loader_rows_per_s: PositiveFloat = Field(description="rows that a rank's loader read beside training")
    exchanges: ExchangeTimes | None = Field(
        None, description="exchanges and steps of several ranks; missing if one rank was measured"
    )

    @model_validator(mode="after")
    def _figures_follow(self) -> Calibration:
        """Refuse measurements from which no figures follow."""
        problems = []
        steps_of_ranks = () if self.exchanges is None else self.exchanges.steps
        for place, steps in (("steps", self.steps), ("exchanges.steps", steps_of_ranks)):
            problems += _repeated_sizes(place, [step.samples for step in steps])
            problems += _device_time_problems(place, steps, self.device)
        problems += _repeated_sizes("tables", [each.samples for each in self.tables])
        for index, each in enumerate(self.tables):
            most = each.tables * MAX_ROWS
            if each.rows > most:
                rule = f"{each.tables} tables have at most {most} rows, since ids are int32"
                problems.append(f"tables[{index}].rows: got {each.rows}; {rule}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def describe(self) -> str:
        """Return what was measured and when: `NVIDIA H100 80GB HBM3, 1 rank, tencent-ple in bf16, 2026-12-01 15:00`."""
        ranks = 1 if self.exchanges is None else self.exchanges.ranks
        count = f"{ranks} rank{'s' if ranks > 1 else ''}"
        return f"{self.device_name}, {count}, {self.recipe} in {self.precision}, {self.measured_at}"


def _repeated_sizes(place: str, sizes: Sequence[int]) -> list[str]:
    """Return a problem for each size that stands twice: a line through two times of one size has no slope."""
    return [
        f"{place}[{index}].samples: got {size} a second time; each number of samples is measured once"
        for index, size in enumerate(sizes)
        if size in sizes[:index]
    ]


def _device_time_problems(place: str, steps: Sequence[StepTime], device: Device) -> list[str]:
    """Return a problem for each step of a GPU without the time of its kernels, and for each step of a CPU with it."""
    problems = []
    for index, step in enumerate(steps):
        if device != "cpu" and step.device_ms is None:
            problems.append(f"{place}[{index}].device_ms: missing; every step on a GPU has the time of its kernels")
        elif device == "cpu" and step.device_ms is not None:
            problems.append(f"{place}[{index}].device_ms: got {step.device_ms}; steps on a CPU have no GPU kernels")
    return problems


def dump_calibration(calibration: Calibration) -> str:
    """Return the text of a calibration file."""
    return json.dumps(calibration.model_dump(mode="json", exclude_none=True), indent=1) + "\n"


def load_calibration(path: Location) -> Calibration:
    """Return the measurements in a file.

    Raises:
        UserError: The file cannot be read, is not JSON, or is of another version.
        ConfigError: The content has problems, which are all listed.
    """
    rule = f"{Option.CALIBRATION} is a JSON file of measurements"
    fix = "make it by `python -m benchmarks.calibrate`"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(str(path), error.strerror or short_message(error), rule, fix) from None
    except (ValueError, RecursionError) as error:
        raise UserError(str(path), f"not JSON ({error})", rule, fix) from None
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != CALIBRATION_VERSION:
        raise UserError(str(path), f"version {version}", f"this ple_rec reads version {CALIBRATION_VERSION}", fix)
    calibration, problems = parse_document(Calibration, raw)
    if calibration is None or problems:
        raise ConfigError.from_problems(str(path), problems)
    return calibration
