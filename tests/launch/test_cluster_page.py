"""docs/cluster.md: its commands are jobs that TorchX would submit, its figures are those of the code."""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from torchx.runner import get_runner
from torchx.runner.config import apply, load_sections
from torchx.schedulers import get_scheduler_factories
from torchx.specs.finder import get_component

from launch.hosts import HOSTS
from launch.jobs import rank_environment
from ple_rec.cli.app import parse

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PAGE = (REPOSITORY / "docs" / "cluster.md").read_text()
NEEDS = {"local_docker": "docker", "kubernetes": "kubernetes"}


def commands() -> list[list[str]]:
    """The page's commands, each of one or several indented lines, as words."""
    lines = re.findall(r"^    (\S.*)$", PAGE.replace(" \\\n        ", " "), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def torchx_runs() -> list[list[str]]:
    found = []
    for words in commands():
        while re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if words[:2] == ["torchx", "run"]:
            found.append(words[2:])
    return found


def test_the_page_shows_every_scheduler_and_every_component() -> None:
    schedulers = {words[words.index("-s") + 1] for words in torchx_runs()}
    assert schedulers == {"local_cwd", "local_docker", "slurm", "kubernetes", "aws_batch"}
    named = {word.partition(":")[2] for words in torchx_runs() for word in words if word.startswith("launch/")}
    assert named == {"prep", "plan", "train", "evaluate"}


@pytest.mark.parametrize("words", torchx_runs(), ids=lambda words: " ".join(words[:4]))
def test_a_command_is_a_job(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    at = next(place for place, word in enumerate(words) if word.startswith("launch/components.py:"))
    options, component, argv = words[:at], words[at], words[at + 1 :]
    scheduler = options[options.index("-s") + 1]
    if scheduler in NEEDS:
        pytest.importorskip(NEEDS[scheduler])
    if argv == ["--help"]:
        assert get_component(component).validation_errors == []
        return
    with get_runner() as runner, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Volcano")
        runopts = runner.scheduler_run_opts(scheduler)
        given = options[options.index("-cfg") + 1] if "-cfg" in options else ""
        cfg = runopts.cfg_from_str(given)
        assert set(cfg) == {pair.partition("=")[0] for pair in given.split(",") if pair}
        info = runner.dryrun_component(component, ["--check", "False", *argv], scheduler, cfg=cfg, workspace="")
    (role,) = info._app.roles
    verb = verb_of(role)
    parse(verb)
    remote = scheduler in ("local_docker", "kubernetes", "aws_batch")
    assert remote == ("--workspace=" in options) == ("--image" in argv)


def verb_of(role: Any) -> list[str]:
    words = shlex.split(role.args[1]) if role.entrypoint == "bash" else list(role.args)
    if "ple_rec.agent" in words:
        return words[words.index("--") + 1 :]
    return words[words.index("ple_rec") + 1 :]


def test_the_agent_by_hand() -> None:
    (words,) = (words for words in commands() if "ple_rec.agent" in words)
    from torch.distributed.run import parse_args

    at = words.index("--")
    assert parse_args([*words[3:at], "-m", "ple_rec"]).nnodes == "2"
    parse(words[at + 1 :])


def test_the_defaults_are_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```ini\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / ".torchxconfig").write_text(text)
    for name, given in load_sections("component", dirs=[str(tmp_path)]).items():
        assert set(given) <= set(get_component(str(REPOSITORY / name)).fn.__annotations__), name
    for name in set(re.findall(r"^\[(\w+)\]$", text, re.MULTILINE)):
        assert name in get_scheduler_factories()
        cfg: dict[str, Any] = {}
        apply(name, cfg, dirs=[str(tmp_path)])
        section = text.split(f"[{name}]\n")[1].split("\n\n")[0].splitlines()
        assert cfg == dict(line.split(" = ") for line in section)


def test_the_shapes_are_those_of_the_code() -> None:
    shown = re.findall(r"^\| (`\w.*`) \| (\d+) \| (\d+) of (\d+) \| ([\d,]+) of ([\d,]+) GiB \|$", PAGE, re.MULTILINE)
    names = [name for row in shown for name in re.findall(r"`(.*?)`", row[0])]
    assert sorted(names) == sorted(HOSTS)
    for row in shown:
        for name in re.findall(r"`(.*?)`", row[0]):
            host = HOSTS[name]
            resource = host.resource(cpu=0, gpu=0, memory=0)
            figures = (resource.gpu, resource.cpu, host.cores, round(resource.memMB / 1024), host.memory // 1024)
            assert tuple(int(figure.replace(",", "")) for figure in row[1:]) == figures


def test_every_variable_has_its_line() -> None:
    section = PAGE.split("\n## Network and environment\n")[1].split("\n## ")[0]
    listed = {
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)", row)
    }
    assert listed == set(rank_environment(threads=1, gpu=8, interface="eth0", env=None))
