"""Process that starts the ranks of `ple_rec.api.ranks`: `ple-rec`, which stops once its parent is gone."""

from __future__ import annotations

import sys

from ple_rec.cli.app import main
from ple_rec.runtime.exits import end_process, stop_with_parent

if __name__ == "__main__":
    stop_with_parent()
    end_process(main(sys.argv[1:]))
