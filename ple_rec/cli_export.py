"""`ple-rec export`: a trained run becomes a model that serves."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ple_rec.cli_words import add_set, count, not_negative

if TYPE_CHECKING:
    from ple_rec.serve.export import Exported

_EPILOG = """\
examples:
  ple-rec export census-demo --out models/census --examples 24
  ple-rec export kuairand-ple --out models/feed --precision int8 --licence "internal"
  ple-rec export kuairand-ple --out models/feed --dense auto --version v3
  ple-rec export kuairand-ple --out models/feed --user-features user_id user_active_degree --onnx

then: ple-rec serve models/feed        docs/export.md explains all of it
"""


def add_export(verb: argparse.ArgumentParser) -> None:
    """The arguments of `ple-rec export`."""
    verb.description = (
        "Write a self-contained model of a finished run to MODEL_DIR/versions/v<N>: tables, dense program,\n"
        "vocabularies, fusion, model card. Its scores are checked against the trained model's on held-out rows before\n"
        "MODEL_DIR/latest names it. Versions that are there stay as they are."
    )
    verb.epilog, verb.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    verb.add_argument("run", metavar="RUN", help="run directory, or its name under runs/")
    verb.add_argument("--out", type=Path, required=True, metavar="MODEL_DIR", help="a folder of versions, new or not")
    verb.add_argument(
        "--precision",
        choices=["fp32", "fp16", "int8", "int4"],
        default="fp32",
        help="of the tables: 4D, 2D, D + 8 and D/2 + 4 bytes a row of D columns; default fp32",
    )
    verb.add_argument(
        "--dense",
        choices=["fp32", "bf16", "auto"],
        default="fp32",
        help="precision of matrix products when it serves, default fp32; bf16 is faster where the processor has AMX, "
        "else slower; auto: bf16 where the server finds the model clearly faster in it, if the check lets bf16 through",
    )
    verb.add_argument(
        "--fusion", type=Path, metavar="FILE", help="default: RUN/fusion/fusion.toml, else every exponent is 1"
    )
    verb.add_argument(
        "--user-features",
        nargs="+",
        metavar="FEATURE",
        help="given once a request; default: data.request_features, else those that are constant within groups",
    )
    verb.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), latest or step-<n>")
    verb.add_argument("--version", metavar="v<N>", help="default: the one after the last")
    verb.add_argument("--licence", metavar="TEXT", help="a line for the model card")
    verb.add_argument(
        "--examples",
        type=count,
        default=0,
        metavar="N",
        help="write examples.json: rows of N held-out users, real data, to try the model with; default 0: none",
    )
    verb.add_argument("--onnx", action="store_true", help="write the dense program as ONNX too (pip install '.[onnx]')")
    verb.add_argument(
        "--tolerance",
        type=not_negative,
        metavar="X",
        help="by how much a score may differ, of a regression in standard deviations of its label; "
        "default: 1e-5, 5e-3, 3e-2, .3 by precision, .05 more in bf16",
    )
    verb.add_argument(
        "--auc-loss",
        type=not_negative,
        metavar="X",
        help="that is let through; default: 1e-6, 1e-5, 1e-4, 5e-3 by precision, 1e-4 more in bf16",
    )
    verb.add_argument("--json", action="store_true", help="print model.json instead of a summary")
    add_set(verb, "override a configuration key that an evaluation may change, e.g. data.path=... (repeatable)")


def export(args: argparse.Namespace) -> str:
    """Run the verb; what it prints.

    Raises:
        UserError: there is no finished run, what is wanted does not fit it, or the export says something else.
        DataError: a damaged checkpoint or dataset.
    """
    from ple_rec.analysis.find_runs import named_run
    from ple_rec.analysis.finished import finished_run
    from ple_rec.analysis.plain import json_text
    from ple_rec.serve.export import Wanted
    from ple_rec.serve.export import export as exported
    from ple_rec.serve.model_dir import check_out
    from ple_rec.text.messages import messages
    from ple_rec.train.trained import of_one_process

    check_out(args.out)
    run_dir = named_run(args.run)
    config, metrics = finished_run(run_dir, args.overrides)
    wanted = Wanted(
        precision=args.precision,
        dense=args.dense,
        fusion=args.fusion,
        user_features=args.user_features,
        checkpoint=args.checkpoint,
        version=args.version,
        licence=args.licence,
        onnx=args.onnx,
        tolerance=args.tolerance,
        auc_loss=args.auc_loss,
        examples=args.examples,
    )
    with messages("stderr"):
        done = exported(of_one_process(config, metrics), metrics, run_dir, args.out, wanted)
    return json_text(done.described) if args.json else _summary(done, args.out)


def _summary(done: Exported, model_dir: Path) -> str:
    from ple_rec.serve.card import dense_text
    from ple_rec.serve.signature import Signature

    card, check = done.described["card"], done.described["card"]["check"]
    signature = Signature.model_validate(done.described["signature"], strict=False)
    size, exact = card["bytes"]["tables"], card["bytes"]["tables_fp32"]
    lines = [f"tables: {size:,} bytes in {done.described['tables'][0]['precision']}, {size / exact:.3f} of fp32"] * (
        exact > 0
    )
    for task, found in check["tasks"].items():
        area = "" if found["auc"] is None else f", AUC {found['auc']:.5f}, lost {found['auc_loss']:.1e}"
        unit = " sd of its label" if signature.kinds[task] == "regression" else ""
        largest, mean = f"{found['largest']:.1e}{unit}", f"{found['mean']:.1e}"
        lines.append(f"{task}: scores differ by at most {largest}, {mean} on average{area}")
    lines.append(f"(of {check['rows']:,} rows of {check['split']}, in {check['dense']}, against the trained model)")
    if done.described["dense"] != {"precision": "fp32"}:
        lines.append(f"matrix products: {dense_text(done.described['dense'])}")
    user = ", ".join(each.name for each in signature.of("user"))
    lines.append(f"features of the user: {user or 'none'}")
    lines.append(f"fusion: {card['fusion']}")
    if (examples := card["examples"])["lists"]:
        lines.append(f"examples.json: {examples['rows']:,} held-out rows of real users, in {examples['lists']} lists")
    return "\n".join([*lines, f"model: {done.version}", "", f"next: ple-rec serve {model_dir}"])
