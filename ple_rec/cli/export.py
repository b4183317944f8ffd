"""`ple-rec export`: flags and summary of an export of a trained run as a model for serving (`ple_rec.inference`)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ple_rec.cli.console import require_torch, show
from ple_rec.cli.options import (
    Checkpoint,
    EvaluationOverrideFlags,
    RunName,
    flag,
    last_list,
    location_flag,
    non_negative_float,
    non_negative_int,
    verb_app,
)
from ple_rec.config.choices import AskedPrecision, TablePrecision
from ple_rec.errors import Option, UserError
from ple_rec.inference.export_options import ExportOptions
from ple_rec.storage import Location

if TYPE_CHECKING:
    from ple_rec.inference.export import ExportedVersion

app = verb_app(
    "export",
    """\
examples:
  ple-rec export census-demo --out models/census --examples 24
  ple-rec export kuairand-ple --out models/feed --precision int8 --licence "internal"
  ple-rec export kuairand-ple --out models/feed --dense auto --version v3
  ple-rec export kuairand-ple --out models/feed --user-features user_id user_active_degree --onnx
  ple-rec export kuairand-ple --out models/feed --tables user video --from logs/
  ple-rec export kuairand-ple --out models/feed --precision int8 --delta v3
  ple-rec export --squash v4 --out models/feed

then: ple-rec serve models/feed        docs/export.md explains all of it
""",
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportFlags(ExportOptions):
    """Flags of `ple-rec export`; those without a default here have the default of the API."""

    out: Annotated[
        Location, location_flag("folder of versions, new or existing; or an address, such as s3://...", "MODEL_DIR")
    ]
    precision: Annotated[
        TablePrecision,
        flag("precision of the tables: 4D, 2D, D + 8 and D/2 + 4 bytes a row of D columns; default fp32"),
    ]
    dense: Annotated[
        AskedPrecision,
        flag(
            "precision of matrix products in serving, default fp32; bf16 is faster if the processor has AMX, else "
            "slower; auto: bf16 if the server measures the model clearly faster in it, and bf16 passes the check"
        ),
    ]
    fusion: Annotated[
        Location | None, location_flag("fusion of the score; default: RUN/fusion/fusion.toml, else exponents 1", "FILE")
    ]
    user_features: Annotated[
        tuple[str, ...] | None,
        flag(
            "features that a request gives once; default: data.request_features, else features that are constant "
            "within groups",
            "FEATURE [FEATURE ...]",
            consume_multiple=1,
            converter=last_list,
        ),
    ]
    checkpoint: Annotated[Checkpoint, Parameter(metavar="NAME")]
    version: Annotated[str | None, flag("name of the version; default: the next number", "v<N>")]
    licence: Annotated[str | None, flag("licence for the model card", "TEXT")]
    examples: Annotated[
        int,
        flag(
            "write examples.json: rows of N held-out users, real data, to try the model with; default 0: none",
            "N",
            non_negative_int,
        ),
    ]
    onnx: Annotated[bool, flag("write the dense program as ONNX too (pip install '.[onnx]')")]
    tolerance: Annotated[
        float | None,
        flag(
            "greatest difference of a score, for a regression in standard deviations of its label; "
            "default: 1e-5, 5e-3, 3e-2, .3 by precision, .05 more in bf16",
            "X",
            non_negative_float,
        ),
    ]
    auc_loss: Annotated[
        float | None,
        flag(
            "greatest loss of AUC; default: 1e-6, 1e-5, 1e-4, 5e-3 by precision, 1e-4 more in bf16",
            "X",
            non_negative_float,
        ),
    ]
    tables: Annotated[
        tuple[str, ...],
        flag(
            "side tables of prep.toml to publish with the model, for requests that have keys in place of their columns",
            "NAME [NAME ...]",
            consume_multiple=1,
            converter=last_list,
        ),
    ]
    source: Annotated[str | None, flag("raw files of --tables: a folder, a file or s3://...", "DIR", name="--from")]
    delta: Annotated[
        str | None,
        flag(
            "write only the rows, ids and layers that differ from this version; the run's dataset descends from that "
            "of the version, and its tables are in int8 or int4, as those of the version",
            "v<N>",
        ),
    ]
    delta_share: Annotated[
        float,
        flag(
            "largest number of bytes that a server may hold of all deltas since the last whole version, as a share of "
            "those of its tables and vocabularies; default .25",
            "X",
            non_negative_float,
        ),
    ]
    check_rows: Annotated[int, Parameter(parse=False)]  # The command line has no flag for it.
    squash: Annotated[
        str | None, flag("write this delta as a whole version with the same scores, without a run", "v<N>")
    ] = None
    json: Annotated[bool, flag("print model.json instead of a summary")] = False
    overrides: EvaluationOverrideFlags = ()


# Options that `--squash` has; all others belong to the export of a run.
_OPTIONS_OF_SQUASH = ("out", "squash", "version", "json")


@app.default
def export(run: RunName | None = None, /, *, options: ExportFlags) -> int:
    """Write a self-contained model of a finished run to MODEL_DIR/versions/v<N>.

    It consists of tables, dense program, vocabularies, fusion and model card. Its scores are checked against those of
    the trained model on held-out rows before MODEL_DIR/latest names it. Existing versions are not changed.
    Without a run, --squash writes a delta as a whole version.
    """
    require_torch()
    from ple_rec.text.messages import print_messages
    from ple_rec.text.plain import json_text

    with print_messages("stderr"):
        exported = _squash(run, options) if options.squash is not None else _export(run, options)
    show(json_text(exported.description) if options.json else _summary_text(exported, options.out))
    return 0


def _export(run: str | None, options: ExportFlags) -> ExportedVersion:
    from data_prep.inputs.raw_form import build_raw_form
    from data_prep.inputs.side_tables import read_side_table
    from ple_rec.analysis.finished import load_finished_run
    from ple_rec.inference.export import export as export_run
    from ple_rec.inference.model_dir import check_model_dir
    from ple_rec.runs.find import find_run
    from ple_rec.training.trained import single_process_config

    if run is None:
        raise UserError("export", "RUN missing", "it is the run that is exported", f"name it, or give {Option.SQUASH}")
    options.check_delta_share()
    check_model_dir(options.out)
    run_dir = find_run(run)
    config, metrics = load_finished_run(run_dir, options.overrides)
    config = single_process_config(config, metrics)
    return export_run(config, metrics, run_dir, options.out, options, build_raw_form, read_side_table)


def _squash(run: str | None, options: ExportFlags) -> ExportedVersion:
    """Write a delta as a whole version.

    Raises:
        UserError: There is a run, or an option of the export of a run.
    """
    from ple_rec.inference.squash import squash

    others = [each for each in fields(options) if each.name not in _OPTIONS_OF_SQUASH]
    extra = [f"--{each.name.replace('_', '-')}" for each in others if getattr(options, each.name) != each.default]
    extra = [f"run {run}"] * (run is not None) + extra
    if extra:
        rule = "the whole version has the content of the delta, not of a run"
        raise UserError(Option.SQUASH, f"got it with {', '.join(extra)}", rule, "leave one of them out")
    assert options.squash is not None
    return squash(options.out, options.squash, options.version)


def _summary_text(exported: ExportedVersion, model_dir: Location) -> str:
    from ple_rec.inference.card import changes_texts, delta_text, dense_text
    from ple_rec.inference.signature import Signature

    card, check = exported.description["card"], exported.description["card"]["check"]
    signature = Signature.model_validate(exported.description["signature"], strict=False)
    size, fp32_size = card["bytes"]["tables"], card["bytes"]["tables_fp32"]
    lines = [
        f"tables: {size:,} bytes in {exported.description['tables'][0]['precision']}, {size / fp32_size:.3f} of fp32"
    ] * (fp32_size > 0)
    if "delta" in card:
        lines += [f"delta {delta_text(card['delta'])}", *changes_texts(card["delta"])]
    for task, differences in check["tasks"].items():
        auc, auc_loss = differences["auc"], differences["auc_loss"]
        auc_text = "" if auc is None else f", AUC {auc:.5f}, lost {auc_loss:.1e}"
        unit = " sd of its label" if signature.kinds[task] == "regression" else ""
        largest, mean = f"{differences['largest']:.1e}{unit}", f"{differences['mean']:.1e}"
        lines.append(f"{task}: scores differ by at most {largest}, {mean} on average{auc_text}")
    lines.append(f"(of {check['rows']:,} rows of {check['split']}, in {check['dense']}, against the trained model)")
    if exported.description["dense"] != {"precision": "fp32"}:
        lines.append(f"matrix products: {dense_text(exported.description['dense'])}")
    user_features = ", ".join(feature.name for feature in signature.inputs_of("user"))
    lines.append(f"features of the user: {user_features or 'none'}")
    lines.append(f"fusion: {card['fusion']}")
    for kind in ("rates", "events"):
        for each in card.get(kind, ()):
            size = f"{each['rows']:,} keys, {each['bytes']:,} bytes"
            lines.append(f"{kind}: {each['table']}, {size}, as of {each['as_of']}")
    if (examples := card["examples"])["lists"]:
        lines.append(f"examples.json: {examples['rows']:,} held-out rows of real users, in {examples['lists']} lists")
    return "\n".join([*lines, f"model: {exported.version}", "", f"next: ple-rec serve {model_dir}"])
