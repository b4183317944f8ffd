"""`RunConfig`: what a training run is, as one strict tree. `config.toml` of every run directory is one, resolved."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from ple_rec.config.base import (
    Config,
    Fraction,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Split,
)
from ple_rec.config.choices import AskedPrecision
from ple_rec.config.cluster import TopologyConfig
from ple_rec.config.model import ModelConfig
from ple_rec.config.plan_table import Dtype, Kernel, Sharding, TableOptimizer
from ple_rec.errors import settings

Pooling = Literal["sum", "mean"]
ExchangePrecision = Literal["fp32", "fp16", "bf16", "int8"]
PipelineKind = Literal["none", "sparse_dist", "prefetch"]
ShuffleKind = Literal["rows", "requests"]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]  # TOML's integers; torch takes 64 bits, and each rank adds its number
TableDim = Annotated[int, Field(gt=0, multiple_of=4)]  # FBGEMM's kernels refuse any other


class DataConfig(Config):
    """Which dataset directory, and how it is read."""

    path: str = Field(description="dataset directory, or its address in an object store (docs/data.md)")
    drop: tuple[Name, ...] = Field((), description="features of the dataset that this model does not read")
    virtual_shards: PositiveInt = Field(
        16, description="parts of an epoch's order; the world size divides it, and it divides the global batch size"
    )
    request_features: tuple[Name, ...] = Field(
        (),
        description="features that all samples of a request share, of the user and of the request: where such samples "
        "follow one another, these are looked up, and their part of the first layer is computed, once",
    )
    shuffle: ShuffleKind = Field(
        "rows",
        description="what is permuted inside each row group of the training split: rows, or whole requests, so that a "
        "batch holds several samples of each (needs request_features)",
    )
    prefetch: PositiveInt = Field(4, description="batches that the reading thread keeps ready")
    buffer_mib: PositiveInt = Field(
        2048,
        description="limit in MiB on the decoded rows that a rank holds, batches excluded; if one row group per "
        "virtual shard exceeds it, row groups are read several times; the batches stay the same",
    )
    described_by: str | None = Field(
        None,
        description="a schema.toml, or the name of one that comes with ple-rec, by which `ple-rec plan` plans while "
        "`path` is not there yet",
    )

    @model_validator(mode="after")
    def _requests_are_known(self) -> DataConfig:
        if self.shuffle == "requests" and not self.request_features:
            raise ValueError(
                'shuffle = "requests" without request_features; name the features that the samples of a request share, '
                'or set shuffle = "rows"'
            )
        return self


class TaskConfig(Config):
    """A task of the dataset that this run trains, and its part of the loss: w_k(t) = weight * decay^t (Eq. 10)."""

    name: Name
    weight: PositiveFloat = Field(1.0, description="w_k0, its weight in the loss at t = 0")
    decay: PositiveFloat = Field(1.0, description="gamma_k, by which the weight is multiplied each step or epoch")
    samples: Literal["space", "all"] | None = Field(
        None,
        description="training samples that its loss counts (d_ik of Eq. 9): those in its sample space, the default, or "
        "all, by the label that the row has; evaluation keeps to the space",
    )
    loss: Literal["cross_entropy", "mse", "huber"] | None = Field(
        None, description="default: cross_entropy for a binary task, mse for a regression"
    )
    huber_delta: PositiveFloat | None = Field(
        None,
        description="huber only: errors up to it count by their square, larger ones by their size; default: 1, in the "
        "unit of the label",
    )

    @model_validator(mode="after")
    def _delta_is_hubers(self) -> TaskConfig:
        if self.huber_delta is not None and self.loss != "huber":
            loss = "no loss" if self.loss is None else f'loss = "{self.loss}"'
            raise ValueError(
                f'huber_delta = {self.huber_delta} with {loss}; it belongs to huber. Set loss = "huber", or drop it'
            )
        return self


class TableConfig(Config):
    """What one embedding table does differently from `[embeddings]`."""

    dim: TableDim | None = Field(None, description="embedding dim of this table, a multiple of 4")
    pooling: Pooling | None = Field(None, description="pooling of the bags that read this table, where it differs")
    sharding: Sharding | None = Field(None, description="force this sharding instead of the planner's choice")
    kernel: Kernel | None = Field(None, description="force this kernel instead of the planner's choice")
    hosts: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = Field(
        None,
        description="keep the shards on these hosts, counted from 0 (table_row_wise: on one of them); not with "
        "row_wise, which uses them all",
    )
    ids_per_sample: PositiveFloat | None = Field(
        None,
        description="ids that a sample has of each feature reading the table, for the planner; default: the mean of "
        "stats.json, or 1",
    )

    @model_validator(mode="after")
    def _hosts_once(self) -> TableConfig:
        hosts = self.hosts or ()
        if twice := sorted({host for host in hosts if hosts.count(host) > 1}):
            raise ValueError(f"hosts: {twice[0]} is named twice")
        return self


class QcommsConfig(Config):
    """Precision of what ranks exchange for their tables; weights and optimizer state keep theirs.

    int8 holds for what is sent only. What is summed over ranks, as the rows of row_wise and table_row_wise tables are,
    travels in fp16 forward and bf16 backward then.
    """

    forward_precision: ExchangePrecision = Field("fp32", description="of the pooled rows")
    backward_precision: ExchangePrecision = Field(
        "fp32", description="of their gradients; fp16 rounds those below 6e-8 to 0, bf16 keeps their range"
    )


class EmbeddingsConfig(Config):
    """Embedding tables: one per table of the dataset's schema."""

    dim: TableDim = Field(16, description="embedding dim of every table, a multiple of 4")
    pooling: Pooling = Field(
        "sum",
        description="how a bag's rows r_i with weights w_i (1 where it has none) become one vector: sum_i w_i r_i, or "
        "sum_i w_i r_i / sum_i w_i, which is 0 where sum_i w_i is 0",
    )
    dtype: Dtype = Field("fp32", description="storage type of the rows")
    init_scale: PositiveFloat = Field(1.0, description="rows start as U(-s/sqrt(rows), s/sqrt(rows)), s this scale")
    sharding: Sharding | None = Field(
        None,
        description="force this sharding on every table that has a row for each rank it would be split over; "
        "column_wise with rowwise_adagrad is another optimizer",
    )
    kernel: Kernel | None = Field(
        None,
        description="force this kernel on every table; default: fused (the table in the GPU's memory), and the UVM "
        "kernels (in the host's) only where that does not fit",
    )
    cache_load_factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of a fused_uvm_caching table that the GPU's memory caches"
    )
    qcomms: QcommsConfig = QcommsConfig()
    tables: dict[Name, TableConfig] = Field({}, description="exceptions, by table name")


class DenseOptimizerConfig(Config):
    """Optimizer of everything but the tables."""

    kind: Literal["adam", "adamw", "sgd", "adagrad"] = Field("adam", description="optimizer of the dense parameters")
    learning_rate: PositiveFloat = Field(1e-3, description="after warm-up, before decay")
    weight_decay: NonNegativeFloat = Field(
        0.0, description="decoupled for adamw, L2 for the others; not on the log-variances of train.loss_weighting"
    )
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.999), description="adam and adamw only")
    clip_norm: PositiveFloat | None = Field(
        None,
        description="clip the dense gradients to this norm over all ranks; it cannot reach the tables, whose "
        "optimizer runs inside backward",
    )


class TableOptimizerConfig(Config):
    """Optimizer of the tables, fused into backward (FBGEMM)."""

    kind: TableOptimizer = Field("rowwise_adagrad", description="adam needs CUDA; FBGEMM's CPU kernels lack it")
    learning_rate: PositiveFloat = Field(0.02, description="after warm-up, before decay")
    weight_decay: NonNegativeFloat = Field(
        0.0, description="decoupled, on the rows that a batch touches; adam only, FBGEMM's other kernels lack it"
    )
    eps: PositiveFloat = Field(1e-8, description="added to the root of the accumulated squares")


class ScheduleConfig(Config):
    """Learning-rate factor of both optimizers: linear warm-up from 0, then decay to `final` at the last step."""

    warmup_steps: NonNegativeInt = Field(0, description="steps of linear warm-up")
    decay: Literal["none", "linear", "cosine"] = Field("none", description="shape after the warm-up")
    final: Fraction = Field(0.0, description="factor at the last step")


class TrainConfig(Config):
    """The loop."""

    batch_size: PositiveInt | None = Field(None, description="samples per step over all ranks (or give the next)")
    batch_size_per_rank: PositiveInt | None = Field(None, description="samples per step and rank")
    epochs: PositiveInt | None = Field(None, description="passes over the training split (or give `steps`)")
    steps: PositiveInt | None = Field(None, description="optimizer steps")
    report_every: PositiveInt = Field(100, description="steps between progress lines and train.jsonl records")
    evaluate_every: PositiveInt | None = Field(None, description="steps between evaluations; default: once an epoch")
    best_metric: str = Field(
        "loss",
        description="which checkpoint is best: `loss` (validation, weighted over tasks), `mean.auc`, or `TASK.METRIC`",
    )
    weight_schedule: Literal["step", "epoch"] = Field("step", description="t of the loss weights: steps or epochs")
    loss_weighting: Literal["schedule", "uncertainty"] = Field(
        "schedule",
        description="schedule: w_k(t) alone; uncertainty: times a learned weight per task (Kendall et al., 2018)",
    )
    pipeline: PipelineKind = Field(
        "none",
        description="sparse_dist: copy and exchange the next batches while a step computes, for the same result; "
        "prefetch: fetch rows of fused_uvm_caching tables too (GPUs only)",
    )
    precision: AskedPrecision = Field(
        "fp32",
        description="matrix products of the dense layers; auto: bf16 where a probe of a second at the start finds it "
        "clearly faster on every rank, else fp32",
    )
    exact_auc_limit: NonNegativeInt = Field(
        1 << 20,
        description="evaluation AUC is exact up to this many samples, above it a histogram with its error bound",
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> TrainConfig:
        problems = [
            f"give exactly one of `{a}` and `{b}`, got "
            + (
                f"both; take one back by {settings(f'train.{a}=')} or {settings(f'train.{b}=')}"
                if getattr(self, a)
                else "neither"
            )
            for a, b in (("batch_size", "batch_size_per_rank"), ("epochs", "steps"))
            if (getattr(self, a) is None) == (getattr(self, b) is None)
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self


class EarlyStoppingConfig(Config):
    """End the run after `patience` evaluations in a row that did not improve `metric` by more than `min_delta`."""

    metric: str | None = Field(None, description="as train.best_metric, which is the default")
    patience: PositiveInt = Field(3, description="evaluations without an improvement after which the run ends")
    min_delta: NonNegativeFloat = Field(0.0, description="what counts as an improvement is greater than this")


class EvaluationConfig(Config):
    """What is evaluated at the end of a run, and what is told beside the metrics over a whole split."""

    test: bool | None = Field(
        None,
        description="false: leave the test split unread, as for a run that is one of several to choose from; default: "
        "it is evaluated",
    )
    slices: tuple[str, ...] = Field(
        (), description="columns of the dataset by whose values the metrics are also given, e.g. a user group"
    )
    slice_values: Annotated[int, Field(ge=2, le=64)] = Field(
        12, description="values shown of each such column, the most frequent ones; the others are taken together"
    )

    @property
    def splits(self) -> tuple[Split, ...]:
        """What is evaluated at the end of a run."""
        return ("valid",) if self.test is False else ("valid", "test")


class MlflowConfig(Config):
    """An MLflow server that receives the run's configuration, records and final metrics."""

    tracking_uri: str = Field(description="of the server, e.g. http://localhost:5000")
    experiment: str = Field(
        "ple-rec", min_length=1, description="experiment that the run belongs to; made where it is not there"
    )

    @model_validator(mode="after")
    def _names_a_server(self) -> MlflowConfig:
        address = urlsplit(self.tracking_uri)
        if "@" in address.netloc:  # the configuration is saved, shown and sent in many places
            raise ValueError(
                "tracking_uri holds a user or password; give them by the environment, as MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        web = address.scheme in ("http", "https") and address.hostname is not None
        if not web and address.scheme != "databricks" and self.tracking_uri != "databricks":
            raise ValueError(
                f'tracking_uri: got "{self.tracking_uri}"; a server is named as http://HOST:PORT, https://HOST or '
                "databricks"
            )
        return self


class WatchConfig(Config):
    """Who else hears what a run reports; `train.jsonl` and the terminal always do."""

    tensorboard: bool | None = Field(
        None, description="write tensorboard/ in the run directory; default: where tensorboard is installed"
    )
    mlflow: MlflowConfig | None = Field(None, description="log to an MLflow server too (pip install mlflow-skinny)")


class CheckpointConfig(Config):
    """What is saved, beside the best and the last checkpoint, and where."""

    path: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="absolute path or s3://bucket/key for them, {run} being the name of the run directory; default: "
        "checkpoints/ of the run directory",
    )
    every: PositiveInt | None = Field(None, description="steps between checkpoints; default: at each evaluation")
    every_minutes: PositiveFloat = Field(
        15.0, description="most minutes of training between checkpoints, whatever the steps and evaluations"
    )
    keep: PositiveInt = Field(2, description="newest checkpoints kept, beside the best")
    keep_every: PositiveInt | None = Field(
        None, description="keep, too, those of the steps that it divides; default: no more"
    )
    asynchronous: bool = Field(
        False,
        description="copy the state, and write it while training goes on; needs room for each rank's part of it a "
        "second time in host memory",
    )
    grace_seconds: PositiveFloat = Field(
        30.0, description="from SIGTERM or SIGUSR1 to the end by force; a save that would take longer is not begun"
    )

    @model_validator(mode="after")
    def _found_from_anywhere(self) -> CheckpointConfig:
        if self.path is not None and not self.path.startswith("/") and "://" not in self.path:
            raise ValueError(
                f'path: got "{self.path}"; it is absolute, or an address such as s3://bucket/key, since a run may go '
                "on from another folder"
            )
        return self


class RuntimeConfig(Config):
    """Device and threads of a rank, and how long it waits for the others."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: cuda where a GPU and FBGEMM's CUDA wheel are there"
    )
    threads: PositiveInt | None = Field(
        None,
        description="CPU threads per rank, which the last bits of sums depend on; default: OMP_NUM_THREADS, else "
        "usable cores / ranks on the host; a run that goes on keeps those that it had",
    )
    timeout_seconds: PositiveFloat = Field(
        600.0, description="without a batch, a step or a written block after which the ranks end, naming who is behind"
    )


class RunConfig(Config):
    """A training run. Saved, resolved, as `config.toml` of the run and of every checkpoint."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="run directory is runs/<name>")
    seed: Seed = Field(0, description="tables, dense layers, dropout and sample order follow from it")
    data: DataConfig
    tasks: tuple[TaskConfig, ...] = Field((), description="default: every task of the dataset, weight 1")
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    model: ModelConfig
    dense_optimizer: DenseOptimizerConfig = DenseOptimizerConfig()
    table_optimizer: TableOptimizerConfig = TableOptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig
    early_stopping: EarlyStoppingConfig | None = Field(None, description="end early; default: train to the last step")
    evaluation: EvaluationConfig = EvaluationConfig()
    watch: WatchConfig = WatchConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    topology: TopologyConfig | None = Field(None, description="the hosts to plan for; default: --device, or these")

    @model_validator(mode="after")
    def _tasks_once(self) -> RunConfig:
        names = [task.name for task in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tasks: {', '.join(twice)} named twice")
        return self
