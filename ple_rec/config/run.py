"""`RunConfig`: the configuration of a training run, saved as `config.toml` in its run directory.

Each class is a table of the TOML file. `ple-rec train --help-config` prints the descriptions of all keys.
"""

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
from ple_rec.errors import overrides_text

Pooling = Literal["sum", "mean"]
ExchangePrecision = Literal["fp32", "fp16", "bf16", "int8"]
PipelineKind = Literal["none", "sparse_dist", "prefetch"]
CompileKind = Literal["auto", "off"]
AskedPipeline = Literal["auto", PipelineKind]
ShuffleKind = Literal["rows", "requests"]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]  # torch takes 64 bits; one stays free, since each rank adds its number.
TableDim = Annotated[int, Field(gt=0, multiple_of=4)]  # FBGEMM's kernels refuse other dims.


class DataConfig(Config):
    """Dataset of the run, and the way its rows are read."""

    path: str = Field(description="dataset directory, or its address in an object store (docs/data.md)")
    drop: tuple[Name, ...] = Field((), description="features of the dataset that this model does not read")
    vectors: tuple[Name, ...] | None = Field(
        None, description="vectors of the dataset that this model reads; default: all of them"
    )
    virtual_shards: PositiveInt = Field(
        16,
        description="number of shards into which an epoch's samples are divided for any number of ranks; a multiple of "
        "the world size, and a divisor of the global batch size",
    )
    request_features: tuple[Name, ...] = Field(
        (),
        description="features that all samples of a request share; if such samples follow one another, look-up and "
        "first layer of these features are computed once for all of them",
    )
    shuffle: ShuffleKind = Field(
        "rows",
        description="unit that is permuted inside each row group of the training split: rows, or whole requests, so "
        "that a batch holds several samples of each (needs request_features)",
    )
    prefetch: PositiveInt = Field(4, description="number of batches that the reading thread keeps ready")
    buffer_mib: PositiveInt = Field(
        2048,
        description="limit in MiB on the decoded rows that a rank holds, without batches; if one row group of each "
        "virtual shard exceeds it, row groups are read several times, with the same batches",
    )
    described_by: str | None = Field(
        None,
        description="schema.toml, or the name of a schema that comes with ple-rec, for `ple-rec plan` without the "
        "dataset",
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
    """Task k that the run trains, and its weight in the loss: w_k(t) = weight * decay^t (Eq. 10 of the PLE paper)."""

    name: Name
    weight: PositiveFloat = Field(1.0, description="w_k0, weight of the task in the loss at t = 0")
    decay: PositiveFloat = Field(1.0, description="gamma_k, factor of the weight for each step or epoch")
    samples: Literal["space", "all"] | None = Field(
        None,
        description="training samples that count in the loss (d_ik of Eq. 9): those in the task's sample space, the "
        "default, or all; evaluation always uses the sample space",
    )
    loss: Literal["cross_entropy", "mse", "huber"] | None = Field(
        None, description="loss of the task; default: cross_entropy for a binary task, mse for a regression"
    )
    huber_delta: PositiveFloat | None = Field(
        None,
        description="for huber: error in the unit of the label up to which the loss is quadratic, and above which it "
        "is linear; default: 1",
    )

    @model_validator(mode="after")
    def _delta_belongs_to_huber(self) -> TaskConfig:
        if self.huber_delta is not None and self.loss != "huber":
            loss = "no loss" if self.loss is None else f'loss = "{self.loss}"'
            raise ValueError(
                f'huber_delta = {self.huber_delta} with {loss}; it belongs to huber. Set loss = "huber", or drop it'
            )
        return self


class TableConfig(Config):
    """Settings of one embedding table that differ from `[embeddings]`."""

    dim: TableDim | None = Field(None, description="embedding dim of this table, a multiple of 4")
    pooling: Pooling | None = Field(None, description="pooling of the bags that read this table")
    id_dropout: Fraction | None = Field(None, description="share of this table's ids that training replaces by row 0")
    sharding: Sharding | None = Field(None, description="sharding of this table, instead of the planner's choice")
    kernel: Kernel | None = Field(None, description="kernel of this table, instead of the planner's choice")
    hosts: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = Field(
        None,
        description="hosts for the shards, counted from 0 (table_row_wise uses one of them); not for row_wise, which "
        "uses all",
    )
    ids_per_sample: PositiveFloat | None = Field(
        None,
        description="mean number of ids in a sample for each feature that reads the table, for the planner; default: "
        "from stats.json, else 1",
    )

    @model_validator(mode="after")
    def _hosts_once(self) -> TableConfig:
        hosts = self.hosts or ()
        if twice := sorted({host for host in hosts if hosts.count(host) > 1}):
            raise ValueError(f"hosts: {twice[0]} is named twice")
        return self


class QcommsConfig(Config):
    """Precision in which ranks exchange rows of tables and their gradients; weights and optimizer state keep theirs.

    With int8, values that are summed over ranks travel in fp16 in forward and bf16 in backward; these are the rows of
    row_wise and table_row_wise tables. So do the rows of tables that attention over histories reads.
    """

    forward_precision: ExchangePrecision = Field("fp32", description="precision of the rows")
    backward_precision: ExchangePrecision = Field(
        "fp32", description="precision of their gradients; fp16 rounds those below 6e-8 to 0, bf16 keeps their range"
    )


class EmbeddingsConfig(Config):
    """Embedding tables, one for each table of the dataset's schema."""

    dim: TableDim = Field(16, description="embedding dim of every table, a multiple of 4")
    pooling: Pooling = Field(
        "sum",
        description="vector of a bag of rows r_i with weights w_i (default 1): sum_i w_i r_i, or sum_i w_i r_i / sum_i "
        "w_i, which is 0 if sum_i w_i is 0",
    )
    dtype: Dtype = Field("fp32", description="storage type of the rows")
    init_scale: PositiveFloat = Field(1.0, description="scale s of the initial rows, U(-s/sqrt(rows), s/sqrt(rows))")
    id_dropout: Fraction = Field(
        0.0,
        description="share of the ids of every table that training replaces by row 0, the row of unseen values, so "
        "that the model also learns to predict without them",
    )
    sharding: Sharding | None = Field(
        None,
        description="sharding of every table that has enough rows for its ranks, instead of the planner's choice; "
        "column_wise changes what rowwise_adagrad computes",
    )
    kernel: Kernel | None = Field(
        None,
        description="kernel of every table; default: fused (the table lies in the GPU's memory), and UVM kernels (in "
        "the host's memory) only for tables that do not fit",
    )
    cache_load_factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of a fused_uvm_caching table that the GPU's memory caches"
    )
    qcomms: QcommsConfig = QcommsConfig()
    tables: dict[Name, TableConfig] = Field({}, description="settings of single tables, by name")


class DenseOptimizerConfig(Config):
    """Optimizer of the dense parameters."""

    kind: Literal["adam", "adamw", "sgd", "adagrad"] = Field("adam", description="algorithm")
    learning_rate: PositiveFloat = Field(1e-3, description="learning rate after warm-up, before decay")
    weight_decay: NonNegativeFloat = Field(
        0.0,
        description="weight decay, decoupled for adamw, L2 for the others; log-variances of train.loss_weighting have "
        "none",
    )
    betas: tuple[Fraction, Fraction] = Field(
        (0.9, 0.999), description="decay rates of the moments; adam and adamw only"
    )
    clip_norm: PositiveFloat | None = Field(
        None,
        description="norm to which the dense gradients are clipped; gradients of tables are not clipped, since their "
        "optimizer runs inside backward",
    )


class TableOptimizerConfig(Config):
    """Optimizer of the tables, fused into backward (FBGEMM)."""

    kind: TableOptimizer = Field(
        "rowwise_adagrad", description="algorithm; adam needs CUDA, since FBGEMM's CPU kernels lack it"
    )
    learning_rate: PositiveFloat = Field(0.02, description="learning rate after warm-up, before decay")
    weight_decay: NonNegativeFloat = Field(
        0.0,
        description="decoupled weight decay on the rows that a batch reads; adam only, since FBGEMM's other kernels "
        "lack it",
    )
    eps: PositiveFloat = Field(1e-8, description="number added to the root of the accumulated squares")


class ScheduleConfig(Config):
    """Learning-rate factor of both optimizers: linear warm-up, then 1, or decay to `final` at the last step."""

    warmup_steps: NonNegativeInt = Field(0, description="steps of linear warm-up")
    decay: Literal["none", "linear", "cosine"] = Field("none", description="form of the factor after warm-up")
    final: Fraction = Field(0.0, description="factor at the last step; linear and cosine only")


class TrainConfig(Config):
    """Training loop."""

    batch_size: PositiveInt | None = Field(
        None, description="samples of a step over all ranks (or set batch_size_per_rank)"
    )
    batch_size_per_rank: PositiveInt | None = Field(None, description="samples of a step on each rank")
    epochs: PositiveInt | None = Field(None, description="passes over the training split (or set steps)")
    steps: PositiveInt | None = Field(None, description="optimizer steps")
    report_every: PositiveInt = Field(100, description="steps between progress lines and train.jsonl records")
    evaluate_every: PositiveInt | None = Field(None, description="steps between evaluations; default: an epoch")
    best_metric: str = Field(
        "loss",
        description="metric of the best checkpoint: `loss` (of validation, weighted over tasks), `mean.auc`, or "
        "`TASK.METRIC`",
    )
    weight_schedule: Literal["step", "epoch"] = Field("step", description="unit of t in the loss weights")
    loss_weighting: Literal["schedule", "uncertainty"] = Field(
        "schedule",
        description="weights of the tasks in the loss; schedule: w_k(t) alone; uncertainty: w_k(t) times a learned "
        "weight (Kendall et al., 2018)",
    )
    pipeline: AskedPipeline = Field(
        "auto",
        description="overlap of steps; sparse_dist: copy the next batches and exchange their ids during a step, with "
        "the same result; prefetch: also fetch rows of fused_uvm_caching tables (GPUs only); auto: sparse_dist on "
        "GPUs, none on CPUs",
    )
    compile: CompileKind = Field(
        "auto",
        description="auto: compile the dense layers and losses of a training step into one graph, on GPUs only; off: "
        "compute them operator by operator",
    )
    precision: AskedPrecision = Field(
        "fp32",
        description="precision of matrix products of the dense layers; auto: bf16 if a probe of one second at the "
        "start measures it clearly faster on every rank, else fp32",
    )
    exact_auc_limit: NonNegativeInt = Field(
        1 << 20,
        description="number of samples up to which an evaluation computes AUC exactly; above it, AUC comes from a "
        "histogram, with an error bound",
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> TrainConfig:
        problems = [
            f"give exactly one of `{a}` and `{b}`, got "
            + (
                f"both; take one back by {overrides_text(f'train.{a}=')} or {overrides_text(f'train.{b}=')}"
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

    metric: str | None = Field(None, description="metric in the form of train.best_metric, which is the default")
    patience: PositiveInt = Field(3, description="evaluations without an improvement after which the run ends")
    min_delta: NonNegativeFloat = Field(0.0, description="difference that an improvement must exceed")


class EvaluationConfig(Config):
    """Evaluations at the end of a run, and metrics by slice."""

    test: bool | None = Field(
        None,
        description="false: do not read the test split, for example in one of several runs among which validation "
        "selects; default: true",
    )
    slices: tuple[str, ...] = Field(
        (), description="columns of the dataset for whose values metrics are also computed, e.g. a user group"
    )
    slice_values: Annotated[int, Field(ge=2, le=64)] = Field(
        12, description="number of each such column's most frequent values; the others are evaluated together"
    )

    @property
    def splits(self) -> tuple[Split, ...]:
        """Splits that are evaluated at the end of a run."""
        return ("valid",) if self.test is False else ("valid", "test")


class MlflowConfig(Config):
    """MLflow server that receives the run's configuration, records and final metrics."""

    tracking_uri: str = Field(description="address of the server, e.g. http://localhost:5000")
    experiment: str = Field("ple-rec", min_length=1, description="experiment of the run, created if it does not exist")

    @model_validator(mode="after")
    def _names_a_server(self) -> MlflowConfig:
        address = urlsplit(self.tracking_uri)
        if "@" in address.netloc:  # The configuration is saved, printed and sent to many places.
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
    """Further loggers of a run, beside `train.jsonl` and the terminal."""

    tensorboard: bool | None = Field(
        None, description="true to write tensorboard/ in the run directory; default: if tensorboard is installed"
    )
    mlflow: MlflowConfig | None = Field(None, description="MLflow server to log to (pip install mlflow-skinny)")


class CheckpointConfig(Config):
    """Place, intervals and number of a run's checkpoints."""

    path: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="absolute path or s3://bucket/key of the checkpoints, in which {run} is the name of the run "
        "directory; default: checkpoints/ of the run directory",
    )
    every: PositiveInt | None = Field(None, description="steps between checkpoints; default: at each evaluation")
    every_minutes: PositiveFloat = Field(
        15.0, description="most minutes of training between checkpoints, regardless of steps and evaluations"
    )
    keep: PositiveInt = Field(2, description="number of newest checkpoints to keep, beside the best")
    keep_every: PositiveInt | None = Field(
        None, description="keep also the checkpoints of steps that are multiples of this; default: none"
    )
    asynchronous: bool = Field(
        False,
        description="true to write a copy of the state while training goes on; needs host memory for a second copy of "
        "each rank's part",
    )
    grace_seconds: PositiveFloat = Field(
        30.0, description="seconds from SIGTERM or SIGUSR1 to a forced end; a save that would take longer is not begun"
    )

    @model_validator(mode="after")
    def _path_is_absolute(self) -> CheckpointConfig:
        if self.path is not None and not self.path.startswith("/") and "://" not in self.path:
            raise ValueError(
                f'path: got "{self.path}"; it must be absolute, or an address such as s3://bucket/key, since a run may '
                "be resumed from another folder"
            )
        return self


class RuntimeConfig(Config):
    """Device, threads and timeout of a rank."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="device of the ranks; auto: cuda if FBGEMM's CUDA wheel is installed, else cpu"
    )
    threads: PositiveInt | None = Field(
        None,
        description="CPU threads of a rank, on which the last bits of sums depend; default: OMP_NUM_THREADS, else "
        "usable cores / ranks on the host; a resumed run keeps its number of threads",
    )
    timeout_seconds: PositiveFloat = Field(
        600.0,
        description="seconds without a batch, a step or a written block after which ranks end and name the one that "
        "others wait for",
    )


class RunConfig(Config):
    """Configuration of a training run, saved as `config.toml` of the run and of every checkpoint."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run, whose directory is runs/<name>"
    )
    seed: Seed = Field(0, description="seed of tables, dense layers, dropout and sample order")
    data: DataConfig
    tasks: tuple[TaskConfig, ...] = Field(
        (), description="tasks to train; default: every task of the dataset with weight 1"
    )
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    model: ModelConfig
    dense_optimizer: DenseOptimizerConfig = DenseOptimizerConfig()
    table_optimizer: TableOptimizerConfig = TableOptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig
    early_stopping: EarlyStoppingConfig | None = Field(
        None, description="early stopping; default: train to the last step"
    )
    evaluation: EvaluationConfig = EvaluationConfig()
    watch: WatchConfig = WatchConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    topology: TopologyConfig | None = Field(
        None, description="hosts to plan for; default: --device, or the present hosts"
    )

    @model_validator(mode="after")
    def _tasks_once(self) -> RunConfig:
        names = [task.name for task in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tasks: {', '.join(twice)} named twice")
        return self
