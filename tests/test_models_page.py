"""docs/models.md: its pictures are those of the routings, its configurations load, and its eleventh model trains."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
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


def test_the_pictures_are_current(repository: Path, tmp_path: Path) -> None:
    script = repository / "docs" / "figures" / "models.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, env=environment(repository), timeout=60)
    drawn = {file.name: file.read_text() for file in tmp_path.glob("*.svg")}
    assert drawn == {file.name: file.read_text() for file in script.parent.glob("*.svg")}
    assert len(drawn) == len(VARIANTS)


def test_the_eleventh_model_takes_under_twenty_lines_and_trains(page: str, repository: Path, tmp_path: Path) -> None:
    (patch,) = re.findall(r"^```diff\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert 0 < len(re.findall(r"^[+](?![+])", patch, re.MULTILINE)) < 20
    assert not re.findall(r"^-(?!--)", patch, re.MULTILINE)
    copy = tmp_path / "copy"
    for package in ("ple_rec", "data_prep", "launch"):
        shutil.copytree(repository / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "eleventh.patch").write_text(patch)
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
