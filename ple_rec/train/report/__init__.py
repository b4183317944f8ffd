"""The run's `report.html`: one self-contained page from the run directory's files. Needs no torch.

`page.write_report` writes it; `ple_rec.train.results` shares its columns with the terminal.
"""
