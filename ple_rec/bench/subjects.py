"""What `ple-rec bench` can measure: each subject with its arguments. What it needs is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ple_rec.cli_words import positive, size


@dataclass(frozen=True)
class Subject:
    """One subject.

    Args:
        help: One line.
        description: What is measured, and how.
        arguments: Adds its flags.
        run: Measures and prints; gives the exit code.
        torch: Whether it needs torch.
    """

    help: str
    description: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    torch: bool = True


def _loader_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="a dataset directory; default: a synthetic one")
    parser.add_argument(
        "--rows", type=positive, default=1 << 21, metavar="N", help="of the synthetic dataset; default 2 M"
    )
    parser.add_argument("--batch-size", type=positive, default=4096, metavar="N", help="samples a step; default 4096")
    parser.add_argument("--shards", type=positive, default=16, metavar="V", help="virtual shards; default 16")
    add_common(parser)


def _loader(args: argparse.Namespace) -> int:
    from ple_rec.bench.loader import run

    return run(args)


def _prep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=positive, default=2_000_000, metavar="N", help="raw rows; default 2 M")
    parser.add_argument("--memory", type=size, default=8 << 30, metavar="SIZE", help="for each way; default 8GiB")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: all cores")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for logs and results; default: the temporary folder")
    add_common(parser)


def _prep(args: argparse.Namespace) -> int:
    from ple_rec.bench.prep import run

    return run(args)


def _tables_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rows",
        type=positive,
        nargs="+",
        metavar="N",
        help="rows of the users' table, one size each; default: 100000 1000000 10000000 46926000",
    )
    parser.add_argument("--dim", type=positive, metavar="D", help="of every table, a multiple of 4; default 16")
    parser.add_argument("--ranks", type=positive, metavar="N", help="processes on this host; default 2")
    parser.add_argument(
        "--batch-size", type=positive, default=4096, metavar="N", help="samples a step and rank; default 4096"
    )
    parser.add_argument("--steps", type=positive, default=10, metavar="N", help="steps of a turn; default 10")
    parser.add_argument("--warm-up", type=positive, default=20, metavar="N", help="steps before them; default 20")
    add_common(parser, repeats=12)


def _tables(args: argparse.Namespace) -> int:
    from ple_rec.bench.tables import run

    return run(args)


def _dense_arguments(parser: argparse.ArgumentParser) -> None:
    _add_step(parser, "of a turn; default 6")
    parser.set_defaults(steps=6)
    add_common(parser, repeats=7)


def _dense(args: argparse.Namespace) -> int:
    from ple_rec.bench.dense import run

    return run(args)


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--users",
        type=positive,
        nargs="+",
        metavar="N",
        help="rows of the users' table, a run each, of which the others are told as shares of the first; default "
        "100000, and for example: 100000 5000000 46926000",
    )
    parser.add_argument(
        "--ranks",
        type=positive,
        metavar="N",
        help="of the last run, which share the threads; 1: no such run; default: a rank a thread",
    )
    _add_step(parser, "of a turn of training that count; half as many of the dense part; default 8")
    parser.add_argument("--warm-up", type=positive, default=5, metavar="N", help="steps before them; default 5")
    parser.set_defaults(steps=8)
    add_common(parser, repeats=5)


def _train(args: argparse.Namespace) -> int:
    from ple_rec.bench.train import run

    return run(args)


def _requests_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--impressions",
        type=positive,
        nargs="+",
        default=[1, 4, 16, 64],
        metavar="N",
        help="of a request, a dataset each; default 1 4 16 64",
    )
    _add_step(parser, "of training in a turn, and twice as many batches of prediction; default 1")
    parser.set_defaults(steps=1)
    add_common(parser, repeats=9)


def _requests(args: argparse.Namespace) -> int:
    from ple_rec.bench.requests import run

    return run(args)


def _add_step(parser: argparse.ArgumentParser, steps: str) -> None:
    """The flags of the reference step."""
    parser.add_argument("--threads", type=positive, metavar="N", help="default: all cores")
    parser.add_argument(
        "--batch-size", type=positive, default=4096, metavar="N", help="samples a step and rank; default 4096"
    )
    parser.add_argument("--precision", metavar="P", help="train.precision; default: of the recipe bench-feed")
    parser.add_argument("--steps", type=positive, metavar="N", help=steps)


def _all_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, metavar="N", help="of prep, dense and train; default: all cores")
    _add_output(parser)


def _all(args: argparse.Namespace) -> int:
    from ple_rec.bench.every import run

    return run(args)


def _gpu_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the parts that need no GPU, as a trial of them"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu-smoke"), metavar="DIR", help="for the page; default runs/gpu-smoke"
    )
    parser.add_argument("--seconds", type=positive, default=570, metavar="S", help="for all parts; default 570")
    parser.add_argument("--rows", type=positive, default=2_000_000, metavar="N", help="of the dataset; default 2 M")
    parser.add_argument("--steps", type=positive, default=100, metavar="N", help="of each training; default 100")
    parser.add_argument(
        "--batch-size", type=positive, default=16384, metavar="N", help="samples a step; default 16,384"
    )


def _gpu(args: argparse.Namespace) -> int:
    from ple_rec.bench.gpu import run

    return run(args)


def _checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rows", type=positive, default=10_000_000, metavar="N", help="of the users' table; default 10 M")
    add("--dim", type=positive, default=16, metavar="D", help="of every table, a multiple of 4; default 16")
    add("--ranks", type=positive, default=2, metavar="N", help="processes on this host; default 2")
    add("--batch-size", type=positive, default=4096, metavar="N", help="samples a step and rank; default 4096")
    add("--work", metavar="DIR", help="of the checkpoints, s3://... too; default: the temporary folder")
    add_common(parser, repeats=5)


def _checkpoint(args: argparse.Namespace) -> int:
    from ple_rec.bench.checkpoint import run

    return run(args)


def _fuse_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--impressions", type=positive, default=100_000, metavar="N", help="rows; default 100,000")
    add("--list-rows", type=positive, default=20, metavar="N", help="of a list, on average; default 20")
    add("--settings", type=positive, default=256, metavar="N", help="of a turn; default 256")
    add("--threads", type=positive, metavar="N", help="default: all cores")
    add_common(parser, repeats=5)


def _fuse(args: argparse.Namespace) -> int:
    from ple_rec.bench.fuse import run

    return run(args)


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--users", type=positive, default=100_000, metavar="N", help="rows of the users' table; default 100,000")
    add("--items", type=positive, default=500, metavar="N", help="of a request; default 500")
    add("--clients", type=positive, default=4, metavar="N", help="that keep the server full; default 4")
    add("--seconds", type=positive, default=8, metavar="S", help="of each load; default 8")
    add("--form", choices=["columns", "rows"], default="columns", help="of our server's requests; default columns")
    dense = "precision of matrix products; default auto: bf16 where this machine is clearly faster in it, else fp32"
    add("--dense", choices=["fp32", "bf16", "auto"], default="auto", help=dense)
    add_common(parser)


def _serve(args: argparse.Namespace) -> int:
    from ple_rec.bench.serve import run

    return run(args)


def add_common(parser: argparse.ArgumentParser, repeats: int = 3) -> None:
    """The flags of every subject."""
    parser.add_argument(
        "--repeats", type=positive, default=repeats, metavar="N", help=f"passes that count; default {repeats}"
    )
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    """How results are told."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="an earlier result, as --json printed it: its values beside these, and whether they differ by more than "
        "the repeats do",
    )


SUBJECTS: dict[str, Subject] = {
    "gpu": Subject(
        help="what a GPU shows in ten minutes: doctor, tests, UVM caching, trainings; one page of results",
        description="Run, each as a process with a time limit: doctor; the tests marked gpu (in a clone of the "
        "repository): kernels, one rank beside a CPU, tables in the host's memory, pipelines, several GPUs; and "
        "trainings of two-level PLE on tencent-synthetic, timed by their own reports. A part that fails stops no "
        "other. The page, with the output of what failed, is DIR/page.md. Exit code 5 where a part has failed.",
        arguments=_gpu_arguments,
        run=_gpu,
    ),
    "loader": Subject(
        help="rows per second of reading batches, beside torch's DataLoader and beside plain pyarrow",
        description="Read the training split of a dataset with the loader of training, with torch's DataLoader, and "
        "with pyarrow alone, which is the limit. Each way has a process of its own, pinned to one core (with the "
        "loader's prefetch thread) unless the table says otherwise; they take turns, after a warm-up pass each.",
        arguments=_loader_arguments,
        run=_loader,
    ),
    "prep": Subject(
        help="rows per second and memory of preparing raw logs, beside the bare DuckDB query",
        description="Write raw feed logs, .78 distinct users and .045 distinct videos a row, then prepare them, and "
        "run the DuckDB query that counts, joins and writes the same columns without checks, splits, order or "
        "statistics, which is the limit. They take turns, each in a process of its own with all cores.",
        arguments=_prep_arguments,
        run=_prep,
        torch=False,
    ),
    "tables": Subject(
        help="memory, start-up and step time of training on sharded tables, from 1e5 rows to 46.9 M",
        description="Train PLE on tencent-synthetic, its tables row-wise sharded with row-wise Adagrad, by ranks that "
        "torchrun starts on the CPU. The tables have all rows of a world of so many users; of its impressions only as "
        "many are written as the steps read, from blocks spread over the days. The ranks of all sizes are in memory "
        "and take turns of a few steps, --repeats times. Start-up is the time from the launcher's start to the end of "
        "the first step; a step's time has the wait for its batch in it, and is that of the slower rank; `CPU ms` is "
        "its processor time, which other programs slow down less; peak memory is resident. Warm-up steps, which touch "
        "pages for the first time, and the first five of a turn do not count. `tables alone` is forward and backward "
        "of the tables, with their update. Without --rows, --dim and --ranks, dim 64 on one rank follows, where "
        "memory allows. A claim that does not hold is told; it is no error.",
        arguments=_tables_arguments,
        run=_tables,
    ),
    "dense": Subject(
        help="FLOP/s of the dense part of the reference step, beside the fastest matrix product",
        description="Time forward, backward and optimizer of the dense part of the recipe bench-feed on random inputs, "
        "in the process, with the optimizers and the precision of training; the tables have no part in it. In the same "
        "process take turns with it, as the limit, matrix products by torch.mm(out=) in the precision that the model "
        "uses, of which the fastest shape counts. The FLOPs of the dense part are those of its matrix products, three "
        "times the forward pass. dense_peak_fraction is the median over the turns of its speed by that of the product "
        "beside it; dense_best_fraction is the best turn by the best product. Copied bytes count twice, read and "
        "written.",
        arguments=_dense_arguments,
        run=_dense,
    ),
    "train": Subject(
        help="samples per second of the reference step from Parquet on, beside its dense part and other numbers of "
        "ranks and rows",
        description="Train the recipe bench-feed on tencent-synthetic, from Parquet, with metrics, log and "
        "TensorBoard, by the loop of `ple-rec train` as it is; checkpoints and evaluations stay out of "
        "the time of its steps. Runs of one rank with all threads, one of each size of the users' table, "
        "and of --ranks ranks that share the threads, are in memory together and take turns; the first "
        "five steps of a turn do not count, as batches were read ahead while a run waited. Between the "
        "turns of the first run its process times the dense part alone as `bench dense` does, the "
        "evaluation of a validation split, and the fastest matrix product. beside_dense_share is 1 - "
        "dense step / training step; ratio_ranks and flat_N are rates by that of the first run, the same "
        "turn of both. start_seconds is from the start of a process of one rank to the end of its first "
        "step. Memory beside tables is the most resident memory of a rank in training less its tables and "
        "their optimizer's state. The limit is the product: the samples a second of which the dense part "
        "would take all of it.",
        arguments=_train_arguments,
        run=_train,
    ),
    "requests": Subject(
        help="what it brings to look up and to multiply once per request what its samples share",
        description="Train the recipe bench-feed on a slice of tencent-synthetic, and predict with it, once with "
        "data.request_features and once without, by turns in one process. In the dataset of N impressions a request, "
        "each N rows after one another have 14 sparse and 3 dense features (227 of 392 inputs) in common. Both ways "
        "have the same batches, which are read before the turns; a step is look-up, forward, backward and both "
        "optimizers, a prediction look-up and forward. A ratio is the rate with request features by that without, in "
        "turns beside each other; `of CPU s` is that of the samples a second of processor time, which other programs "
        "slow down less.",
        arguments=_requests_arguments,
        run=_requests,
    ),
    "all": Subject(
        help="loader, prep, tables, dense and train at small sizes, in some seven minutes on two cores",
        description="Run the subjects loader, prep, tables, dense and train, each as a process of its own, at sizes "
        "that take some seven minutes on two cores together. A line a subject: what it measured, the limit of the same "
        "run, and peak memory; then their final lines, the subject's name before them. Exit code 5 where one failed.",
        arguments=_all_arguments,
        run=_all,
    ),
    "checkpoint": Subject(
        help="for how long a save stops training, and how much slower steps are beside an asynchronous one",
        description="Train PLE on tencent-synthetic by ranks that torchrun starts on the CPU, and save the run, its "
        "weights and both optimizers, by turns synchronously and asynchronously, --repeats times each after one of "
        "each that does not count. Blocked is the time from the end of a step to the start of the next one, the check "
        "of all weights in it; slowdown is the median step while an asynchronous save is written, by that of steps "
        "beside none.",
        arguments=_checkpoint_arguments,
        run=_checkpoint,
    ),
    "fuse": Subject(
        help="settings of the exponents that `ple-rec fuse` evaluates in a second",
        description="Order made-up impressions in lists under many settings of five exponents, and compute a metric of "
        "each: all settings of a turn together, as the search does, some one by one, and, as the limit, the order "
        "alone. They take turns in one process, after one of each that does not count.",
        arguments=_fuse_arguments,
        run=_fuse,
        torch=False,
    ),
    "serve": Subject(
        help="requests that `ple-rec serve` answers, and how fast, beside `predict` and the usual server",
        description="Export the reference PLE, serve it, and rank the items of requests over real sockets, asked by a "
        "process of its own: full load by clients that ask one request after the other, then half of that rate at "
        "random moments, then five times the full rate. `ple-rec predict` and a plain torch + FastAPI server take "
        "turns with it.",
        arguments=_serve_arguments,
        run=_serve,
    ),
}
