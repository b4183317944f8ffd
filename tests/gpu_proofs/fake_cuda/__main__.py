"""A process with a fake CUDA device: python -m tests.gpu_proofs.fake_cuda FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.gpu_proofs.fake_cuda.library import load

if __name__ == "__main__":
    # Torch is imported below, since the library has to be loaded before.
    load()
    from tests.gpu_proofs.fake_cuda.scenarios import main

    main(Path(sys.argv[1]))
