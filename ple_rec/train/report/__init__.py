"""The run's `report.html`: one self-contained page from the run directory's files. Needs no torch."""

from ple_rec.train.report.page import write_report

__all__ = ["write_report"]
