"""Text that people read: numbers with units, tables, suggestions, messages and progress."""

from ple_rec.text.escapes import printable, printable_lines
from ple_rec.text.tables import MIN_CUT_LENGTH, align_columns, cut_middle, fit_table

__all__ = ["MIN_CUT_LENGTH", "align_columns", "cut_middle", "fit_table", "printable", "printable_lines"]
