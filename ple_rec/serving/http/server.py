"""Process of a server: it loads the model, listens, and answers until a signal stops it."""

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

_POLL_SECONDS = 0.02
# A connection may stay open this long between two requests.
_IDLE_SECONDS = 10
# A stopping server waits this long for clients that read their answers slowly.
_LINGER_SECONDS = 5
# The thread of the model may keep the interpreter's lock this long while the event loop waits for it.
_SWITCH_SECONDS = 0.001


def serve(options: ServerOptions, listener: socket.socket) -> int:
    """Answer requests until SIGTERM or SIGINT, and return the exit code.

    Args:
        options: Options of the server.
        listener: Socket that is bound to the address; it listens once the model is loaded.

    Raises:
        UserError: There is no model, or another process listens at the address.
        DataError: A file of the model has changed since the export.
    """
    configure_log()
    _allow_open_files()
    sys.setswitchinterval(_SWITCH_SECONDS)
    keep_pages()
    threads = options.threads or default_threads()
    # The stamp is taken before loading, so the watcher notices a change of `latest` in the meantime.
    version = VersionStamp.of_latest(options.model_dir)
    ranker = load(version.path, threads)
    # A full garbage collection would visit all objects of the imports, and delay a request by hundreds of milliseconds.
    gc.freeze()
    metrics = ServerMetrics()
    batcher = Batcher(ranker, options.max_batch_rows, metrics)
    watcher = VersionWatcher(options.model_dir, version, batcher, threads, options.watch_seconds, metrics)
    admission = Admission(options, lambda: batcher.seconds_per_request)
    server = Server(application(batcher, admission, options, metrics), admission, options, watcher.look_now)
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
    """Uvicorn server that handles signals in its own way.

    Args:
        app: ASGI application of the server.
        admission: Admission of requests of the model, which refuses them all once the server stops.
        options: Options of the server.
        reload: Function that is called at SIGHUP.
    """

    def __init__(self, app: ASGIApp, admission: Admission, options: ServerOptions, reload: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            # h11 ignores offers of another protocol (h2c), and limits the size of a head.
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
        """Start to answer."""
        self._loop = asyncio.get_running_loop()
        signal.signal(signal.SIGHUP, self._hang_up)
        await super().startup(sockets)
        # A stop signal may have come before the event loop existed.
        if self._admission.stopping:
            self._finish()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish admitted requests and stop; at a second signal, end the process at once."""
        if self._admission.stopping:
            _end(sig)
        self._admission.stopping = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._finish)

    def _hang_up(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._reload)

    def _finish(self) -> None:
        if self._finishing is not None:
            return
        log_info("stopping", taken=self._admission.admitted)
        self._finishing = asyncio.ensure_future(self._until_finished())

    async def _until_finished(self) -> None:
        await asyncio.sleep(self._drain)
        while self._admission.admitted:
            await asyncio.sleep(_POLL_SECONDS)
        self.should_exit = True


def _end(sig: int) -> NoReturn:
    # Other threads may be in the middle of a call, so a normal exit could wait for them.
    os._exit(128 + sig)
