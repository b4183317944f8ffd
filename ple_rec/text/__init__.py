"""Text for people: numbers with units, tables, suggestions, messages and progress."""

from ple_rec.text.escapes import printable, printable_lines
from ple_rec.text.tables import SHORTEST, aligned, cut

__all__ = ["SHORTEST", "aligned", "cut", "printable", "printable_lines"]
