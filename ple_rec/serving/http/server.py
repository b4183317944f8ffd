"""Process of a server: it loads the model, listens, and answers until a signal stops it.

`ple-rec serve` calls `serve` with a socket that `bind` has bound; it returns the exit code.
"""

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
from starlette.types import ASGIApp

from ple_rec.runtime.host import default_threads, keep_pages
from ple_rec.serving.http.admission import Admission
from ple_rec.serving.http.app import application
from ple_rec.serving.http.batching import Batcher
from ple_rec.serving.http.binding import listen
from ple_rec.serving.http.metrics import ServerMetrics, configure_log, log_info
from ple_rec.serving.http.options import ServerOptions
from ple_rec.serving.http.reload import VersionStamp, VersionWatcher, load
from ple_rec.serving.http.table_reload import TableLoader

# Time between two checks of a stopping server whether all admitted requests have an answer.
_POLL_SECONDS = 0.02
# Time after which an open connection without requests is closed.
_IDLE_SECONDS = 10
# Time for which a stopping server waits for clients that read their answers slowly.
_LINGER_SECONDS = 5
# Time for which the thread of the model may keep the interpreter's lock while the event loop waits for it.
_SWITCH_SECONDS = 0.001


def serve(options: ServerOptions, listener: socket.socket) -> int:
    """Load the model, answer requests until SIGTERM or SIGINT, and return the exit code 0.

    Args:
        options: Options of the server.
        listener: Socket that is bound to the address; it listens once the model is loaded.

    Raises:
        UserError: There is no model, it cannot be read, or another process listens at the address.
        DataError: A file of the model has changed since the export, or its files do not fit each other.
    """
    configure_log()
    _allow_open_files()
    sys.setswitchinterval(_SWITCH_SECONDS)
    keep_pages()
    threads = options.threads or default_threads()
    # The stamp is read before the version is loaded, so that the watcher notices if `latest` changes meanwhile.
    version = VersionStamp.of_latest(options.model_dir)
    metrics = ServerMetrics()
    tables = TableLoader(options.model_dir, metrics, options.rates_max_age)
    ranker = tables.attach(load(version.path, threads), must_load=True)
    # Otherwise a garbage collection would visit all objects of the imports, and delay a request by hundreds of ms.
    gc.freeze()
    batcher = Batcher(ranker, options.max_batch_rows, metrics)
    watcher = VersionWatcher(options.model_dir, version, batcher, threads, options.watch_seconds, metrics, tables)
    admission = Admission(options, lambda: batcher.seconds_per_request)
    server = Server(application(batcher, admission, options, metrics), admission, options, watcher.check_now)
    listen(listener)
    watcher.start()
    host, port = listener.getsockname()[:2]
    sys.stdout.write(f"{ranker.name} {ranker.version} at http://{f'[{host}]' if ':' in host else host}:{port}\n")
    sys.stdout.flush()
    server.run(sockets=[listener])
    watcher.stop()
    log_info("stopped")
    return 0


def _allow_open_files() -> None:
    """Raise the limit of open files to the largest that this user may set, since each connection is a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Server(uvicorn.Server):
    """Uvicorn server that answers all admitted requests before it stops at SIGTERM or SIGINT, and reloads at SIGHUP.

    Args:
        app: ASGI application of the server.
        admission: Admission of requests to the model, which refuses all of them if the server stops.
        options: Options of the server.
        reload: Function that is called at SIGHUP; it checks for a new version of the model.
    """

    def __init__(self, app: ASGIApp, admission: Admission, options: ServerOptions, reload: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            # h11 ignores upgrades to another protocol (h2c), and limits the size of a request's head.
            http="h11",
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
        self._admission, self._drain, self._reload = admission, options.drain, reload
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finishing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer requests, and handle SIGHUP."""
        self._loop = asyncio.get_running_loop()
        signal.signal(signal.SIGHUP, self._handle_hang_up)
        await super().startup(sockets)
        # A signal may have stopped the server before the event loop existed.
        if self._admission.stopping:
            self._finish()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Admit no more requests, answer the admitted ones and stop; at a second signal, end the process at once."""
        if self._admission.stopping:
            _exit_at_once(sig)
        self._admission.stopping = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._finish)

    def _handle_hang_up(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._reload)

    def _finish(self) -> None:
        if self._finishing is not None:
            return
        log_info("stopping", taken=self._admission.admitted)
        self._finishing = asyncio.ensure_future(self._until_finished())

    async def _until_finished(self) -> None:
        # For `drain` seconds new requests still get status 503, so that a load balancer can remove the server.
        await asyncio.sleep(self._drain)
        while self._admission.admitted:
            await asyncio.sleep(_POLL_SECONDS)
        self.should_exit = True


def _exit_at_once(sig: int) -> NoReturn:
    # A normal exit could wait for threads that are in a call of the model.
    os._exit(128 + sig)
