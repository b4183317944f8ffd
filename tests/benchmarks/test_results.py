"""Every figure of docs/results stands in the pages as it is there, and its command still exists."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.figures import draw_figures
from benchmarks.harness import describe_machine
from benchmarks.results import FOLDER, Measurement, Results, markdown_table, new_result, number
from ple_rec.cli.app import parse
from ple_rec.config.choices import COMPARISON_CONFIGS, recipe_names
from tests.project_files import REPOSITORY, project_files

RESULTS = Results(REPOSITORY)
ENTRY = {"command": "make bench-dense", "commit": "0123abc", "date": "2026-12-01", "machine": "two cores"}


def repository(root: Path, page: str, values: object, sentences: str = "") -> Results:
    """Write a repository with one page, docs/speed.md, and one result, `speed.dense`."""
    (root / FOLDER).mkdir(parents=True)
    (root / FOLDER / "speed.json").write_text(json.dumps({"dense": ENTRY | {"values": values}}))
    (root / FOLDER / "sentences.toml").write_text(sentences)
    (root / FOLDER / "wide.j2").write_text(
        "ours: {{ results[0].ours | number('.3f') }}, {{ speed.dense.turns | spread }}\n"
    )
    (root / "README.md").write_text("# no results\n")
    (root / "docs" / "speed.md").write_text(page)
    return Results(root)


def test_the_pages_agree_with_the_results() -> None:
    assert RESULTS.problems() == []


def test_the_figures_are_those_of_the_results() -> None:
    figures = draw_figures(RESULTS.values["paper"])
    folder = REPOSITORY / "docs" / "images" / "paper"
    assert sorted(figures) == sorted(file.name for file in folder.iterdir())
    changed = [name for name, content in figures.items() if (folder / name).read_bytes() != content]
    assert changed == [], "run python -m benchmarks.figures"


def test_every_result_is_shown() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in RESULTS.pages)
    shown = {name for names in re.findall(r"<!-- results: ([\w. ]+?)(?: as \w+)? -->", text) for name in names.split()}
    said = "".join(sentence for sentences in RESULTS.sentences.values() for sentence in sentences)
    assert [name for name in RESULTS.by_name if name not in shown and name not in said] == []


def test_every_sentence_has_its_page() -> None:
    assert set(RESULTS.sentences) <= {page.relative_to(REPOSITORY).as_posix() for page in RESULTS.pages}


@pytest.mark.parametrize("command", sorted({c for r in RESULTS.by_name.values() for c in r.command.splitlines()}))
def test_a_command_still_exists(command: str) -> None:
    program, *argv = shlex.split(command)
    if program == "ple-rec":
        parse(argv)
        if "--config" in argv:
            config = argv[argv.index("--config") + 1]
            assert config in (*recipe_names(), *recipe_names(COMPARISON_CONFIGS)) or (REPOSITORY / config).is_file()
    elif program == "python":
        file = f"{argv[1].replace('.', '/')}.py" if argv[0] == "-m" else argv[0]
        assert (REPOSITORY / file).is_file()
    else:
        assert program == "make"
        target, *variables = argv
        subject = target.removeprefix("bench-")
        makefile = (REPOSITORY / "Makefile").read_text()
        assert f"\n{target}:" in makefile or (REPOSITORY / "benchmarks" / f"{subject}.py").is_file()
        code = "".join(file.read_text("utf-8") for file in project_files(["benchmarks"], ".py"))
        for variable in variables:
            assert all(word in code for word in variable.partition("=")[2].split() if word.startswith("--"))


def test_records_are_a_table_and_texts_are_output(tmp_path: Path) -> None:
    page = "# Speed\n\n<!-- results: speed.dense -->\nold\n<!-- end -->\n\nafter\n"
    caption = "<sub>`make bench-dense` at 0123abc, 2026-12-01, two cores</sub>"
    results = repository(tmp_path / "table", page, [{"": "ours", "rate": 1200}, {"": "limit", "rate": ".5"}])
    rows = "| | rate |\n|---|---|\n| ours | 1,200 |\n| limit | .5 |"
    rendered = f"# Speed\n\n<!-- results: speed.dense -->\n{rows}\n\n{caption}\n<!-- end -->\n\nafter\n"
    assert results.render(page) == rendered
    assert results.render(rendered) == rendered
    assert results.problems() == [f"docs/speed.md: differs from {FOLDER}; run python -m benchmarks.results"]
    results = repository(tmp_path / "text", page, ["ours  1,200/s"])
    assert f"```text\nours  1,200/s\n```\n\n{caption}\n" in results.render(page)


def test_a_template_has_the_values(tmp_path: Path) -> None:
    page = "<!-- results: speed.dense as wide -->\n<!-- end -->\n"
    turns = {"median": 2000, "least": 1, "most": 3000}
    results = repository(tmp_path, page, {"ours": 0.25, "turns": turns})
    assert "-->\nours: .250, 2,000 (1 - 3,000)\n\n<sub>" in results.render(page)


def test_values_of_another_form_need_a_template(tmp_path: Path) -> None:
    page = "<!-- results: speed.dense -->\n<!-- end -->\n"
    with pytest.raises(ValueError, match=r"^speed\.dense: only one list is shown without a template"):
        repository(tmp_path, page, {"ours": 0.25}).render(page)


def test_a_sentence_that_is_gone_is_named(tmp_path: Path) -> None:
    sentence = '"docs/speed.md" = ["reaches {{ speed.dense | number(\'.2f\') }} of\\n the limit"]'
    results = repository(tmp_path / "there", "It reaches .25\nof the limit.\n", 0.25, sentence)
    assert results.problems() == []
    results = repository(tmp_path / "gone", "It reaches .26 of the limit.\n", 0.25, sentence)
    assert results.problems() == ["docs/speed.md: does not say: reaches .25 of the limit"]


def test_a_comment_of_another_form_is_named(tmp_path: Path) -> None:
    results = repository(tmp_path, "<!-- results: speed.dense -->\nno end\n", ["text"])
    (problem,) = results.problems()
    assert problem.startswith("docs/speed.md: a comment that names results has another form")


@pytest.mark.parametrize("change", [{"commit": "yesterday"}, {"date": "1 May"}, {"mashine": "x"}])
def test_a_result_without_its_conditions_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Measurement.model_validate(ENTRY | {"values": 1} | change)


def test_a_new_result_names_this_machine_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.results._git", lambda verb, *_: "" if verb == "status" else "0123abc")
    result = new_result("make bench-dense", "a  1\nb  2\n")
    assert (result.commit, result.values) == ("0123abc", ["a  1", "b  2"])
    assert result.machine == describe_machine()
    monkeypatch.setattr("benchmarks.results._git", lambda verb, *_: " M ple_rec/errors.py")
    with pytest.raises(ValueError, match=r"commit these first:\n M ple_rec/errors.py"):
        new_result("make bench-dense", "")


def test_numbers_and_cells() -> None:
    assert [number(0.5, ".2f"), number(-0.5, "+.1f"), number(10.5, ".1f")] == [".50", "-.5", "10.5"]
    assert markdown_table([{"a": 1, "": "x"}]) == "| a | |\n|---|---|\n| 1 | x |"
