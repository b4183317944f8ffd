import random
from typing import Any

import pytest

from tests.reports.rich import softmax_gate
from tests.reports.runs import GATES, Page, in_memory, section


def shown(*levels: dict[str, Any]) -> Page:
    return section(in_memory(test={"gates": list(levels)}), "gates")


def learned(mixing: str, mean: list[list[float]], names: tuple[str, ...] = ("a.0", "b.0")) -> dict[str, Any]:
    std = [[0.0] * len(names) for _ in mean]
    return {"level": 1, "mixing": mixing, "outputs": ["a", "b"], "experts": list(names), "mean": mean, "std": std}


def test_mean_and_deviation_as_figures_colour_and_bar_and_unread_experts_blank() -> None:
    page = shown(*GATES)
    titles = page.attributes("title")
    assert "income reads shared.0: mean 0.7500, standard deviation 0.0625" in titles
    assert "income does not read vcr.0" in titles
    assert (
        "Level 1 0 1 output income vcr shared income 0.250 \u00b10.062 0.750 \u00b10.062 shared 0.125 \u00b10.010"
        in page.text
    )
    assert "mean over the evaluated samples, \u00b1 standard deviation." in page.text
    assert "Blank: not read." in page.text
    styles = [style for style in page.attributes("style") if style.startswith("--w:")]
    assert styles[:2] == ["--w:25.0%;--a:18.8%;--b:12.5%", "--w:75.0%;--a:68.8%;--b:12.5%"]
    assert len(styles) == 5


def test_experts_of_one_owner_are_numbered_under_its_name() -> None:
    page = shown(softmax_gate(random.Random(0), 2, ("a", "b", "shared"), 2, shared=False))
    assert "Level 2 0 1 output a b shared 0 1 0 1 0 1 a 0." in page.text


def test_learned_weights_may_be_negative_and_have_no_deviation() -> None:
    page = shown(learned("stitch", [[0.9, -0.25], [1.25, 0.1]]))
    assert "Learned weights, the same for every sample; they may be negative." in page.text
    assert "Level 1" in page.text
    assert "\u22121.5 1.5 output a b a 0.900 \u22120.250 b 1.250 0.100" in page.text
    cells = [(a.get("class"), a["style"]) for tag, a in page.elements if tag == "td"]
    assert cells == [(None, "--w:60.0%"), ("negative", "--w:16.7%"), (None, "--w:83.3%"), (None, "--w:6.7%")]
    assert "ramp diverging" in page.attributes("class")
    assert "\u00b1" not in page.text


def test_subspaces_are_numbered_by_expert_and_part() -> None:
    page = shown(learned("subspaces", [[1.0, 0.0], [0.0, 1.0]], ("a.0[0]", "a.0[1]")))
    assert "output a 0[0] 0[1] a 1.000 0.000" in page.text


@pytest.mark.parametrize(
    ("mixing", "words"),
    [
        ("concat", "Constant: each output is its experts side by side, every one as it is (weight 1)."),
        ("sum", "Constant: each output is the sum of its experts (weight 1)."),
        ("mean", "Constant: each output is the mean of its n experts (weight 1/n)."),
    ],
)
def test_a_constant_mixing_is_said_in_words_with_who_reads_whom(mixing: str, words: str) -> None:
    level = {**learned(mixing, [[1, 1], [0, 1]]), "mean": [[1.0, 1.0], [None, 1.0]]}
    page = shown(level)
    assert page.text == f"{words} Level 1 a a.0, b.0 b b.0"


def test_the_mix_of_levels_has_its_own_heading_and_words() -> None:
    levels = {**learned("levels", [[0.3, 0.7], [0.9, 0.1]], ("level 1", "level 2")), "level": None}
    page = shown(learned("stitch", [[1.0, 0.0], [0.0, 1.0]]), levels)
    assert (
        "Mix of levels Learned weights with which each task mixes the levels' outputs, the same for every sample. 0 1 "
        "output level 1 level 2 a 0.300 0.700 b 0.900 0.100" in page.text
    )


def test_twenty_outputs_over_sixty_experts_stand_in_blocks_with_their_readers_only() -> None:
    owners = (*(f"task_{index:02d}" for index in range(19)), "shared")
    page = shown(softmax_gate(random.Random(0), 1, owners, 3, shared=True))
    tables = [attributes.get("class") for tag, attributes in page.elements if tag == "table"]
    assert tables == ["heat dense"] * 4
    assert "Many experts stand in blocks, each with the outputs that read any of its experts." in page.text
    blocks = page.text.split(" output ")[1:]
    assert [block.startswith(f"task_{index:02d}") for block, index in zip(blocks, (0, 5, 10, 15), strict=True)] == [
        True
    ] * 4
    assert "task_07" not in blocks[0]  # neither reads its experts nor is read
    assert len(page.source) < 300_000


def test_more_experts_of_one_owner_than_a_block_holds_are_cut() -> None:
    page = shown(softmax_gate(random.Random(0), 1, ("shared",), 40, shared=True))
    assert [tag for tag, _ in page.elements].count("table") == 3


def test_small_weights_get_the_whole_range_of_colours() -> None:
    page = shown(learned("softmax", [[0.02, 0.04], [0.01, 0.03]]))
    assert "0 0.05 output" in page.text
    assert page.attributes("style")[1] == "--w:80.0%"


@pytest.mark.parametrize(
    ("greatest", "full"),
    [
        *((0.0, "1"), (0.5, "0.5"), (0.51, "1"), (1.0, "1"), (1.01, "1.5"), (1.5, "1.5"), (1.6, "2"), (2.1, "3")),
        *((3.1, "5"), (5.1, "10"), (10.0, "10"), (10.1, "15"), (0.049, "0.05"), (0.051, "0.1")),
    ],
)
def test_full_colour_is_one_or_the_next_round_weight(greatest: float, full: str) -> None:
    assert f" 0 {full} output" in shown(learned("softmax", [[greatest, 0.0], [0.0, 0.0]])).text


@pytest.mark.parametrize("level", [{}, {"outputs": 3, "experts": None}, {"outputs": ["a"], "experts": []}])
def test_a_level_without_names_is_said_to_be_missing(level: dict[str, Any]) -> None:
    assert "Not recorded: outputs or experts are missing." in shown(level).text


def test_a_ragged_matrix_leaves_blanks() -> None:
    page = shown({"level": 1, "outputs": ["a", "b"], "experts": ["a.0", "b.0"], "mean": [[0.5], None], "std": "x"})
    assert "a 0.500 b" in page.text


def test_no_gates_and_none_recorded_are_told_apart() -> None:
    assert shown().source == '<p class="absent">This model has no gates.</p>'
    for none in (in_memory(test={}), in_memory(test={"gates": 3})):
        assert section(none, "gates").source == '<p class="absent">Not recorded.</p>'
