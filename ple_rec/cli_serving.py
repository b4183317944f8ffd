"""The verb that answers requests: what `serve` calls."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from ple_rec.cli_words import positive, size
from ple_rec.errors import UserError

_EPILOG = """\
examples:
  ple-rec serve models/tencent-ple
  ple-rec serve models/tencent-ple --port 0 --max-wait 0.05 --time-limit 0.5
  ple-rec serve models/tencent-ple --host 0.0.0.0 --token-file token

SIGTERM and Ctrl-C finish what was taken, a second one ends at once; SIGHUP looks for a new version at once.
docs/serve.md explains all of it.
"""


def add_serve(verb: argparse.ArgumentParser) -> None:
    """The arguments of `ple-rec serve`."""
    verb.description = (
        "Answer requests for ranked feeds over HTTP with a model that `ple-rec export` has written, and follow its\n"
        "`latest`: a new version is loaded while the old one answers."
    )
    verb.epilog, verb.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    add = verb.add_argument
    add("model_dir", type=Path, metavar="MODEL_DIR", help="folder that `ple-rec export` has written")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at; default 127.0.0.1: this machine alone")
    add("--port", type=_port, default=8000, metavar="N", help="0: any that is free, which is printed; default 8000")
    add("--token-file", type=Path, metavar="FILE", help="whose text every request brings: Authorization: Bearer TEXT")
    add("--no-token", action="store_true", help="let others in without a token, where --host is not loopback")
    add("--threads", type=positive, metavar="N", help="of the model; default: OMP_NUM_THREADS, else all cores")
    add(
        "--queue",
        type=positive,
        default=64,
        metavar="N",
        help="requests that are read, wait or are computed at most; more get 503; default 64",
    )
    add(
        "--max-wait",
        type=_seconds,
        default=0.15,
        metavar="SECONDS",
        help="503 too where those before a request are expected to take longer; default 0.15",
    )
    add(
        "--time-limit",
        type=_seconds,
        default=2.0,
        metavar="SECONDS",
        help="from a request's first line to its answer, else 504; default 2",
    )
    add("--max-bytes", type=size, default=4 << 20, metavar="SIZE", help="of a body; default 4MiB")
    add("--max-batch-rows", type=positive, default=1024, metavar="N", help="of one call of the model; default 1024")
    add(
        "--drain",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="go on answering 503 for so long once asked to stop, for a balancer to see /readyz; default 0",
    )
    add("--access-log", action="store_true", help="a line a request on standard error")


def serve(args: argparse.Namespace, need_torch: Callable[[], None]) -> int:
    """Run the verb; its exit code.

    Args:
        args: Arguments of the command line.
        need_torch: Imports torch or says what is missing; called once the address is known to be free.

    Raises:
        UserError: a flag is wrong, the address is taken, a package is missing, there is no model.
        DataError: the model is not as it was exported.
    """
    signal.signal(signal.SIGHUP, lambda *_: None)  # until the server has a model, and looks for a new one
    _need_packages()
    from ple_rec.serve.http.binding import bind
    from ple_rec.serve.http.options import ServerOptions, check_exposed, read_token

    if args.token_file is not None and args.no_token:
        rule = "the one asks for a token, the other for none"
        raise UserError("--token-file --no-token", "both given", rule, "choose one")
    token = None if args.token_file is None else read_token(args.token_file)
    check_exposed(args.host, token, args.no_token)
    bounds = ("no_token", "threads", "queue", "max_wait", "time_limit", "max_bytes", "max_batch_rows", "drain")
    given = {name: getattr(args, name) for name in ("host", "port", *bounds, "access_log")}
    with bind(args.host, args.port) as bound:
        need_torch()
        from ple_rec.serve.http.server import serve as serve_http

        return serve_http(ServerOptions(args.model_dir, token=token, **given), bound)


def _need_packages() -> None:
    for name in ("fastapi", "h11", "orjson", "prometheus_client", "uvicorn", "uvloop"):
        if find_spec(name) is None:
            raise UserError(name, "is not installed", "ple-rec serve needs it", "pip install '.[serve]'")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a port, 0 to 65535; 0 is any that is free")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected seconds, 0 to 3600")
    return value
