"""Options of `ple-rec serve`, and checks of those that decide who may send requests (token and address)."""

from __future__ import annotations

import ipaddress
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path

from ple_rec.errors import UserError
from ple_rec.storage import Location

# Default of `ServerOptions.rates_max_age`: rates are a day old until the new table of the night is published.
RATES_MAX_AGE = 1


@dataclass(frozen=True)
class ServerOptions:
    """Options of one server.

    Args:
        model_dir: Folder that `ple-rec export` writes; its `latest` names the version to serve.
        host: Address to bind.
        port: Port to bind; 0 for any that is free.
        token: Token that every request needs, except for health probes and the files of the server's web page; None for
            no token.
        no_token: True to serve without a token even on an address that other machines reach; the Host of a request is
            then not checked.
        threads: Number of threads of the model; None for `OMP_NUM_THREADS`, or else all usable cores.
        queue: Largest number of requests that are being read, wait or are being scored; further requests are refused.
        max_wait: Largest expected number of seconds until the model has answered the waiting requests; if it is
            exceeded, a new request is refused.
        time_limit: Largest number of seconds from the head of a request to its answer.
        max_bytes: Largest number of bytes of a body.
        max_batch_rows: Largest number of rows of one call of the model, unless a single request has more.
        drain: Seconds for which the server answers with status 503 after a stop signal, so that a load balancer can
            remove it.
        rates_max_age: Largest age in days of the rates of a side table; the server warns of older ones. The age is the
            number of days since the day for whose rows they hold, 0 on that day.
        access_log: True to log a line for every request.
        watch_seconds: Seconds between two checks of `latest`.
    """

    model_dir: Location
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    no_token: bool = False
    threads: int | None = None
    queue: int = 64
    max_wait: float = 0.15
    time_limit: float = 2.0
    max_bytes: int = 4 << 20
    max_batch_rows: int = 1024
    drain: float = 0.0
    rates_max_age: int = RATES_MAX_AGE
    access_log: bool = False
    watch_seconds: float = 1.0

    @property
    def checks_host(self) -> bool:
        """True if requests must have a name of this machine as Host.

        Without this check and without a token, a page of another site, in a browser on this machine, could read answers
        by DNS rebinding: its own host name would resolve to 127.0.0.1.
        """
        return self.token is None and not self.no_token


def read_token(file: Path) -> str:
    """Return the token of a file: its text without white space around it.

    Raises:
        UserError: The file is missing or unreadable, or its text is no valid token.
    """
    # The command is only suggested if the file is missing or empty, so that it overwrites nothing.
    make = f"openssl rand -hex 32 > {shlex.quote(str(file))}"
    try:
        token = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise UserError("--token-file", f"{file} does not exist", "it holds the token as text", make) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "--token-file", f"{file} cannot be read", "it holds the token as text", "give a readable text file"
        ) from error
    rule = "a token is one word of 16 ASCII characters or more"
    if not token:
        raise UserError("--token-file", f"{file} is empty", rule, make)
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        fix = "give a file that holds one word of 16 characters or more, and nothing else"
        raise UserError("--token-file", f"{file} holds no valid token", rule, fix)
    return token


def refuse_open_address(host: str, token: str | None, no_token: bool) -> None:
    """Refuse an address that other machines reach if requests need no token.

    Args:
        host: Address to bind.
        token: Token of requests; None for no token.
        no_token: True to allow such an address anyway.

    Raises:
        UserError: Other machines reach the address, and there is neither a token nor `no_token`; or the name of the
            address cannot be resolved.
    """
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise UserError("--host", f'got "{host}"', "it must be an address of this machine", "e.g. 127.0.0.1") from error
    if token is None and not no_token and not all(ipaddress.ip_address(each).is_loopback for each in addresses):
        rule = "other machines reach this address, and without a token anyone may send requests"
        raise UserError("--host", f'got "{host}"', rule, "give --token-file FILE, or --no-token to allow that")
