"""A real MLflow tracking server (REST over HTTP, SQLite, artifacts through the server), as a process of its own.

Full MLflow does not install beside the pinned pyarrow, and with it its command line; the server's application is in the
client's package, and werkzeug serves it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class Server:
    """A server on a free port of this host, which it keeps over restarts, as it does its data.

    Args:
        folder: Of its database, its artifacts and the number of seconds that an answer takes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.process: subprocess.Popen[str] | None = None
        self.slow(0.0)
        self.start()

    @property
    def uri(self) -> str:
        """What clients are told."""
        return f"http://127.0.0.1:{self.port}"

    def slow(self, seconds: float) -> None:
        """Let every answer take so long."""
        (self.folder / "delay").write_text(str(seconds))

    def start(self) -> None:
        """Return once it answers."""
        command = [sys.executable, __file__, str(self.folder), str(self.port)]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("port "), (self.folder / "log").read_text()
        self.port = int(line.split()[1])

    def kill(self) -> None:
        """As a crash would."""
        assert self.process is not None
        with self.process as process:
            process.kill()


def _serve(folder: Path, port: int) -> None:
    os.environ |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    from mlflow.server import app
    from mlflow.server.handlers import initialize_backend_stores
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from werkzeug.serving import make_server

    # Of its fifty migrations each would wait for the disk; a killed process loses nothing by this.
    event.listen(Engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    initialize_backend_stores(f"sqlite:///{folder}/mlflow.db", None, "mlflow-artifacts:/")

    def slowly(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        time.sleep(float((folder / "delay").read_text()))
        answer: Iterable[bytes] = app.wsgi_app(environ, start_response)
        return answer

    server = make_server("127.0.0.1", port, slowly, threaded=True)
    sys.stdout.write(f"port {server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
