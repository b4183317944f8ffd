"""Entry point of `python -m ple_rec` and of the console script `ple-rec`."""

from typing import NoReturn

from ple_rec.cli import main
from ple_rec.runtime.exits import end_process


def run() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    end_process(main())


if __name__ == "__main__":
    run()
