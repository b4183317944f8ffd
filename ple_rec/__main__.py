"""`python -m ple_rec`."""

from ple_rec.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
