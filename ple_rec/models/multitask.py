"""Multi-task model: tables, dense features, vectors and histories, the extraction network, and one tower per task.

On a CPU, the network is computed in blocks of rows of the batch, on several threads (`ple_rec.models.cpu.blocks`).

The samples of a batch may be grouped by requests, whose samples have equal values in some features. Grouped inputs
x_BD hold the columns of these features once per request.

Shape suffixes: B batch, R requests, F dense features, O outputs, E experts, K tasks, D width of x, H width of an
output, V events of one history in all samples; of a history, L its length, W the width of an event or of all of them
side by side, Q the width of its target.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from ple_rec.config.model import HISTORY_HIDDEN, VECTOR_DIM, ModelConfig
from ple_rec.config.schema import HistoryFeature
from ple_rec.data.batch import Batch, Requests
from ple_rec.models.cpu.blocks import BLOCK_ROWS, MIN_ROWS_FOR_THREADS, Blocks
from ple_rec.models.cpu.relu_bank import CpuExpertBank
from ple_rec.models.embeddings import ColumnOrder, divide_bags, single_rows, sum_rows
from ple_rec.models.losses import StepLoss
from ple_rec.models.variants import VARIANTS
from ple_rec.models.weighting import Scheduled, Weighting
from ple_rec.modules.experts import ExpertBank, Mlp
from ple_rec.modules.extraction import ExtractionNetwork
from ple_rec.modules.grouped import (
    GroupedInputs,
    Inputs,
    SharedColumns,
    input_tensors,
    repeat_by_request,
    replace_tensors,
)
from ple_rec.modules.history import HistoryAttention
from ple_rec.modules.mixing import SoftmaxGates
from ple_rec.modules.normalise import DenseNormaliser, DenseStatistics
from ple_rec.modules.vectors import VectorInputs, VectorStatistics


class MultiTaskModel(nn.Module):
    """Model of all tasks: `y = extraction(x)`, `logit_k = tower_k(y_k)`.

    `x = [pooled embeddings, normalised dense features, projected vectors, attended histories]`

    The pooled embeddings are those of `embeddings`, then those of `sequences`.

    Args:
        config: Variant and sizes of the network.
        tasks: Names of the tasks, in the order of the logits.
        embeddings: Pooled embedding tables; None if there are none.
        dense: Statistics of each dense feature.
        precision: Precision of the matrix products; "bf16" means autocast to bfloat16, with softmax, losses and weights
            in fp32.
        mean_features: Names of the features whose bags are averaged instead of summed.
        weighting: Weighting of the tasks' losses; None for `Scheduled`, the scheduled weights alone.
        request_features: Names of the sparse features and of the histories that the samples of a request share, if
            batches have requests.
        request_dense: Indices of the dense features that the samples of a request share.
        vectors: Normaliser of each vector feature.
        request_vectors: Indices of the vector features that the samples of a request share.
        sequences: Embedding tables that are not pooled: those that a history reads. None without `histories`.
        histories: Histories over which the model has attention.
    """

    def __init__(
        self,
        config: ModelConfig,
        tasks: Sequence[str],
        embeddings: EmbeddingBagCollection | None,
        dense: Sequence[DenseStatistics],
        precision: str = "fp32",
        mean_features: Collection[str] = (),
        weighting: Weighting | None = None,
        request_features: Collection[str] = (),
        request_dense: Collection[int] = (),
        vectors: Sequence[VectorStatistics] = (),
        request_vectors: Collection[int] = (),
        sequences: EmbeddingCollection | None = None,
        histories: Sequence[HistoryFeature] = (),
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.embeddings = embeddings
        self.sequences = sequences
        self.normalise = DenseNormaliser(dense)
        tables = [] if embeddings is None else embeddings.embedding_bag_configs()
        # Number of columns in x of each pooled feature of `embeddings`, and of `sequences`, by name.
        self._bag_widths = {name: table.embedding_dim for table in tables for name in table.feature_names}
        sequence_tables = [] if sequences is None else sequences.embedding_configs()
        sequence_widths = {name: table.embedding_dim for table in sequence_tables for name in table.feature_names}
        self.histories = tuple(histories)
        history_columns = {column.name for history in histories for column in history.columns()}
        # Attention reads the columns of histories; the other features of `sequences` are pooled.
        self._sequence_widths = {n: width for n, width in sequence_widths.items() if n not in history_columns}
        # All pooled features, in the order of x.
        self.widths_by_feature = self._bag_widths | self._sequence_widths
        self.mean_features = frozenset(mean_features) & self.widths_by_feature.keys()
        shared = [(name in request_features, width) for name, width in self.widths_by_feature.items()]
        shared += [(i in request_dense, 1) for i in range(len(dense))]
        vector_dim = config.vector_dim or VECTOR_DIM
        # None for a model without vectors, whose checkpoints have no statistics of vectors.
        self.vectors = VectorInputs(vectors, vector_dim) if vectors else None
        shared += [(i in request_vectors, vector_dim) for i in range(len(vectors))]
        self.request_features = frozenset(request_features)
        self.attentions = nn.ModuleList()
        for history in histories:
            *item_widths, age_width = (sequence_widths[column.name] for column in history.columns())
            hidden = config.history_hidden or HISTORY_HIDDEN
            self.attentions.append(HistoryAttention(sum(item_widths), age_width, hidden))
            # The output depends on the target, so the samples of a request do not share it.
            shared.append((False, sum(item_widths) + age_width))
        self.shared_columns = SharedColumns(shared)
        routings = VARIANTS[config.variant](config, tasks)
        # On other devices than CPUs, `CpuExpertBank` computes as `ExpertBank` does.
        self.extraction = ExtractionNetwork(
            routings, self.shared_columns.width, config.activation, config.dropout, CpuExpertBank
        )
        tower = config.tower
        self.weighting = Scheduled([]) if weighting is None else weighting
        self.towers = nn.ModuleList(
            Mlp(width, tower.hidden, 1, tower.activation, tower.dropout) for width in self.extraction.widths
        )
        self._column_order: ColumnOrder | None = None
        self.block_rows = BLOCK_ROWS
        self._blocks: Blocks | None = None
        self._compiled: Callable[[Inputs, StepLoss], tuple[Tensor, Tensor]] | None = None
        self._compiled_attend: Callable[..., Tensor] | None = None
        # Key of measured times: models with an equal `architecture` have the same layers, so they take the same time.
        self.architecture: Hashable = (config.model_dump_json(), self.tasks, self.shared_columns.runs)
        self.autocast = precision == "bf16"
        # True if the weights are stored in bfloat16; autocast, in contrast, converts them at every call.
        self.is_bfloat16 = False
        self.input_dropout = config.input_dropout
        self.has_dropout = max(config.input_dropout, config.dropout, tower.dropout) > 0

    def inputs(self, batch: Batch) -> Tensor:
        """Return x_BD of a batch."""
        x_BD = self.grouped_inputs(batch)
        return x_BD if isinstance(x_BD, Tensor) else x_BD.ungroup()

    def grouped_inputs(self, batch: Batch) -> Inputs:
        """Return x_BD of a batch, grouped by request if that makes the first matrix products cheaper."""
        parts = []
        rows: Mapping[str, JaggedTensor] = {} if self.sequences is None else self.sequences(batch.sparse)
        columns = {} if self.sequences is None else self._sequence_columns(batch, rows)
        if self.widths_by_feature:
            parts.append(self._pooled(batch, columns))
        if batch.dense_BF.shape[1]:
            parts.append(self.normalise(batch.dense_BF))
        if self.vectors is not None:
            parts.append(self.vectors(batch.vectors_BW))
        if self.histories:
            parts.append(self._attended(batch, rows, columns))
        x_BD = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        # An output layer keeps the model's type even after `convert_to_bfloat16`, so its type is the one of x.
        x_BD = x_BD.to(self.towers[0].layers[-1].weight.dtype)  # type: ignore[union-attr, index]
        if batch.requests is None:
            return x_BD
        grouped = GroupedInputs.from_tensor(x_BD, batch.requests.request_B, batch.requests.first_R, self.shared_columns)
        return grouped if grouped.saves_products() else grouped.ungroup()

    def _sequence_columns(self, batch: Batch, rows: Mapping[str, JaggedTensor]) -> dict[str, Tensor]:
        """Return the sum of each sample's rows, by name, for features of `sequences` that are no columns of histories.

        Args:
            batch: Batch of this rank.
            rows: Rows of `sequences`, by name of the feature or of the column of a history.
        """
        assert batch.sparse is not None
        # The feature of an item has at most one id in a sample, so its row is copied. A sum would look it up once more.
        items = {item.feature for history in self.histories for item in history.items}
        return {
            name: single_rows(rows[name]) if name in items else sum_rows(rows[name], batch.sparse[name])
            for name in self._sequence_widths
        }

    def _pooled(self, batch: Batch, columns: Mapping[str, Tensor]) -> Tensor:
        """Return the pooled rows of all features side by side, in the order of `widths_by_feature`.

        Args:
            batch: Batch of this rank.
            columns: Sums of the rows of `sequences`, by name of the feature.
        """
        assert batch.sparse is not None
        blocks = [*([] if self.embeddings is None else [self._bags(batch.sparse)]), *columns.values()]
        pooled_BD = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
        return divide_bags(pooled_BD, self.widths_by_feature, batch.sparse, self.mean_features)

    def _bags(self, sparse: KeyedJaggedTensor) -> Tensor:
        """Return the sums of the rows of `embeddings` side by side, in the order of the tables."""
        assert self.embeddings is not None
        pooled = self.embeddings(sparse)
        if pooled.keys() == list(self._bag_widths):
            values: Tensor = pooled.values()
            return values
        # A sharded collection returns features in the order of its sharding plan, such as row-wise tables first.
        if self._column_order is None or self._column_order.current != pooled.keys():
            self._column_order = ColumnOrder(pooled.keys(), self._bag_widths, pooled.device())
        return self._column_order.permute(pooled.values())

    def _attended(
        self, batch: Batch, rows: Mapping[str, JaggedTensor], sequence_columns: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the outputs of the histories side by side.

        Args:
            batch: Batch of this rank.
            rows: Rows of `sequences`, by name of the feature or of the column of a history.
            sequence_columns: Sums of these rows, by name of the feature.
        """
        events, targets = [], []
        for history in self.histories:
            columns = [rows[column.name] for column in history.columns()]
            offsets = columns[0].offsets()
            if batch.requests is not None and history.name in self.request_features:
                # Only the first sample of a request has events, so the next request begins where they end.
                offsets = torch.cat([offsets.index_select(0, batch.requests.first_R), offsets[-1:]])
            events_VW = torch.cat([column.values() for column in columns], dim=1)
            events.append(torch.ops.fbgemm.jagged_to_padded_dense(events_VW, [offsets], [history.length]))
            target = [self._of_each_sample(sequence_columns, item.feature, batch.requests) for item in history.items]
            targets.append(torch.cat(target, dim=1))
        # Evaluations have no gradients, and the compiled function would be compiled once more for them.
        compiled = self._compiled_attend if torch.is_grad_enabled() else None
        return (compiled or self.attend)(events, targets, batch.requests)

    def _of_each_sample(self, columns: Mapping[str, Tensor], feature: str, requests: Requests | None) -> Tensor:
        """Return the row of a feature for each sample.

        If the samples of a request share the feature, only the first one has its row in `columns`, and the others get
        this row, too.
        """
        if requests is None or feature not in self.request_features:
            return columns[feature]
        first_RQ = columns[feature].index_select(0, requests.first_R)
        return repeat_by_request(first_RQ, requests.request_B, requests.first_R)

    def history_attentions(self) -> list[tuple[HistoryFeature, HistoryAttention]]:
        """Return the histories over which the model has attention, in the order of x, each with its module."""
        return list(zip(self.histories, cast(Iterable[HistoryAttention], self.attentions), strict=True))

    def attend(self, events: Sequence[Tensor], targets: Sequence[Tensor], requests: Requests | None) -> Tensor:
        """Return the outputs of the histories side by side (B, W).

        Args:
            events: Events of each history, padded by zeros (R, L, W): the rows of the items of an event, then that of
                its age. Without requests, or if samples do not share the history, R is B.
            targets: Rows of the same features of each sample (B, Q), one tensor for each history.
            requests: Requests of the batch, or None.
        """
        outputs = []
        with torch.autocast(targets[0].device.type, dtype=torch.bfloat16, enabled=self.autocast):
            for (history, attention), events_RLW, target_BQ in zip(
                self.history_attentions(), events, targets, strict=True
            ):
                if requests is not None and history.name in self.request_features:
                    outputs.append(attention(events_RLW, target_BQ, requests.request_B, requests.first_R))
                else:
                    outputs.append(attention(events_RLW, target_BQ))
        return torch.cat(outputs, dim=1)

    def forward(self, batch: Batch, loss: StepLoss | None = None) -> Any:
        """Return logits_BK and the gates A_BOE of every level; with `loss`, return logits_BK and sums_K.

        `extraction.gate_labels` names the outputs and experts of each A_BOE. sums_K has the sum of each task's losses
        over the batch. The prediction of a regression task is its logit.

        Args:
            batch: Batch of this rank.
            loss: Loss of a training step, whose sums_K are returned instead of A_BOE; logits_BK then has no gradient.
                None in an evaluation.
        """
        x_BD = self.grouped_inputs(batch)
        return self.score(x_BD) if loss is None else self.train_score(x_BD, loss)

    def score(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """Return logits_BK and A_BOE of every level from x, the output of tables and normalisation."""
        if torch.is_grad_enabled() or not self._runs_in_blocks(x_BD):
            return self.logits(x_BD)
        return self.blocks().score(x_BD)

    def train_score(self, x_BD: Inputs, loss: StepLoss) -> tuple[Tensor, Tensor]:
        """Return logits_BK and sums_K of a training step from x, the output of tables and normalisation."""
        if self._runs_in_blocks(x_BD):
            return self.blocks().train(x_BD, loss)
        return (self._compiled or self._logits_and_sums)(x_BD, loss)

    def compile_training(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile `train_score`, for batches that are not computed in blocks, and `attend`, each to one graph.

        The first batch starts the compilation.

        All batches must have equal shapes. A graph must be whole, so an operator that cannot be compiled is an error.

        Args:
            backend: Compiler of `torch.compile`, or its name.
        """
        # torch compiles a function for at most eight models of a process, and a comparison may train more. A model
        # that is still in use is compiled again.
        torch.compiler.reset()
        self._compiled = torch.compile(self._logits_and_sums, backend=backend, fullgraph=True, dynamic=False)
        if self.histories:
            self._compiled_attend = torch.compile(self.attend, backend=backend, fullgraph=True, dynamic=False)

    def _logits_and_sums(self, x_BD: Inputs, loss: StepLoss) -> tuple[Tensor, Tensor]:
        """Return logits_BK, without a gradient, and sums_K, computed for all rows at once."""
        logits_BK, _ = self.logits(x_BD)
        return logits_BK.detach(), loss.sums_K(logits_BK)

    def logits(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """Return logits_BK and A_BOE of every level from x, computed for all rows at once."""
        if self.input_dropout and self.training:
            # Dropout is drawn separately for each sample, even in columns that samples share.
            ungrouped_BD = x_BD if isinstance(x_BD, Tensor) else x_BD.ungroup()
            x_BD = F.dropout(ungrouped_BD, self.input_dropout)
        if self.is_bfloat16:
            x_BD = replace_tensors(x_BD, [part.bfloat16() for part in input_tensors(x_BD)])
        with torch.autocast(x_BD.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            outputs, gates = self.extraction(x_BD)
            logits_BK = torch.cat([tower(y_BH) for tower, y_BH in zip(self.towers, outputs, strict=True)], dim=1)
        return logits_BK.float() if self.autocast else logits_BK, gates

    def network_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that `logits` uses: those of experts, gates (or other mixings) and towers."""
        return [*self.extraction.parameters(), *self.towers.parameters()]

    def run_in_blocks(self, threads: int) -> None:
        """Compute blocks of rows on `threads` threads from now on, whatever the process's number of threads is."""
        self._blocks = Blocks(self, self.block_rows, threads)

    def without_autocast(self) -> None:
        """Run matrix products in the precision of their weights from now on."""
        self.autocast = False

    def convert_to_bfloat16(self) -> None:
        """Convert weights of matrix products to bfloat16, except in output layers of towers; for prediction only."""
        self.autocast, self.is_bfloat16 = False, True
        for module in (*self.attentions, *self.extraction.modules(), *self.towers.modules()):
            if isinstance(module, HistoryAttention | ExpertBank | SoftmaxGates):
                weights = [*module.parameters()]
            elif isinstance(module, Mlp):
                # The output layer stays in fp32. `Mlp` computes it in that precision, too.
                weights = [*module.layers[:-1].parameters()]
            else:
                continue
            for weight in weights:
                weight.data = weight.data.bfloat16()

    def blocks(self) -> Blocks:
        """Return the computation by blocks, which the first call creates for the process's number of threads."""
        if self._blocks is None:
            self._blocks = Blocks(self, self.block_rows, torch.get_num_threads())
        return self._blocks

    def _runs_in_blocks(self, x_BD: Inputs) -> bool:
        # Dropout draws from one generator, and the order of draws would depend on the timing of threads.
        draws_now = self.has_dropout and self.training
        return x_BD.device.type == "cpu" and len(x_BD) >= MIN_ROWS_FOR_THREADS and not draws_now

    def flops_per_sample(self) -> int:
        """Return the forward FLOPs of the matrix products for one sample, two per multiply-add, without the tables."""
        towers = sum(tower.flops_per_sample() for tower in self.towers)  # type: ignore[operator]
        vectors = 0 if self.vectors is None else self.vectors.flops_per_sample()
        histories = sum(attention.flops_per_sample(history.length) for history, attention in self.history_attentions())
        return self.extraction.flops_per_sample() + towers + vectors + histories

    def dense_parameters(self) -> int:
        """Return the number of trained values outside the tables."""
        modules = [self.extraction, self.towers, self.weighting, self.attentions]
        modules += [self.vectors] if self.vectors is not None else []
        return sum(parameter.numel() for module in modules for parameter in module.parameters())
