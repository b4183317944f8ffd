"""Results as HTML pages and as text, with a folder for each page.

A page is one self-contained file without scripts, for light and dark screens and for paper. A builder (`page.py` of
each folder) turns results into views, which are dicts and tuples of texts, numbers and SVG. All HTML is in jinja2
templates in `templates/`, which share a base and a style sheet. Matplotlib draws figures with axes (`svg.py`). Small
plots in rows of a table, and bars with tooltips of their own, are written as SVG text (`drawing.py`, `plan/`). The text
that the terminal shows of the same result is in `text.py` beside the page.
"""
