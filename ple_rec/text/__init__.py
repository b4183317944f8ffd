"""Text that people read: numbers with units, tables, suggestions, messages and progress."""

from ple_rec.text.escapes import printable, printable_lines
from ple_rec.text.tables import SHORTEST, aligned, cut, fitted

__all__ = ["SHORTEST", "aligned", "cut", "fitted", "printable", "printable_lines"]
