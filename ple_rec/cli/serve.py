"""`ple-rec serve`."""

from __future__ import annotations

import signal
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ple_rec.cli.console import require_packages, require_torch
from ple_rec.cli.options import flag, local, place, positive, size, verb
from ple_rec.errors import UserError
from ple_rec.storage import Location

_PACKAGES = ("fastapi", "h11", "orjson", "prometheus_client", "uvicorn", "uvloop")

app = verb(
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


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"got {text!r}; expected a port, 0 to 65535; 0 is any that is free")
    return int(text)


def _seconds(text: str) -> float:
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
    port: Annotated[int, flag("port; 0: any free one, which is printed; default 8000", "N", _port)] = 8000
    token_file: Annotated[
        Path | None, flag("file with the token that every request needs: Authorization: Bearer TOKEN", "FILE", local)
    ] = None
    no_token: Annotated[bool, flag("accept requests without a token although --host is not loopback")] = False
    threads: Annotated[
        int | None, flag("threads of the model; default: OMP_NUM_THREADS, else all cores", "N", positive)
    ] = None
    queue: Annotated[int, flag("most requests in work at a time; more get 503; default 64", "N", positive)] = 64
    max_wait: Annotated[
        float,
        flag("longest expected wait of a request, else 503; default 0.15", "SECONDS", _seconds),
    ] = 0.15
    time_limit: Annotated[
        float,
        flag("longest time from the first line of a request to its answer, else 504; default 2", "SECONDS", _seconds),
    ] = 2.0
    max_bytes: Annotated[int, flag("largest size of a body; default 4MiB", "SIZE", size)] = 4 << 20
    max_batch_rows: Annotated[int, flag("most rows of one call of the model; default 1024", "N", positive)] = 1024
    drain: Annotated[
        float,
        flag(
            "time after a stop signal in which requests get 503, so that a load balancer sees /readyz; default 0",
            "SECONDS",
            _seconds,
        ),
    ] = 0.0
    access_log: Annotated[bool, flag("print a line for each request on standard error")] = False


@app.default
def serve(
    model_dir: Annotated[Location, place("folder or address of a model of `ple-rec export`", name="MODEL_DIR")],
    /,
    *,
    options: ServeFlags = ServeFlags(),
) -> int:
    """Serve ranked feeds over HTTP with a model of `ple-rec export`.

    The server follows the model's `latest`: it loads a new version while the old one answers.
    """
    signal.signal(signal.SIGHUP, lambda *_: None)  # The server handles it once it has a model.
    require_packages(_PACKAGES, "serve", "serve")
    from ple_rec.serving.http.binding import bind
    from ple_rec.serving.http.options import ServerOptions, check_exposed, read_token

    if options.token_file is not None and options.no_token:
        rule = "the one asks for a token, the other for none"
        raise UserError("--token-file --no-token", "both given", rule, "choose one")
    token = None if options.token_file is None else read_token(options.token_file)
    check_exposed(options.host, token, options.no_token)
    flags = {name: value for name, value in asdict(options).items() if name != "token_file"}
    with bind(options.host, options.port) as bound:
        require_torch()
        from ple_rec.serving.http.server import serve as serve_http

        return serve_http(ServerOptions(model_dir, token=token, **flags), bound)
