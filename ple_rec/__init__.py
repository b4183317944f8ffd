"""ple_rec: distributed training of multi-task recommenders on sparse embeddings."""

import os

__version__ = "0.1.0"

# Threads of OpenMP spin while they wait for one another, and take the cores from the one that they wait for where
# another program is busy too. libgomp reads this when torch is imported (docs/training.md#threads has the measurement).
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "1000"
