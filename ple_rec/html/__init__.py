"""What every HTML page of the project is made of: its frame and style sheet, pieces of HTML, small plots, numbers.

A page is one self-contained file without scripts, for light and dark screens and for paper. Standard library only.
"""
