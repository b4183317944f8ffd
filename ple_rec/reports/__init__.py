"""Results as HTML pages and as text, with a folder for each page.

A page is one self-contained file without scripts, for light and dark screens and for paper. A builder turns results
into views of plain values. All HTML is in jinja2 templates in `templates/`, which share a base and a style sheet.
Matplotlib draws figures with axes (`svg.py`). Marks with tooltips of their own, or in rows of a table, are SVG as text
(`drawing.py`, `plan/`). The text for the terminal lies beside the page of the same result.
"""
