"""The process: loads, listens, answers until it is asked to stop, finishes what it took."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import uvicorn

from ple_rec.parallel.allocator import keep_pages
from ple_rec.parallel.host import default_threads
from ple_rec.serve.http import log
from ple_rec.serve.http.admission import Gate
from ple_rec.serve.http.app import application
from ple_rec.serve.http.batching import Batcher
from ple_rec.serve.http.binding import listen
from ple_rec.serve.http.metrics import Metrics
from ple_rec.serve.http.options import Options
from ple_rec.serve.http.reload import Named, Watcher, load

_POLL_SECONDS = 0.02
_IDLE_SECONDS = 10  # that a connection may stay open between requests
_LINGER_SECONDS = 5  # for clients that read their answers slowly
_SWITCH_SECONDS = 0.001  # that the thread of the model may keep the interpreter from the event loop


def serve(options: Options, bound: socket.socket) -> int:
    """Answer until SIGTERM or SIGINT; the exit code.

    Args:
        options: Options of the server.
        bound: Socket that has its address; it listens once the model is loaded.

    Raises:
        UserError: There is no model, or another process has begun to listen at the address.
        DataError: The model is not as it was exported.
    """
    log.configure()
    _allow_open_files()
    sys.setswitchinterval(_SWITCH_SECONDS)
    keep_pages()
    threads = options.threads or default_threads()
    version = Named.by(options.model_dir)  # once: it may name another while this one is loaded
    ranker = load(version.path, threads)
    gc.freeze()  # a full collection would look at every object of the imports: hundreds of milliseconds, in a request
    metrics = Metrics()
    batcher = Batcher(ranker, options.max_batch_rows, metrics)
    watcher = Watcher(options.model_dir, version, batcher, threads, options.watch_seconds, metrics)
    gate = application(batcher, options, metrics)
    server = Server(gate, options, watcher.look)
    listen(bound)
    watcher.start()
    host, port = bound.getsockname()[:2]
    sys.stdout.write(f"{ranker.name} {ranker.version} at http://{f'[{host}]' if ':' in host else host}:{port}\n")
    sys.stdout.flush()
    server.run(sockets=[bound])
    watcher.stop()
    log.say("stopped")
    return 0


def _allow_open_files() -> None:
    """Raise the limit of open files, of which each connection is one, as far as this user may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Server(uvicorn.Server):
    """Uvicorn, with signals of our own.

    Args:
        gate: The application.
        options: Of the server.
        reload: Called at SIGHUP.
    """

    def __init__(self, gate: Gate, options: Options, reload: Callable[[], None]) -> None:
        config = uvicorn.Config(
            gate,
            loop="uvloop",
            http="h11",  # which ignores an offer of another protocol (h2c), and bounds a head
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_LINGER_SECONDS,
        )
        super().__init__(config)
        self._gate, self._drain, self._reload = gate, options.drain, reload
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finishing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        self._loop = asyncio.get_running_loop()
        signal.signal(signal.SIGHUP, self._hang_up)
        await super().startup(sockets)
        if self._gate.stopping:  # since before there was a loop to tell
            self._finish()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop once, or, at the second signal, end."""
        if self._gate.stopping:
            _end(sig)
        self._gate.stopping = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._finish)

    def _hang_up(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._reload)

    def _finish(self) -> None:
        if self._finishing is not None:
            return
        log.say("stopping", taken=self._gate.taken)
        self._finishing = asyncio.ensure_future(self._until_finished())

    async def _until_finished(self) -> None:
        await asyncio.sleep(self._drain)
        while self._gate.taken:
            await asyncio.sleep(_POLL_SECONDS)
        self.should_exit = True


def _end(sig: int) -> NoReturn:
    os._exit(128 + sig)  # threads may be anywhere
