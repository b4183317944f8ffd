"""`ple-rec doctor`."""

from __future__ import annotations

from ple_rec.cli.options import verb
from ple_rec.runtime.doctor import run

app = verb("doctor")


@app.default
def doctor() -> int:
    """Check this machine: versions that fit, kernels, devices, speed."""
    return run()
