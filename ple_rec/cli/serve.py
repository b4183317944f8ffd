"""`ple-rec serve`: flags and input checks; `ple_rec.serving.http` is the HTTP server."""

from __future__ import annotations

import signal
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ple_rec.cli.console import require_packages, require_torch
from ple_rec.cli.options import byte_size, flag, local_path, location_flag, non_negative_int, positive_int, verb_app
from ple_rec.errors import UserError
from ple_rec.storage import Location

_PACKAGES = ("fastapi", "h11", "orjson", "prometheus_client", "uvicorn", "uvloop")

app = verb_app(
    "serve",
    """\
examples:
  ple-rec serve models/tencent-ple
  ple-rec serve models/tencent-ple --port 0 --max-wait 0.05 --time-limit 0.5
  ple-rec serve models/tencent-ple --host 0.0.0.0 --token-file token

SIGTERM and Ctrl-C end the server when accepted requests are answered; a second signal ends it at once. SIGHUP looks for
a new version at once.
docs/serve.md explains all of it.
""",
)


def _parse_port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"got {text!r}; expected a port, 0 to 65535; 0 for any free port")
    return int(text)


def _parse_seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise ValueError(f"got {text!r}; expected seconds, 0 to 3600")
    return value


@Parameter(name="*")
@dataclass(frozen=True)
class ServeFlags:
    """Flags of `ple-rec serve`."""

    _: KW_ONLY
    host: Annotated[str, flag("address to listen at; default 127.0.0.1: this machine alone", "ADDRESS")] = "127.0.0.1"
    port: Annotated[int, flag("port; 0: any free one, which is printed; default 8000", "N", _parse_port)] = 8000
    token_file: Annotated[
        Path | None,
        flag("file with the token that every request needs: Authorization: Bearer TOKEN", "FILE", local_path),
    ] = None
    no_token: Annotated[bool, flag("accept requests without a token although --host is not loopback")] = False
    threads: Annotated[
        int | None, flag("threads of the model; default: OMP_NUM_THREADS, else all cores", "N", positive_int)
    ] = None
    queue: Annotated[
        int, flag("most requests that wait or are computed at a time; more get 503; default 64", "N", positive_int)
    ] = 64
    max_wait: Annotated[
        float,
        flag("longest expected wait of a request, else 503; default 0.15", "SECONDS", _parse_seconds),
    ] = 0.15
    time_limit: Annotated[
        float,
        flag(
            "longest time from the first line of a request to its answer, else 504; default 2",
            "SECONDS",
            _parse_seconds,
        ),
    ] = 2.0
    max_bytes: Annotated[int, flag("largest size of a body; default 4MiB", "SIZE", byte_size)] = 4 << 20
    max_batch_rows: Annotated[int, flag("most rows of one call of the model; default 1024", "N", positive_int)] = 1024
    drain: Annotated[
        float,
        flag(
            "time after a stop signal in which all new requests, /readyz too, get 503 for a load balancer to notice; "
            "default 0",
            "SECONDS",
            _parse_seconds,
        ),
    ] = 0.0
    rates_max_age: Annotated[
        int,
        flag("largest age of rates by key; the server warns of older ones; default 1", "DAYS", non_negative_int),
    ] = 1
    access_log: Annotated[bool, flag("print a line for each request on standard error")] = False


@app.default
def serve(
    model_dir: Annotated[Location, location_flag("folder or address of a model of `ple-rec export`", name="MODEL_DIR")],
    /,
    *,
    options: ServeFlags = ServeFlags(),
) -> int:
    """Serve ranked feeds over HTTP with a model of `ple-rec export`.

    The server follows `latest` in MODEL_DIR, which names the version to serve: it loads a new version while the old one
    answers.
    """
    signal.signal(signal.SIGHUP, lambda *_: None)  # By default, SIGHUP would end the process before there is a server.
    require_packages(_PACKAGES, verb="serve", extra="serve")
    from ple_rec.serving.http.binding import bind
    from ple_rec.serving.http.options import ServerOptions, read_token, refuse_open_address

    if options.token_file is not None and options.no_token:
        rule = "the one makes requests need a token, the other does not"
        raise UserError("--token-file --no-token", "both given", rule, "choose one")
    token = None if options.token_file is None else read_token(options.token_file)
    refuse_open_address(options.host, token, options.no_token)
    flags = {name: value for name, value in asdict(options).items() if name != "token_file"}
    # A port in use is reported before the slow import of torch.
    with bind(options.host, options.port) as listener:
        require_torch()
        from ple_rec.serving.http.server import serve as serve_http

        return serve_http(ServerOptions(model_dir, token=token, **flags), listener)
