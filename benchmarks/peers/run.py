"""Compare our training rate with that of two libraries and of layers as people usually write them (`make bench-peers`).

All train the reference workload in turn; benchmarks/peers/README.md says what each of them runs.

python -m benchmarks.peers.run [--users N ...] [--precision P] [--turns N] [--contenders NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.feed import FULL_USERS
from benchmarks.harness import conditions
from benchmarks.peers.child import Contender
from benchmarks.peers.prepare import prepare
from benchmarks.peers.race import ContenderResult, RacePlan, race
from benchmarks.peers.report import not_measured_lines, ratio_lines, ratios, result_record, short_number, table
from ple_rec.errors import PleRecError, UserError
from ple_rec.text.units import gib_text

ROOT = Path(__file__).resolve().parents[2]
PEERS_PYTHON = ROOT / "benchmarks" / "peers" / ".venv" / "bin" / "python"
_MODULE = "benchmarks.peers."
# The fourth argument is `table_copies`. For the libraries it covers the weights, the gradient, the two states and the
# temporaries of a dense Adam, and the temporary of an L2 term.
CONTENDERS = (
    Contender("ours", "ours, ple-rec train", (sys.executable, "-m", _MODULE + "ours"), 1.2, ours=True),
    Contender("usual", "usual layers on FBGEMM tables", (sys.executable, "-m", _MODULE + "usual"), 1.2),
    Contender("torch-rechub", "torch-rechub PLE", (str(PEERS_PYTHON), "-m", _MODULE + "rechub"), 6, library=True),
    Contender("deepctr-torch", "DeepCTR-Torch PLE", (str(PEERS_PYTHON), "-m", _MODULE + "deepctr"), 7, library=True),
    Contender(
        "deepctr-torch-no-l2",
        "DeepCTR-Torch PLE, tables without its L2",
        (str(PEERS_PYTHON), "-m", _MODULE + "deepctr"),
        6,
        library=True,
        extra_arguments=("0",),
    ),
)
_PRECISIONS = {
    "fp32": "all in fp32",
    "bf16": "all in bf16, the others under torch.autocast",
    "auto": "ours by precision = auto, the others in fp32",
}
_DEFAULT = ("ours", "usual", "torch-rechub", "deepctr-torch")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if a contender failed."""
    args = _parser().parse_args(argv)
    plan = RacePlan(args.turns, args.steps, args.seconds)
    contenders = [contender for contender in CONTENDERS if contender.name in args.contenders]
    try:
        _check(contenders)
        conditions_before = conditions(args)
        raced: dict[int, list[ContenderResult]] = {}
        for users in args.users:
            _say(f"{short_number(users)} users: preparing data")
            work = prepare(args.data / str(users), users, args.threads, args.precision)
            _say(f"{short_number(users)} users: tables of {gib_text(work.table_bytes, 2)}, {work.threads} threads each")
            raced[users] = race(contenders, work, plan, ROOT, _say)
        values = ratios(raced)
    except PleRecError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if args.json:
        args.json.write_text(json.dumps(result_record(raced, values, conditions_before), indent=1), encoding="utf-8")
    print(f"\n{conditions_before['machine']}")
    print(f"matrix products: {_PRECISIONS[args.precision]}")
    print(table(raced))
    for line in not_measured_lines(raced):
        print(line)
    print("ratios: ours over the best of the others, medians; of two modes of one library the faster one counts")
    print(ratio_lines(values))
    return int(any(result.failed for results in raced.values() for result in results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench-peers", description=__doc__.partition("\n")[0] if __doc__ else "")
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument(
        "--users",
        type=int,
        nargs="+",
        default=[100_000, 5_000_000],
        metavar="N",
        help=f"rows of the user table; default: 100000 5000000; full size is {FULL_USERS}",
    )
    parser.add_argument(
        "--turns", type=int, default=5, metavar="N", help="measured turns of each contender; default: 5"
    )
    parser.add_argument(
        "--steps", type=int, default=10, metavar="N", help="largest number of steps of a turn; default: 10"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="duration of a turn, which has at least one step; default: 5",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=names,
        default=list(_DEFAULT),
        metavar="NAME",
        help=f"contenders to measure, of {', '.join(names)}",
    )
    parser.add_argument(
        "--precision",
        choices=list(_PRECISIONS),
        default="fp32",
        metavar="P",
        help=f"of matrix products; default: fp32; {'; '.join(f'{name}: {text}' for name, text in _PRECISIONS.items())}",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of each contender; default: one per usable core"
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data" / "bench-peers", metavar="DIR", help="default: data/bench-peers"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every rate there")
    return parser


def _check(contenders: Sequence[Contender]) -> None:
    """Check that the environment of the libraries exists, before the data is written, which takes minutes.

    Raises:
        UserError: The environment of the libraries does not exist.
    """
    if any(contender.library for contender in contenders) and not PEERS_PYTHON.exists():
        raise UserError(
            str(PEERS_PYTHON.relative_to(ROOT)),
            "not there",
            "the libraries have an environment of their own",
            "run `make bench-peers`, or `sh benchmarks/peers/setup.sh` once",
        )


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
