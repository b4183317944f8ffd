"""One exported version in memory, with which batch prediction and the server answer.

Requests of one kind are scored together, by the layers and the threads that an evaluation uses.

Shape suffixes: B rows of all requests, O outputs, E experts, K tasks or factors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import STATS_FILE
from ple_rec.data.encode import Encoder
from ple_rec.errors import DataError
from ple_rec.inference.manifest import check_version
from ple_rec.inference.model_dir import latest
from ple_rec.inference.program import Settled, read_weights, settle
from ple_rec.inference.request import ModelRequest, RankRequest, RequestReader, ScoreRequest
from ple_rec.inference.request_error import RequestError
from ple_rec.inference.request_rows import answer_schemas, format_rows
from ple_rec.inference.signature import Signature
from ple_rec.inference.tables import Lookups, StoredTable
from ple_rec.models.build import build_model
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.grouped import Grouped
from ple_rec.ranking.fusion import LENGTH, check_fusion, exponents_of, factors_of
from ple_rec.runtime.threads import threads_of_one
from ple_rec.training.scores import scores_of

__all__ = ["ModelRequest", "Ranker", "RequestError", "latest"]

MODEL_FILE, FUSION_FILE, EXAMPLES, TABLES, CONFIG = (
    "model.json",
    "fusion.toml",
    "examples.json",
    "tables",
    "config.toml",
)


@dataclass(frozen=True)
class Scored:
    """Scores of rows.

    Args:
        scores_BK: Probability or prediction, fp32, in the order of the signature's tasks.
        gates: A_BOE of every level.
    """

    scores_BK: Tensor
    gates: list[Tensor]


class Ranker:
    """A version that was exported. Several threads may use it.

    Args:
        version: Folder of the version.
        threads: Number of threads that take blocks of rows through the dense layers, and of calls that are scored at
            the same time; None for as many as the process has. What is too small for blocks runs in one thread, since
            threads that meet after every operation cost more than they bring.
        checked: Flag that its files are known to be whole.
        dense: Precision of matrix products; None for that of the export, which `settle` chooses where it says `auto`.

    Raises:
        DataError: A file is damaged or missing.
    """

    def __init__(
        self, version: Path, threads: int | None = None, *, checked: bool = False, dense: UsedPrecision | None = None
    ) -> None:
        threads = threads or torch.get_num_threads()
        self._pool = threads_of_one(threads, "scoring")
        if not checked:
            check_version(version)
        self.version = version.name
        self.described: dict[str, Any] = _read_json(version / MODEL_FILE)
        self.name: str = self.described["name"]
        self.signature = Signature.model_validate_json(json.dumps(self.described["signature"]))
        self.fusion = load_config(FusionConfig, version / FUSION_FILE)
        dense_names = {each.name: None for each in self.signature.dense}
        check_fusion(self.fusion, self.signature.kinds, dense_names, str(version / FUSION_FILE))
        examples = version / EXAMPLES  # which an export holds where it was asked for
        self.examples: list[dict[str, Any]] = _read_json(examples) if examples.exists() else []
        self.listed_examples = [{"name": each["name"], "rows": len(each["request"]["items"])} for each in self.examples]
        of_old = {"precision": "fp32"}  # exports that do not say it
        self.dense_asked: AskedPrecision = self.described.get("dense", of_old)["precision"]

        def build(precision: UsedPrecision) -> MultiTaskModel:
            model = _model(version, self.signature, precision)
            if precision == "bf16":
                model.convert_to_bfloat16()
            model.run_in_blocks(threads)
            return model

        self.dense, self._model, self.dense_milliseconds = (
            settle(self.dense_asked, build) if dense is None else Settled(dense, build(dense), {})
        )
        self._binary_K = torch.tensor([task.kind == "binary" for task in self.signature.tasks])
        features = {feature.name: feature for feature in load_schema(version).sparse}
        encoder = Encoder(version, [features[each.name] for each in self.signature.sparse], sealed=True)
        encoder.read_into_memory()
        stored: dict[str, StoredTable] = {}
        for table in self.described["tables"]:
            file = version / TABLES / Path(table["file"]).name  # which the manifest lists
            stored[table["name"]] = StoredTable(file, table["rows"], table["dim"], table["precision"])
        tables = {each.name: stored[features[each.name].table] for each in self.signature.sparse}
        self.table_rows = {name: table.rows for name, table in tables.items()}
        self._lookups = Lookups(
            self.signature, tables, self._model.normalise, self._model.mean_bags, self._model.shared_columns
        )
        self.factors = [*self.fusion.tasks, *([LENGTH] if self.fusion.length else [])]
        self._reader = RequestReader(self.signature, encoder, self.factors)

    def read_rank(self, document: object) -> RankRequest:
        """Return the request of a parsed body of `/v1/rank`.

        Raises:
            RequestError: It is wrong.
        """
        return self._reader.read_rank(document)

    def read_score(self, document: object) -> ScoreRequest:
        """Return the request of a parsed body of `/v1/score`.

        Raises:
            RequestError: It is wrong.
        """
        return self._reader.read_score(document)

    def answer(self, requests: Sequence[ModelRequest]) -> list[dict[str, Any]]:
        """Return the answers of some requests.

        Raises:
            RequestError: One has a value of which the model makes no finite prediction.
        """
        answers = list[dict[str, Any]]()
        for each in self.answers(requests):
            if isinstance(each, RequestError):
                raise each
            answers.append(each)
        return answers

    def answers(self, requests: Sequence[ModelRequest]) -> list[dict[str, Any] | RequestError]:
        """Return the answers of some requests, those of one class by one pass of the model.

        The answer of a request with a value of which the model makes no finite prediction is the error.
        """
        answers: list[dict[str, Any] | RequestError] = [{}] * len(requests)
        for kind in (RankRequest, ScoreRequest):
            if places := [i for i, each in enumerate(requests) if isinstance(each, kind)]:
                scored, begin = self.scored([requests[i] for i in places]), 0
                for i in places:
                    rows = slice(begin, begin + requests[i].rows)
                    gates = [a[rows] for a in scored.gates]
                    answers[i] = self._answer_of(requests[i], scored.scores_BK[rows].numpy(), gates)
                    begin = rows.stop
        return answers

    def scored(self, requests: Sequence[ModelRequest], *, grouped: bool = True) -> Scored:
        """Return the scores of all rows of requests of one class, one after the other.

        Args:
            requests: Requests.
            grouped: True to multiply the columns which the rows of a request share only once.
        """
        return self._pool.submit(self._scored, requests, grouped=grouped).result()

    def _scored(self, requests: Sequence[ModelRequest], *, grouped: bool) -> Scored:
        with torch.no_grad():
            x_BD = self._lookups.inputs(requests)
            if isinstance(x_BD, Grouped) and not grouped:
                x_BD = x_BD.whole()
            logits_BK, gates = self._model.score(x_BD)
            return Scored(scores_of(logits_BK, self._binary_K), gates)

    def _answer_of(
        self, request: ModelRequest, scores_BK: NDArray[np.float32], gates: Sequence[Tensor]
    ) -> dict[str, Any] | RequestError:
        key = "items" if isinstance(request, RankRequest) else "rows"
        names = list(self.signature.kinds)
        if not (finite_BK := np.isfinite(scores_BK)).all():
            row, k = map(int, np.argwhere(~finite_BK)[0])
            value = f"{names[k]} = {scores_BK[row, k]}"
            return RequestError(f"{key}[{row}]", None, "no finite prediction; a value is too large", counted=value)
        predictions = {name: scores_BK[:, k].astype(np.float64) for k, name in enumerate(names)}
        length_N = None
        if self.fusion.length is not None:
            length_N = np.broadcast_to(request.dense[self.fusion.length.feature].astype(np.float64), request.rows)
        factors = factors_of(self.fusion, self.signature.kinds, predictions, length_N)
        exponents = dict(zip(factors.names, exponents_of(self.fusion).tolist(), strict=True)) | dict(request.exponents)
        score_N = factors.log_NK @ np.array([exponents[name] for name in factors.names])
        chosen = np.arange(request.rows)
        columns: dict[str, Any] = {}
        if isinstance(request, RankRequest):
            chosen = np.argsort(-score_N, kind="stable")[: request.top]
            columns["index"] = chosen.tolist()
        columns["score"] = score_N[chosen].tolist()
        named: dict[str, tuple[Sequence[str], NDArray[Any]]] = {"predictions": (names, scores_BK[chosen])}
        if request.explain:
            named["factors"] = (factors.names, factors.log_NK[chosen])
        answer: dict[str, Any] = {"model": self.name, "version": self.version}
        answer[key] = format_rows(columns, named, request.form)
        if request.missing:
            answer["missing"] = list(request.missing)
        if request.explain:
            answer["exponents"] = exponents
            answer["gates"] = [
                {
                    "level": legend.level,
                    "outputs": list(legend.outputs),
                    "experts": list(legend.experts),
                    "weights": a_BOE[int(chosen[0])].float().tolist(),
                }
                for legend, a_BOE in zip(self._model.extraction.legends, gates, strict=True)
            ]
        return answer

    def schemas(self) -> dict[str, dict[str, Any]]:
        """Return the JSON schemas of bodies and answers: RankRequest and Ranked, ScoreRequest and Scored."""
        return self._reader.schemas() | answer_schemas(self.signature, self.factors)


def _read_json(file: Path) -> Any:
    found = json.loads(file.read_text(encoding="utf-8"))
    json.dumps(found, ensure_ascii=False).encode()  # refuses half a surrogate pair, which no answer can hold
    return found


def _model(version: Path, signature: Signature, precision: UsedPrecision) -> MultiTaskModel:
    """Return the dense layers, with the weights of the program; tables are not built."""
    schema, config = load_schema(version), load_config(RunConfig, version / CONFIG)
    sparse, dense = {f.name: f for f in schema.sparse}, {f.name: f for f in schema.dense}
    data = config.data.model_copy(update={"request_features": tuple(each.name for each in signature.of("user"))})
    train = config.train.model_copy(update={"loss_weighting": "schedule"})  # nothing is trained
    model = build_model(
        config.model_copy(update={"data": data, "train": train}),
        tasks=[task.name for task in signature.tasks],
        losses=[],
        sparse=[sparse[each.name] for each in signature.sparse],
        dense=[dense[each.name] for each in signature.dense],
        table_rows=schema.table_rows(),
        statistics=json.loads((version / STATS_FILE).read_text(encoding="utf-8"))["columns"],
        device=torch.device("cpu"),
        table_device=torch.device("meta"),
        precision=precision,
    )
    missing, unexpected = model.load_state_dict(read_weights(version), strict=False)
    if unexpected or any(name.startswith(("normalise.", "extraction.", "towers.")) for name in missing):
        wrong = ", ".join([*unexpected, *missing][:3])
        rule = f"the weights are those of the model that {CONFIG} describes"
        raise DataError(str(version), f"{wrong} do not fit", rule, "export the run again")
    return model.eval()
