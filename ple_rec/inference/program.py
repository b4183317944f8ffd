"""Dense layers of a model as a program of torch.export, and the precision in which a server runs them.

    embedded_BE, dense_BF[, vectors_BW[, events_BLW of each history]] -> scores_BK, gate weights of every level

`embedded_BE` has the pooled rows of all sparse features side by side, `dense_BF` the raw dense features, and
`vectors_BW` the raw vectors, with NaN for missing ones; all are in the order of the signature. The first two have no
columns if the model has no such features; a program without vectors does not have the third. A score is the probability
of a binary task or the prediction of a regression. Normalisation is part of the program.

A model with attention over histories has a list of a further input for each: the rows of the items and of the age of
each event, side by side, the oldest event first, followed by zeros up to the length of the history. Without vectors,
`vectors_BW` is None then. The mean of a history is one of the columns of `embedded_BE`, as that of a bag is.

`dense.pt2` is a torch.export program: `torch.export.load(path).module()(embedded_BE, dense_BF)`. The server reads its
weights from the same file. `dense.onnx` is the same program without the gate weights.

If the export names the precision "auto" or "bf16", the model is timed in fp32 and bf16 when it is loaded. For "auto"
the times decide, since the gain of bf16 depends on the layers as much as on the processor: small layers lose more by
casts than they gain. For "bf16" they are only reported. Each architecture is timed once in a process, so all its
versions get the same precision.

Shape suffixes: B batch, E columns of pooled rows, F dense features, W numbers of all vectors (of an event, numbers of
its rows), L events of a history, K tasks, D width of the input x of the layers, H width of a tower's input.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import logging
import math
import time
import warnings
import zipfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ple_rec.config.choices import AskedPrecision, UsedPrecision, faster_precision
from ple_rec.config.schema import DenseFeature
from ple_rec.errors import DataError, Option, UserError
from ple_rec.inference.signature import Signature
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.grouped import GroupedInputs
from ple_rec.runtime.threads import single_threaded_pool
from ple_rec.training.scores import scores_from_logits

Milliseconds = Mapping[UsedPrecision, float]
# Number of items of the request that is timed.
_TIMED_ITEMS = 500
# Smallest duration and number of rounds of the timing.
_MIN_SECONDS, _MIN_ROUNDS = 0.3, 3
_TIMES_BY_ARCHITECTURE: dict[Hashable, Milliseconds] = {}


class ServedModel(NamedTuple):
    """Model in the precision that it is served in.

    Args:
        precision: Precision of matrix products.
        model: Model in that precision.
        milliseconds: Time of a request in each precision; empty if none was measured, because the export names fp32 or
            the caller chose the precision.
    """

    precision: UsedPrecision
    model: MultiTaskModel
    milliseconds: Milliseconds


def choose_model(exported_precision: AskedPrecision, build: Callable[[UsedPrecision], MultiTaskModel]) -> ServedModel:
    """Return the model in the precision of the export; for "auto", in bf16 if that is clearly faster on this machine.

    Args:
        exported_precision: Precision that the export names: "fp32", "bf16" or "auto".
        build: Function that builds the model in a precision, ready to score without gradients.
    """
    if exported_precision == "fp32":
        return ServedModel("fp32", build("fp32"), {})
    models: dict[UsedPrecision, MultiTaskModel] = {"bf16": build("bf16")}
    key = models["bf16"].architecture
    if key not in _TIMES_BY_ARCHITECTURE:
        models["fp32"] = build("fp32")
        with single_threaded_pool(1, "timing") as pool:
            _TIMES_BY_ARCHITECTURE[key] = pool.submit(_time_requests, models).result()
    milliseconds = _TIMES_BY_ARCHITECTURE[key]
    precision = (
        faster_precision(1 / milliseconds["fp32"], 1 / milliseconds["bf16"])
        if exported_precision == "auto"
        else exported_precision
    )
    return ServedModel(precision, models[precision] if precision in models else build(precision), milliseconds)


def _time_requests(models: Mapping[UsedPrecision, MultiTaskModel]) -> Milliseconds:
    """Return the shortest of many times of a request in each precision, as other work on the machine only adds time."""
    columns = models["bf16"].shared_columns
    x_BD = torch.rand(_TIMED_ITEMS, columns.width, generator=torch.Generator().manual_seed(0))
    x = GroupedInputs.from_tensor(
        x_BD, torch.zeros(_TIMED_ITEMS, dtype=torch.long), torch.zeros(1, dtype=torch.long), columns
    )
    best: dict[UsedPrecision, float] = dict.fromkeys(models, math.inf)
    end, rounds = time.perf_counter() + _MIN_SECONDS, 0
    with torch.no_grad():
        while rounds < _MIN_ROUNDS or time.perf_counter() < end:
            rounds += 1
            for precision, model in models.items():
                started = time.perf_counter()
                model.score(x)
                best[precision] = min(best[precision], 1000 * (time.perf_counter() - started))
    return best


PROGRAM = "dense.pt2"
ONNX = "dense.onnx"
# Number of rows of the inputs with which the program is traced. torch.export would take a size of 1 for a constant.
_TRACED_ROWS = 3
# Types of weights by their number in the archive.
_DTYPES = {5: torch.int64, 7: torch.float32, 12: torch.bool}


class DenseProgram(nn.Module):
    """Normalisation, attention over histories, extraction network, towers, and the sigmoid of every binary task.

    Args:
        model: Trained model on any device; its parameters are copied to the CPU under the same names.
        signature: Signature of the model.
        gates: True to return the gate weights too.
    """

    binary_K: Tensor

    def __init__(self, model: MultiTaskModel, signature: Signature, *, gates: bool = True) -> None:
        super().__init__()
        self.normalise, self.extraction, self.towers = map(
            _copy_to_cpu, (model.normalise, model.extraction, model.towers)
        )
        self.vectors = None if model.vectors is None else _copy_to_cpu(model.vectors)
        self.attentions, self.histories = _copy_to_cpu(model.attentions), model.histories
        ends = list(accumulate(model.widths_by_feature.values()))
        self.columns_by_feature = {
            name: slice(end - width, end)
            for (name, width), end in zip(model.widths_by_feature.items(), ends, strict=True)
        }
        self.embedding_width, self.dense_width, self.gates = (
            sum(model.widths_by_feature.values()),
            len(signature.dense),
            gates,
        )
        binary = torch.tensor([task.kind == "binary" for task in signature.tasks])
        self.register_buffer("binary_K", binary, persistent=False)

    def forward(
        self,
        embedded_BE: Tensor,
        dense_BF: Tensor,
        vectors_BW: Tensor | None = None,
        events: Sequence[Tensor] = (),
    ) -> tuple[Tensor, list[Tensor]] | Tensor:
        """Return the scores, and the gate weights of every level if `gates` is True."""
        parts = [embedded_BE] if self.embedding_width else []
        if self.dense_width:
            parts.append(self.normalise(dense_BF))
        if self.vectors is not None:
            parts.append(self.vectors(vectors_BW))
        for history, attention, events_BLW in zip(self.histories, self.attentions, events, strict=True):
            items = [embedded_BE[:, self.columns_by_feature[item.feature]] for item in history.items]
            parts.append(attention(events_BLW, torch.cat(items, dim=1)))
        outputs, gates = self.extraction(torch.cat(parts, dim=1))
        logits_BK = torch.cat([tower(y_BH) for tower, y_BH in zip(self.towers, outputs, strict=True)], dim=1)
        scores_BK = scores_from_logits(logits_BK, self.binary_K)
        return (scores_BK, gates) if self.gates else scores_BK

    def example_inputs(self) -> tuple[Any, ...]:
        """Return arguments of `forward` with random rows, to trace the program."""
        widths = [self.embedding_width, self.dense_width]
        widths += [] if self.vectors is None else [sum(self.vectors.widths)]
        inputs: list[Any] = [torch.rand(_TRACED_ROWS, width) for width in widths]
        if not self.histories:
            return tuple(inputs)
        inputs += [None] if self.vectors is None else []
        events = [
            torch.rand(_TRACED_ROWS, history.length, attention.item_width + attention.age_width)
            for history, attention in zip(self.histories, self.attentions, strict=True)
        ]
        return (*inputs, events)

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """Return the dynamic shapes of the arguments for torch.export: any number of rows."""
        batch = {0: torch.export.Dim("batch", min=1, max=1 << 24)}
        return tuple(
            [batch] * len(each) if isinstance(each, list) else None if each is None else batch
            for each in self.example_inputs()
        )

    def input_names(self) -> list[str]:
        """Return names of the tensors among the arguments."""
        vectors = [] if self.vectors is None else ["vectors"]
        return ["embedded", "dense", *vectors, *(history.name for history in self.histories)]


def _copy_to_cpu(part: nn.Module) -> Any:
    """Return a copy of a module with its parameters and buffers on the CPU."""
    moved: dict[int, Any] = {id(p): nn.Parameter(p.detach().cpu()) for p in part.parameters()}
    return copy.deepcopy(part, moved | {id(buffer): buffer.cpu() for buffer in part.buffers()})


def check_onnx(dense: Sequence[DenseFeature]) -> None:
    """Refuse a model that cannot be written as ONNX, before anything is written.

    Args:
        dense: Dense features of the model.

    Raises:
        UserError: onnx or onnxscript is not installed, or ONNX has no operation for a normaliser.
    """
    for module in ("onnx", "onnxscript"):
        if importlib.util.find_spec(module) is None:
            fix = "pip install '.[onnx]', or leave it out"
            raise UserError(Option.ONNX, f"{module} is not installed", "the file is written by this package", fix)
    if unsupported := [feature.name for feature in dense if feature.normaliser == "quantile"]:
        raise UserError(
            Option.ONNX,
            f'dense feature {unsupported[0]} has the normaliser "quantile"',
            "ONNX has no inverse of the error function, which this normaliser needs",
            f"leave {Option.ONNX} out ({PROGRAM} has every normaliser), or train with another normaliser",
        )


@torch.no_grad()
def write_program(model: MultiTaskModel, signature: Signature, folder: Path, *, onnx: bool = False) -> None:
    """Write `dense.pt2`, and `dense.onnx` if `onnx` is True.

    Args:
        model: Trained model in fp32.
        signature: Signature of the model.
        folder: Folder of both files.
        onnx: True to write `dense.onnx`; `check_onnx` has checked the model.
    """
    program = DenseProgram(model, signature).eval()
    exported = torch.export.export(program, program.example_inputs(), dynamic_shapes=program.dynamic_shapes())
    for graph in (part.graph for part in exported.graph_module.modules() if isinstance(part, torch.fx.GraphModule)):
        for node in graph.nodes:
            # Stack traces contain paths of this installation.
            node.meta.pop("stack_trace", None)
    # Torch aborts the process if the disk is full, so it writes to memory first.
    archive = io.BytesIO()
    torch.export.save(exported, archive)
    (folder / PROGRAM).write_bytes(archive.getbuffer())
    if onnx:
        _write_onnx(DenseProgram(model, signature, gates=False).eval(), folder / ONNX)


def _write_onnx(program: DenseProgram, file: Path) -> None:
    arguments = program.example_inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("onnxscript", "torch.onnx._internal.exporter._registration"):
            logging.getLogger(name).setLevel(logging.ERROR)
        torch.onnx.export(
            program,
            arguments,
            str(file),
            input_names=program.input_names(),
            output_names=["scores"],
            dynamic_shapes=program.dynamic_shapes(),
            external_data=False,
            verbose=False,
        )


def read_weights(folder: Path) -> Mapping[str, Tensor]:
    """Return the parameters and buffers of `dense.pt2`, by their names in the model.

    They are read from the archive itself (docs.pytorch.org, "PT2 Archive Spec"). `torch.export.load` would build the
    program too, and caches of torch keep some hundred of its objects forever, while a server loads many versions.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(folder / PROGRAM) as archive:
            weights = f"{archive.namelist()[0].split('/')[0]}/data/weights"
            config = json.loads(archive.read(f"{weights}/model_weights_config.json"))["config"]
            return {
                name: _read_tensor(each["tensor_meta"], archive.read(f"{weights}/{each['path_name']}"))
                for name, each in config.items()
            }
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise DataError(
            str(folder / PROGRAM), f"unreadable ({error})", "it is an archive of torch.export", "export the run again"
        ) from error


def _read_tensor(description: Mapping[str, Any], stored: bytes) -> Tensor:
    sizes, strides = ([each["as_int"] for each in description[key]] for key in ("sizes", "strides"))
    dtype = _DTYPES[description["dtype"]]
    storage = torch.frombuffer(bytearray(stored), dtype=dtype) if stored else torch.empty(0, dtype=dtype)
    return storage.as_strided(sizes, strides, description["storage_offset"]["as_int"])
