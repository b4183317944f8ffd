"""The HTML pages: jinja2 templates over one base and one style sheet, what is drawn, and a builder for each page.

A page is one self-contained file without scripts, for light and dark screens and for paper. A builder reads results and
makes a view of plain values; all markup is in `templates/`.
"""
