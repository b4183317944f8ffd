"""`ple-rec doctor`: the verb for the checks of `ple_rec.runtime.doctor`."""

from __future__ import annotations

from ple_rec.cli.options import verb_app
from ple_rec.runtime.doctor import run

app = verb_app("doctor")


@app.default
def doctor() -> int:
    """Check this machine: versions that fit, kernels, devices, speed."""
    return run()
