"""docs/planning.md: its commands run, print what the page shows, and its hardware is that of the presets."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ple_rec.cli import main
from ple_rec.cli.app import parse
from ple_rec.config.choices import DEVICES
from ple_rec.config.cluster import PRESETS, TopologyConfig
from ple_rec.config.run import EmbeddingsConfig
from ple_rec.distributed.topology import GPUS, gpu_preset
from ple_rec.errors import UserError
from tests.test_readme import blocks
from tests.tiny import environment

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "planning.md").read_text()


def commands(slow: bool) -> list[str]:
    return [command for block in blocks(PAGE) if block.slow is slow for command in block.commands]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What every quick command of the page prints, in one working directory."""
    folder = tmp_path_factory.mktemp("page")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands(slow=False):
            program, *argv = shlex.split(command)
            assert program == "ple-rec"
            with pytest.MonkeyPatch.context() as inner:
                written: list[str] = []
                inner.setattr(sys.stdout, "write", lambda text, to=written: to.append(text) or len(text))
                assert main(argv) == 0, command
            found[command] = "".join(written)
    return found


def test_the_commands_print_what_the_page_shows(printed: dict[str, str]) -> None:
    shown = re.findall(r"<!-- of: (.*?) -->\n```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert shown
    for command, text in shown:
        lines = [line for line in text.splitlines() if line.strip() and line != "..."]
        there = printed[command].splitlines()
        positions = [there.index(line) for line in lines]
        assert positions == sorted(positions)


def test_the_slow_commands_are_ones_that_the_program_takes() -> None:
    for command in commands(slow=True):
        program, *argv = shlex.split(command)
        if program == "ple-rec":
            parse(argv)


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(slow=True))
def test_the_slow_commands_run(command: str, tmp_path: Path) -> None:
    tools = environment(REPOSITORY, PATH=f"{Path(sys.executable).parent}:{environment(REPOSITORY)['PATH']}")
    (tmp_path / "launch").symlink_to(REPOSITORY / "launch")
    done = subprocess.run(shlex.split(command), cwd=tmp_path, env=tools, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_ways_out_are_those_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    section = PAGE.split("## It does not fit")[1].split("\n## ")[0]
    (command,) = re.findall(r"^    ple-rec (.*)$", section, re.MULTILINE)
    (shown,) = re.findall(r"^```text\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert main(shlex.split(command)) == 2
    assert capsys.readouterr().out == shown


def test_the_hardware_is_that_of_the_presets() -> None:
    head, *rows = re.findall(
        r"^\| (?:hardware \(`\[topology\]`\)|`(\w+)`.*?) \|((?: \S+(?: M)? \|){8})$", PAGE, re.MULTILINE
    )
    columns = [device.strip() for device in head[1].strip("|").split("|")]
    known = {key: [cell.strip() for cell in cells.strip("|").split("|")] for key, cells in rows}
    assert columns == list(DEVICES)
    for key, cells in known.items():
        for device, cell in zip(DEVICES, cells, strict=True):
            value = float(cell.replace(",", "").replace(" M", "e6")) if cell != "-" else None
            if value is not None:
                assert getattr(PRESETS[device], key) == value, (key, device)
    assert set(known) == set(TopologyConfig.model_fields) - {"device"}


def test_the_names_of_gpus_are_those_of_the_code() -> None:
    section = PAGE.split("\n## A GPU without a preset\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `NVIDIA (.*?)` \| ([\w-]+)(.*?) \|$", section, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(GPUS)
    for name, device, note in rows:
        preset, gpu = PRESETS[device].model_dump(), GPUS[name].model_dump()
        changed = {figure for key, figure in gpu.items() if figure != preset[key]}
        assert {float(figure.replace(",", "")) for figure in re.findall(r"([\d,]+) GB/s", note)} == changed, name


def test_the_refusal_of_an_unknown_gpu_is_that_of_the_page() -> None:
    ((gpu, shown),) = re.findall(r"^<!-- refused: (.*?) -->\n```text\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    with pytest.raises(UserError) as caught:
        gpu_preset(gpu, 31.73, TopologyConfig())
    assert str(caught.value) == shown


def test_the_configurations_load() -> None:
    topology, embeddings = (
        tomllib.loads(block) for block in re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    )
    assert TopologyConfig.model_validate(topology["topology"]).device == "h100"
    tables = embeddings["embeddings"]
    tables["tables"]["user_id"]["hosts"] = tuple(tables["tables"]["user_id"]["hosts"])
    assert EmbeddingsConfig.model_validate(tables).tables["user_id"].hosts == (0, 1)
