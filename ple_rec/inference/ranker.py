"""Exported version of a model in memory, which answers the requests of the server and of the Python API.

`Ranker` makes a request from a parsed body (`read_rank`, `read_score`), and answers several requests at once
(`answer_each`). Requests of one class are scored together, by the same layers as in an evaluation. The score of a row
combines the predictions of all tasks by a fusion: a product of factors with exponents (`ple_rec.ranking.fusion`).

Shape suffixes: B rows of all requests, N rows of one request, D columns of the input x, O outputs, E experts, K tasks
or factors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ple_rec.config.choices import AskedPrecision, UsedPrecision
from ple_rec.config.fusion import FusionConfig
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.raw_form import RAW_FILE, RawColumn, RawForm
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import STATS_FILE, DatasetSchema, HistoryFeature
from ple_rec.config.side_table import SideTableInfo
from ple_rec.errors import DataError
from ple_rec.inference.arrays import VersionArrays
from ple_rec.inference.lookups import RequestLookups
from ple_rec.inference.manifest import MODEL_FILE, check_version
from ple_rec.inference.model_dir import latest_version
from ple_rec.inference.program import ServedModel, choose_model, read_weights
from ple_rec.inference.raw_request import RawReader
from ple_rec.inference.request import ModelRequest, RankRequest, RequestReader, ScoreRequest
from ple_rec.inference.request_error import RequestError
from ple_rec.inference.request_rows import answer_schemas, format_rows
from ple_rec.inference.side_table import SideTable
from ple_rec.inference.signature import Signature
from ple_rec.models.build import build_model
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.grouped import GroupedInputs
from ple_rec.ranking.fusion import LENGTH_FACTOR, check_fusion, compute_factors, exponent_array
from ple_rec.runtime.threads import single_threaded_pool
from ple_rec.training.scores import scores_from_logits

__all__ = ["ModelRequest", "Ranker", "RequestError", "latest_version"]

FUSION_FILE, EXAMPLES, CONFIG = "fusion.toml", "examples.json", "config.toml"


@dataclass(frozen=True)
class RowScores:
    """Scores of the rows of some requests.

    Args:
        scores_BK: Probabilities and predictions in fp32, in the order of the signature's tasks.
        gates: Gate weights A_BOE of every level.
    """

    scores_BK: Tensor
    gates: list[Tensor]


class Ranker:
    """Exported version of a model, which several threads may use.

    Args:
        version: Folder of the version.
        threads: Number of threads that compute blocks of rows, and of calls that are scored at the same time; None for
            torch's number of threads. A call with few rows runs in one thread, since threads that synchronise after
            every operation cost more than they gain.
        checked: True if the files have been compared with the manifest; else they are compared now.
        dense_precision: Precision of matrix products; None for that of the export, or the choice of `choose_model` if
            the export names "auto".
        arrays: Arrays of the version in memory, which a delta needs; None to read those of a whole version.

    Raises:
        UserError: The fusion does not fit the model, or a configuration is wrong.
        DataError: A file is damaged or missing.
    """

    def __init__(
        self,
        version: Path,
        threads: int | None = None,
        *,
        checked: bool = False,
        dense_precision: UsedPrecision | None = None,
        arrays: VersionArrays | None = None,
    ) -> None:
        self._threads = threads = threads or torch.get_num_threads()
        self._pool = single_threaded_pool(threads, "scoring")
        if not checked:
            check_version(version)
        self.version = version.name
        self.description: dict[str, Any] = _read_json(version / MODEL_FILE)
        self.name: str = self.description["name"]
        self.signature = Signature.model_validate_json(json.dumps(self.description["signature"]))
        self.fusion = load_config(FusionConfig, version / FUSION_FILE)
        dense_names = {each.name: None for each in self.signature.dense}
        check_fusion(self.fusion, self.signature.kinds, dense_names, str(version / FUSION_FILE))
        # An export has examples only if `--examples` was given.
        examples = version / EXAMPLES
        self.examples: list[dict[str, Any]] = _read_json(examples) if examples.exists() else []
        self.example_summaries = [
            {"name": each["name"], "rows": len(each["request"]["items"])} for each in self.examples
        ]
        # Exports from before the option `--dense` record no precision; they are in fp32.
        self.exported_precision: AskedPrecision = self.description.get("dense", {"precision": "fp32"})["precision"]

        def build(precision: UsedPrecision) -> MultiTaskModel:
            model = _load_dense_model(version, self.signature, precision)
            if precision == "bf16":
                model.convert_to_bfloat16()
            model.run_in_blocks(threads)
            return model

        self.dense_precision, self._model, self.dense_milliseconds = (
            choose_model(self.exported_precision, build)
            if dense_precision is None
            else ServedModel(dense_precision, build(dense_precision), {})
        )
        self._binary_K = torch.tensor([task.kind == "binary" for task in self.signature.tasks])
        self.arrays = VersionArrays.read(version) if arrays is None else arrays
        schema = load_schema(version)
        table_of = {feature.name: feature.table for feature in schema.sparse}
        table_of |= {column.name: column.table for history in schema.histories for column in history.columns()}
        tables = {name: self.arrays.tables[table_of[name]] for name in self.signature.table_columns}
        self.table_rows = {each.name: tables[each.name].rows for each in self.signature.sparse}
        self._lookups = RequestLookups(
            self.signature,
            tables,
            self._model.normalise,
            self._model.mean_features,
            self._model.shared_columns,
            self._model.vectors,
            list(self._model.widths_by_feature),
            self._model.history_attentions(),
        )
        self.factors = [*self.fusion.tasks, *([LENGTH_FACTOR] if self.fusion.length else [])]
        raw, encoder = version / RAW_FILE, self.arrays.encoder
        self.raw_form = RawForm.model_validate_json(raw.read_text(encoding="utf-8")) if raw.exists() else None
        raw_reader = None if self.raw_form is None else RawReader(self.raw_form, self.signature, encoder)
        self._reader = RequestReader(self.signature, encoder, self.factors, self.arrays.vectors, raw_reader)
        self.side_tables: Mapping[str, SideTable] = {}

    def with_delta(
        self, version: Path, *, checked: bool = False, dense_precision: UsedPrecision | None = None
    ) -> Ranker:
        """Return the ranker of a delta that was made from this version; this one stays as it is.

        The new ranker shares the tables, vocabularies and vectors of this one, and has those that differ beside them.
        All else it reads from the delta, such as the dense layers. It has no side tables.

        Args:
            version: Folder of the delta.
            checked: True if its files have been compared with the manifest; else they are compared now.
            dense_precision: Precision of matrix products, as in `Ranker`.

        Raises:
            UserError: The fusion does not fit the model, or a configuration is wrong.
            DataError: The delta was made from another version, or a file is damaged or missing.
        """
        if not checked:
            check_version(version)
        arrays = self.arrays.with_delta(version)
        return Ranker(version, self._threads, checked=True, dense_precision=dense_precision, arrays=arrays)

    def with_side_tables(self, tables: Mapping[str, SideTable]) -> Ranker:
        """Return a ranker with other side tables, which shares everything else.

        Args:
            tables: Side tables by name; each is one of the raw form, and fits it (`find_misfit`).
        """
        ranker = copy(self)
        ranker._reader, ranker.side_tables = self._reader.with_tables(tables), tables
        return ranker

    @property
    def raw_columns(self) -> Mapping[str, RawColumn]:
        """Raw columns that requests may have, by name; empty without the raw form."""
        return self._reader.raw_columns

    def find_misfit(self, info: SideTableInfo) -> str | None:
        """Return why a side table of the raw form cannot fill its columns; None if it can."""
        return self._reader.find_misfit(info)

    def read_rank(self, document: object) -> RankRequest:
        """Return the request of a parsed body of `/v1/rank`.

        Raises:
            RequestError: The body is invalid.
        """
        return self._reader.read_rank(document)

    def read_score(self, document: object) -> ScoreRequest:
        """Return the request of a parsed body of `/v1/score`.

        Raises:
            RequestError: The body is invalid.
        """
        return self._reader.read_score(document)

    def answer(self, requests: Sequence[ModelRequest]) -> list[dict[str, Any]]:
        """Return the answers to some requests.

        Raises:
            RequestError: A prediction for a row is not finite.
        """
        answers = list[dict[str, Any]]()
        for each in self.answer_each(requests):
            if isinstance(each, RequestError):
                raise each
            answers.append(each)
        return answers

    def answer_each(self, requests: Sequence[ModelRequest]) -> list[dict[str, Any] | RequestError]:
        """Return the answers to some requests, of which all of one class share one pass of the model.

        If a prediction for a request is not finite, the result has a RequestError in place of its answer.
        """
        answers: list[dict[str, Any] | RequestError] = [{}] * len(requests)
        for request_class in (RankRequest, ScoreRequest):
            if indices := [i for i, each in enumerate(requests) if isinstance(each, request_class)]:
                row_scores, begin = self.score_rows([requests[i] for i in indices]), 0
                for i in indices:
                    rows = slice(begin, begin + requests[i].rows)
                    gates = [a[rows] for a in row_scores.gates]
                    answers[i] = self._build_answer(requests[i], row_scores.scores_BK[rows].numpy(), gates)
                    begin = rows.stop
        return answers

    def score_rows(self, requests: Sequence[ModelRequest], *, grouped: bool = True) -> RowScores:
        """Return the scores of all rows of some requests, in their order.

        Args:
            requests: Requests of one class.
            grouped: True to multiply the user's columns of x by the first layer only once for all items of a ranking,
                if that saves work. It does not matter for a `ScoreRequest`, whose rows have all features.
        """
        return self._pool.submit(self._score_rows, requests, grouped=grouped).result()

    def _score_rows(self, requests: Sequence[ModelRequest], *, grouped: bool) -> RowScores:
        with torch.no_grad():
            x_BD = self._lookups.inputs(requests)
            if isinstance(x_BD, GroupedInputs) and not grouped:
                x_BD = x_BD.ungroup()
            logits_BK, gates = self._model.score(x_BD)
            return RowScores(scores_from_logits(logits_BK, self._binary_K), gates)

    def _build_answer(
        self, request: ModelRequest, scores_NK: NDArray[np.float32], gates: Sequence[Tensor]
    ) -> dict[str, Any] | RequestError:
        """Return the answer to a request, or the error if a prediction is not finite.

        Args:
            request: Request of N rows.
            scores_NK: Scores of its rows.
            gates: Gate weights of its rows at every level; an explanation has those of the first row of the answer.
        """
        key = "items" if isinstance(request, RankRequest) else "rows"
        names = list(self.signature.kinds)
        if not (finite_NK := np.isfinite(scores_NK)).all():
            row, k = map(int, np.argwhere(~finite_NK)[0])
            value = f"{names[k]} = {scores_NK[row, k]}"
            return RequestError(
                f"{key}[{row}]", None, "the prediction is not finite; a value is too large", counted=value
            )
        predictions = {name: scores_NK[:, k].astype(np.float64) for k, name in enumerate(names)}
        length_N = None
        if self.fusion.length is not None:
            length_N = np.broadcast_to(request.dense[self.fusion.length.feature].astype(np.float64), request.rows)
        factors = compute_factors(self.fusion, self.signature.kinds, predictions, length_N)
        exponents = dict(zip(factors.names, exponent_array(self.fusion).tolist(), strict=True)) | dict(
            request.exponents
        )
        score_N = factors.log_NK @ np.array([exponents[name] for name in factors.names])
        chosen = np.arange(request.rows)
        columns: dict[str, Any] = {}
        if isinstance(request, RankRequest):
            chosen = np.argsort(-score_N, kind="stable")[: request.top]
            columns["index"] = chosen.tolist()
        columns["score"] = score_N[chosen].tolist()
        matrices: dict[str, tuple[Sequence[str], NDArray[Any]]] = {"predictions": (names, scores_NK[chosen])}
        if request.explain:
            matrices["factors"] = (factors.names, factors.log_NK[chosen])
        answer: dict[str, Any] = {"model": self.name, "version": self.version}
        answer[key] = format_rows(columns, matrices, request.form)
        if request.missing:
            answer["missing"] = list(request.missing)
        if request.unknown:
            answer["unknown"] = dict(request.unknown)
        if request.rates_as_of is not None:
            answer["rates_as_of"] = request.rates_as_of
        if request.events_as_of is not None:
            answer["events_as_of"] = request.events_as_of
        if request.explain:
            answer["exponents"] = exponents
            answer["gates"] = [
                {
                    "level": labels.level,
                    "outputs": list(labels.outputs),
                    "experts": list(labels.experts),
                    "weights": a_BOE[int(chosen[0])].float().tolist(),
                }
                for labels, a_BOE in zip(self._model.extraction.gate_labels, gates, strict=True)
            ]
        return answer

    def schemas(self) -> dict[str, dict[str, Any]]:
        """Return the JSON schemas of bodies and answers: "RankRequest", "Ranked", "ScoreRequest" and "Scored".

        A model with the raw form also has "RawRankRequest" and "RawScoreRequest".
        """
        return self._reader.schemas() | answer_schemas(self.signature, self.factors)


def _read_json(file: Path) -> Any:
    value = json.loads(file.read_text(encoding="utf-8"))
    # Encoding refuses half of a surrogate pair, which no answer can contain.
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _read_histories(schema: DatasetSchema, signature: Signature) -> list[HistoryFeature]:
    """Return the histories of a model, with the items that it reads."""
    histories = {history.name: history for history in schema.histories}
    read = []
    for each in signature.histories:
        assert each.events is not None
        names = {item.name for item in each.events.items}
        items = tuple(item for item in histories[each.name].items if item.feature in names)
        read.append(histories[each.name].model_copy(update={"items": items}))
    return read


def _load_dense_model(version: Path, signature: Signature, precision: UsedPrecision) -> MultiTaskModel:
    """Return the model with the weights of the dense program.

    Its embedding tables are on the device "meta", so they have no weights and take no memory; `StoredTable` reads them.
    """
    schema, config = load_schema(version), load_config(RunConfig, version / CONFIG)
    sparse, dense = {f.name: f for f in schema.sparse}, {f.name: f for f in schema.dense}
    vectors = {f.name: f for f in schema.vectors}
    histories = _read_histories(schema, signature)
    history_columns = [column for history in histories for column in history.columns()]
    data = config.data.model_copy(update={"request_features": tuple(each.name for each in signature.inputs_of("user"))})
    # The program has no weights of a learned loss weighting, which only training uses.
    train = config.train.model_copy(update={"loss_weighting": "schedule"})
    model = build_model(
        config.model_copy(update={"data": data, "train": train}),
        tasks=[task.name for task in signature.tasks],
        losses=[],
        sparse=[*(sparse[each.name] for each in signature.sparse), *history_columns],
        dense=[dense[each.name] for each in signature.dense],
        vectors=[vectors[each.name] for each in signature.vectors],
        histories=histories,
        table_rows=schema.table_rows(),
        statistics=json.loads((version / STATS_FILE).read_text(encoding="utf-8"))["columns"],
        device=torch.device("cpu"),
        table_device=torch.device("meta"),
        precision=precision,
    )
    missing, unexpected = model.load_state_dict(read_weights(version), strict=False)
    parts = ("normalise.", "vectors.", "attentions.", "extraction.", "towers.")
    if unexpected or any(name.startswith(parts) for name in missing):
        wrong = ", ".join([*unexpected, *missing][:3])
        rule = f"the weights are those of the model that {CONFIG} describes"
        raise DataError(str(version), f"weights {wrong} do not fit", rule, "export the run again")
    return model.eval()
