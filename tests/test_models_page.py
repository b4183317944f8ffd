"""docs/models.md: its pictures show what they should, its configurations load, and its eleventh model trains."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from ple_rec.config.load import recipe_names
from ple_rec.config.model import ModelConfig
from ple_rec.models.variants import VARIANTS
from tests.tiny import environment, write_tiny


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "models.md").read_text()


def sections(page: str) -> dict[str, str]:
    """The text of each model's section, by variant."""
    parts = re.split(r"^### `([a-z_]+)`.*$", page.split("## The ten models")[1].split("\n## ")[0], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_model_has_its_section_with_picture_equation_and_configuration(page: str, repository: Path) -> None:
    found = sections(page)
    assert sorted(found) == sorted(VARIANTS)
    for variant, section in found.items():
        (picture,) = re.findall(r'src="(figures/[a-z_]+\.svg)"', section)
        assert picture == f"figures/{variant}.svg"
        assert (repository / "docs" / picture).is_file()
        assert re.search(r"^    \S.* = ", section, re.MULTILINE), f"{variant}: no equation"
        recipe = f"census-{variant.replace('_', '-')}"
        assert f"`{recipe}`" in section
        assert recipe in recipe_names()


def test_the_configurations_load(page: str) -> None:
    for variant, section in sections(page).items():
        (block,) = re.findall(r"^```toml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        model = TypeAdapter(ModelConfig).validate_json(json.dumps(tomllib.loads(block)["model"]))
        assert model.variant == variant


SVG = "{http://www.w3.org/2000/svg}"
# Of two tasks, counted by hand from the papers: experts, softmax gates, arrows (to the experts, to what mixes them, to
# the towers; the dashed ones of the gates' selectors left out).
DRAWN = {
    "single_task": (2, 0, 2 + 2 + 2),
    "hard_sharing": (1, 0, 1 + 2 + 2),
    "asymmetric": (2, 0, 2 + (1 + 2) + 2),  # b reads the expert of a, too
    "customized": (3, 0, 3 + (2 + 2) + 2),
    "cross_stitch": (4, 0, 2 + 4 + 2 + 4 + 2),
    "sluice": (4, 0, 2 + 4 + 2 + 4 + (2 + 2)),  # the towers read both levels
    "mmoe": (3, 2, 3 + 2 * 3 + 2),
    "ml_mmoe": (6, 3 + 2, 3 + 3 * 3 + 3 + 2 * 3 + 2),
    "cgc": (6, 2, 6 + 2 * 4 + 2),
    "ple": (6, 3 + 2, 3 + (2 + 2 + 3) + 3 + (2 + 2) + 2),
}


@pytest.mark.parametrize("variant", DRAWN)
def test_the_picture_shows_the_model_of_its_paper(variant: str, repository: Path, tmp_path: Path) -> None:
    figures = repository / "docs" / "figures"
    runpy.run_path(str(figures / "models.py"))["main"](tmp_path)
    for folder in (figures, tmp_path):  # as the page has it, and as it is drawn now
        picture = ET.parse(folder / f"{variant}.svg").getroot()
        experts = [node for node in picture.iter(f"{SVG}rect") if "expert" in node.attrib["class"].split()]
        gates = list(picture.iter(f"{SVG}circle"))
        curves = [node for node in picture.iter(f"{SVG}path") if "C" in node.attrib["d"]]
        arrows = [node for node in curves if "selector" not in node.attrib["class"].split()]
        assert (len(experts), len(gates), len(arrows)) == DRAWN[variant]
        labels = [node.text for node in picture.iter(f"{SVG}text")]
        assert (labels[0], labels[-2:]) == ("x", ["A", "B"])
        assert not [value for node in picture.iter() for value in node.attrib.values() if "//" in value]


def test_every_model_has_its_picture() -> None:
    assert sorted(DRAWN) == sorted(VARIANTS)


def the_patch(page: str) -> str:
    """The change that adds the eleventh model."""
    (patch,) = re.findall(r"^```diff\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(patch)


def test_the_eleventh_model_takes_under_twenty_lines_of_this_code(page: str, repository: Path) -> None:
    patch = the_patch(page)
    assert 0 < len(re.findall(r"^[+](?![+])", patch, re.MULTILINE)) < 20
    assert not re.findall(r"^-(?!--)", patch, re.MULTILINE)
    subprocess.run(["git", "apply", "--check"], input=patch, text=True, cwd=repository, check=True, timeout=60)


@pytest.mark.slow
def test_the_eleventh_model_trains(page: str, repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for package in ("ple_rec", "data_prep", "launch"):
        shutil.copytree(repository / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "eleventh.patch").write_text(the_patch(page))
    subprocess.run(["git", "apply", "eleventh.patch"], cwd=copy, check=True, timeout=60)
    write_tiny(copy)
    config = copy / "tiny.toml"
    (block,) = re.findall(r"^```toml\n(.*?)^```$", page.split("## An eleventh")[1], re.MULTILINE | re.DOTALL)
    text = config.read_text()
    start, stop = text.index("[model]"), text.index("[train]")
    config.write_text(text[:start] + block + "\n" + text[stop:])
    done = subprocess.run(
        [sys.executable, "-m", "ple_rec", "train", "--config", str(config), "--run-dir", "run"],
        cwd=copy,
        env=environment(copy),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((copy / "run" / "metrics.json").read_text())
    (gate,) = metrics["test"]["gates"]
    assert None not in gate["mean"][0]  # every task reads every expert
    assert sum(gate["mean"][0]) == pytest.approx(1)
