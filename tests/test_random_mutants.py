"""Random mutants: what is changed, how evenly they are drawn, and whether caught ones and survivors are told apart."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.mutations.mutants import code_files, draw, lines_of, mutants_of
from tests.mutations.random import find_tests, main, run

TEXT = '''"""Docstring 1 < 2."""
from __future__ import annotations

import math as m  # 3 < 4

__all__ = ["f"]

def f(a: "int | None", b: list[1] = ()) -> "str":
    """Docstring of f."""
    c: dict[str, 5]
    return a  # 6 and 7
'''


@pytest.mark.parametrize(
    ("kind", "source", "expected"),
    [
        ("off by one", "x = y[3]", ["x = y[4]", "x = y[2]"]),
        ("off by one", "y[n:]", ["y[(n) + 1:]", "y[(n) - 1:]"]),
        ("off by one", "range(len(y))", ["range((len(y)) + 1)", "range((len(y)) - 1)"]),
        ("comparison", "a < b", ["a <= b"]),
        ("comparison", "a <= b", ["a < b"]),
        ("comparison", "a > b", ["a >= b"]),
        ("comparison", "a >= b", ["a > b"]),
        ("comparison", "a == b != c", ["a != b != c", "a == b == c"]),
        ("comparison", "a is not b", ["a is b"]),
        ("comparison", "a not in b", ["a in b"]),
        ("comparison", "(a\n  # <\n) < b", ["(a\n  # <\n) <= b"]),
        ("swapped arguments", "f(a, *b, (c), d=e)", ["f(c, *b, (a), d=e)", "f(e, *b, (c), d=a)", "f(a, *b, (e), d=c)"]),
        ("swapped arguments", "f(a, a)", []),
        ("dropped statement", "a = b\nc(\n  d\n)", ["pass\nc(\n  d\n)", "a = b\npass"]),
        ("dropped statement", "def f():\n    global a\n    pass", []),
        ("other axis", "f(axis=0, dim=1)", ["f(axis=1, dim=1)", "f(axis=0, dim=0)"]),
        ("other axis", "f(dim=-1, size=1)", ["f(dim=0, size=1)"]),
        ("constant", "a = True", ["a = False"]),
        ("constant", "a = 2.5", ["a = 5.0"]),
        ("constant", "a = 0", ["a = 2"]),
        ("constant", "é = 'ü' + 'b'", ["é = 'üx' + 'b'", "é = 'ü' + 'bx'"]),
        ("constant", "a = f'{b[1]}'", ["a = f'{b[1]}x'"]),
        ("constant", 'a = """b"""', ['a = """bx"""']),
        ("constant", "a = None", []),
        ("negated condition", "if a or b: c", ["if not (a or b): c"]),
        ("negated condition", "while not a: b", ["while (a): b"]),
        ("negated condition", "a = b if c else d", ["a = b if not (c) else d"]),
        ("negated condition", "[a for a in b if c]", ["[a for a in b if not (c)]"]),
        ("negated condition", "if TYPE_CHECKING:\n    a = b if c else d", []),
        ("early return", "def f():\n    a\n    return b", [f"def f():\n    {x}" for x in
         ("return None\n    return b", "a\n    return None")]),
        ("early return", "a\nclass B:\n    c\ndef f():\n    return", []),
        ("arithmetic", "a + (b) // c", ["a - (b) // c", "a + (b) / c"]),
        ("arithmetic", "a *= b", ["a /= b"]),
        ("and, or", "a and (b) or c", ["a or (b) or c", "a and (b) and c"]),
    ],
)  # fmt: skip
def test_a_kind_of_change(kind: str, source: str, expected: list[str]) -> None:
    changed = [mutant.mutated for mutant in mutants_of("a.py", source) if mutant.kind == kind]
    assert sorted(changed) == sorted(expected)


def test_docstrings_comments_imports_and_annotations_stay() -> None:
    changed = [(mutant.line, mutant.kind) for mutant in mutants_of("a.py", TEXT)]
    assert changed == [(11, "dropped statement"), (11, "early return")]


def test_a_seed_and_a_number_determine_the_mutant() -> None:
    source = "\n".join(f"a{i} = {i}" for i in range(40))
    lines = lines_of(mutants_of("a.py", source))
    first = [[next(draw(lines, seed, number)).mutated for number in range(1, 41)] for seed in (1, 1, 2)]
    assert first[0] == first[1] != first[2]
    assert len(set(first[0])) == 40  # each line once


def test_lines_and_kinds_are_drawn_evenly() -> None:
    lines = lines_of(mutants_of("a.py", "a\nf(b, c, d, e, 1)\n"))
    drawn = [next(draw(lines, seed, 1)) for seed in range(700)]
    assert Counter(mutant.line for mutant in drawn)[1] == pytest.approx(350, abs=50)
    kinds = Counter(mutant.kind for mutant in drawn if mutant.line == 2)
    assert set(kinds) == {"swapped arguments", "dropped statement", "constant", "off by one"}
    assert max(kinds.values()) < 2 * min(kinds.values())


def test_a_draw_that_does_not_compile_is_replaced() -> None:
    lines = lines_of(mutants_of("a.py", "async def f():\n    yield\n    yield\n"))  # which may not return a value
    assert {mutant.kind for mutant in draw(lines, 1, 1)} == {"dropped statement"}


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("ple_rec/runs/diff.py", "tests/runs"),
        ("ple_rec/analysis/compare/a.py", "tests/analysis/compare"),
        ("ple_rec/text/deeper/a.py", "tests/text"),
        ("ple_rec/errors.py", "tests/test_errors.py"),
        ("ple_rec/nowhere.py", ""),
        ("data_prep/stats/cells.py", "tests/data_prep/stats"),
        ("data_prep/recipes/a.py", "tests/data_prep"),
    ],
)
def test_which_tests_lie_beside_a_file(repository: Path, file: str, tests: str) -> None:
    assert find_tests(repository, file) == tests


def test_a_folder_that_is_missing_or_has_no_code(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, problem in (("nowhere", "no such folder"), ("..", "no such folder"), ("docker", "no Python code")):
        with pytest.raises(ValueError, match=f"^--folder {folder}: .*{problem}.*; name "):
            code_files(repository, [folder])
    with pytest.raises(SystemExit) as stop:
        main(["--folder", "nowhere"])
    assert stop.value.code == 2
    assert "--folder nowhere" in capsys.readouterr().err


def test_caught_ones_and_survivors_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the plugins take longer than the tests
    root = tmp_path / "tree"
    (root / "tests" / "sums").mkdir(parents=True)
    (root / "sums").mkdir()
    files = {
        "sums/__init__.py": "",
        "sums/three.py": "".join(f"def {name}(x):\n    return x\n\n\n" for name in ("beside", "suite", "nowhere")),
        "pyproject.toml": "[tool.pytest.ini_options]\n",
        "tests/sums/test_three.py": "from sums.three import beside\n\ndef test_it():\n    assert beside(2) == 2\n",
        "test_suite.py": "from sums.three import suite\n\ndef test_it():\n    assert suite(2) == 2\n",
    }
    for name, text in files.items():
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    said: list[str] = []
    verdicts = run(root, ["sums"], 1, [1, 2, 3], 1, said.append, options=(), suite=("test_suite.py",))
    results = {verdict.mutant.line: (verdict.result, verdict.text) for verdict in verdicts}
    assert results == {
        2: ("caught", "tests/sums/test_three.py::test_it"),
        6: ("caught", "test_suite.py::test_it"),
        10: ("survived", ""),
    }
    assert said[-2] == "3 mutants of seed 1: 2 caught, 1 survived, 0 not tried"
    assert "--- a/sums/three.py\n+++ b/sums/three.py\n@@ " in said[-1]
    assert sum("s without a mutant" in line for line in said) == 2
    assert (root / "sums" / "three.py").read_text() == files["sums/three.py"]
