"""Numbers as people read them, under the name by which the rest of the package knows them."""

from ple_rec.html.units import metric_text, short_bytes, short_count, short_duration

__all__ = ["metric_text", "short_bytes", "short_count", "short_duration"]
