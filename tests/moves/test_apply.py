"""The table of moves names what there is, and its codemod changes references and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from tests.moves.apply import Moves, change

BEFORE = """
import ple_rec.parallel.agree
from ple_rec import doctor, __version__
from ple_rec.parallel.agree import on_main, PeerError
from ple_rec.parallel.shortfall import Lacking as Wanted
from data_prep.vocabulary import numbered

def on_rank_0(on_off: bool, doctor_s: str) -> None:
    on_main(doctor.run)  # ple_rec/locks.py
    patch("ple_rec.training.watch.mlflow.send", ple_rec.parallel.agree.PeerError)
"""
AFTER = """
import ple_rec.distributed.collectives
from ple_rec.runtime import doctor; from ple_rec import __version__
from ple_rec.distributed.collectives import run_on_rank_zero, PeerError
from ple_rec.distributed.capacity import MemoryShortfall as Wanted
from data_prep.vocabulary.numbering import numbered

def on_rank_0(on_off: bool, doctor_s: str) -> None:
    run_on_rank_zero(doctor.run)  # ple_rec/storage/locks.py
    patch("ple_rec.training.loggers.mlflow.send", ple_rec.distributed.collectives.PeerError)
"""


def test_imports_names_strings_and_comments_are_changed() -> None:
    assert change(Moves.read(), BEFORE, "somewhere") == AFTER


def test_the_new_names_are_there_and_the_old_ones_are_not(repository: Path) -> None:
    moves = Moves.read()
    for old, new in moves.modules.items():
        assert any((repository / f"{new.replace('.', '/')}{end}").exists() for end in (".py", "/__init__.py", "")), new
        if old not in moves.modules.values() and not any(name.startswith(f"{old}.") for name in moves.modules.values()):
            assert not (repository / f"{old.replace('.', '/')}.py").exists(), old
    new_packages = (
        "ple_rec.distributed.",
        "ple_rec.inference.",
        "ple_rec.serving.",
        "ple_rec.runtime.",
        "data_prep.init.",
    )
    assert [old for old in moves.modules if old.startswith(new_packages)] == []
    for old, new in moves.names.items():
        file = repository / f"{moves.module(old.rpartition('.')[0]).replace('.', '/')}"
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        assert re.search(rf"^(class|def) {new}\b", file.read_text(encoding="utf-8"), re.M), new
