"""Main module of the process in which `ple_rec.api.ranks` runs the command line `ple-rec train --ranks N`.

The process ends when its parent has died, so that no ranks outlive a killed notebook.
"""

from __future__ import annotations

import sys

from ple_rec.cli.app import main
from ple_rec.runtime.exits import end_process, stop_with_parent

if __name__ == "__main__":
    stop_with_parent()
    end_process(main(sys.argv[1:]))
