"""moto's S3 alone, as a process: `python s3_server.py PORT`.

`python -m moto.server` looks at every service of AWS on each request, and writes a line about it; that is half of its
CPU time. A POST to `/moto-api/reset` removes all buckets.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


def main() -> None:
    s3, control = create_backend_app("s3"), create_backend_app("moto_api")

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        app = control if environ["PATH_INFO"].startswith("/moto-api/") else s3
        return app(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", int(sys.argv[1]), answer, threaded=True, request_handler=MotoRequestHandler)
    server.serve_forever()


if __name__ == "__main__":
    main()
