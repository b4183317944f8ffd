"""`DailyConfig`: the chain of days that `ple-rec daily` prepares, trains, checks and publishes; a file `daily.toml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ple_rec.config.base import Config, Name, NonNegativeFloat, PositiveInt
from ple_rec.config.choices import AskedPrecision, ConfigKind, TablePrecision
from ple_rec.config.prep_inputs import iso_date

# There are no recipes for days: the folder does not exist.
DAILY_CONFIGS = ConfigKind("day", "daily", "daily")
GateMetric = Literal["auc", "ne", "mse"]
_NonEmpty = Annotated[str, Field(min_length=1)]


class PrepStep(Config):
    """Preparation of a day's dataset; the first one prepares the configuration itself, each later one appends a day."""

    config: _NonEmpty = Field(
        description="TOML file or recipe of `ple-rec prep`; a path is relative to the folder of this file"
    )
    source: str | None = Field(None, description="folder or address of the raw files (--from); default: here")
    overrides: tuple[str, ...] = Field((), description="changes of the configuration on every day, as --set has them")
    day_overrides: tuple[str, ...] = Field(
        (),
        description="further changes on an appended day; {day} stands for its date: 'log.files=[\"log/day={day}\"]'",
    )
    threads: PositiveInt | None = Field(None, description="threads of the engine; default: all cores")


class TrainStep(Config):
    """Training of a day's run; the first one starts from random weights, each later one from the served model's run."""

    config: _NonEmpty = Field(
        description="TOML file or recipe of `ple-rec train`; a path is relative to the folder of this file"
    )
    overrides: tuple[str, ...] = Field((), description="changes of the configuration on every day, as --set has them")
    day_overrides: tuple[str, ...] = Field(
        (), description="further changes on an appended day, for example train.epochs=1"
    )
    ranks: PositiveInt = Field(1, description="processes on this host, one per GPU")


class ExportStep(Config):
    """Export of a day's run; the options of `ple-rec export`."""

    form: Literal["whole", "delta"] = Field(
        "whole", description="delta: only the rows that differ from the served version, if the version allows it"
    )
    delta_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.25,
        description="a whole version is written if the rows that have changed since the last whole version take more "
        "than this share of the tables' bytes",
    )
    whole_every: PositiveInt | None = Field(
        None, description="write a whole version after this number of versions at most; default: by delta_share alone"
    )
    precision: TablePrecision = Field("fp32", description="precision of the tables; a delta needs int8 or int4")
    dense: AskedPrecision = Field("fp32", description="precision of matrix products in serving")
    user_features: tuple[str, ...] | None = Field(
        None, description="features that a request gives once; default: as `ple-rec export` chooses"
    )
    fusion: str | None = Field(
        None, description="file of the fusion; default: that of the run, or else that of the served version"
    )
    licence: str | None = Field(None, description="licence for the model card")
    examples: Annotated[int, Field(ge=0)] = Field(0, description="held-out users whose rows are stored with the model")
    tables: tuple[str, ...] = Field((), description="side tables to publish with the model, read from prep.source")
    tolerance: NonNegativeFloat | None = Field(
        None, description="greatest difference of a score; default: by precision"
    )
    auc_loss: NonNegativeFloat | None = Field(None, description="greatest loss of AUC; default: by precision")

    @model_validator(mode="after")
    def _deltas_have_small_rows(self) -> ExportStep:
        if self.form == "delta" and self.precision not in ("int8", "int4"):
            raise ValueError(f'form = "delta" with precision = "{self.precision}"; a delta needs "int8" or "int4"')
        return self


class GateConfig(Config):
    """Bounds of how much worse than the served model a new one may be; without margins every model is published."""

    margins: dict[Name, dict[GateMetric, NonNegativeFloat]] = Field(
        {},
        description="by task, how much worse each metric may get: valid_view = { auc = 0.01, ne = 0.02 }; "
        "a regression has mse",
    )
    min_positives: PositiveInt = Field(
        100,
        description="positives that the held-out rows of the day need for a task to count; of a regression, its rows",
    )
    rows: PositiveInt = Field(200_000, description="approximate number of held-out rows that both models score")


class DailyConfig(Config):
    """A chain of days: a dataset, a run and a version of a model for each."""

    folder: _NonEmpty = Field(description="folder, or address, of the datasets, runs and records of the chain")
    model: _NonEmpty = Field(description="folder, or address, of the model's versions (MODEL_DIR)")
    prep: PrepStep
    train: TrainStep
    export: ExportStep = ExportStep()
    gate: GateConfig = GateConfig()
    missing_days: tuple[str, ...] = Field((), description="dates that the log does not have; they are passed over")
    keep: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="days whose datasets and runs stay, besides the served one; older ones are removed after a day is "
        "published; default: all stay",
    )

    @field_validator("missing_days")
    @classmethod
    def _days_are_dates(cls, days: tuple[str, ...]) -> tuple[str, ...]:
        for day in days:
            iso_date(day)
        return days
