"""How a command line is read, refused, explained and completed, whatever its verb."""

from __future__ import annotations

import inspect
import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch import components
from ple_rec import __version__, agent
from ple_rec.api.predictions import PredictOptions
from ple_rec.cli import main
from ple_rec.cli.app import VERBS, command_line, parse
from ple_rec.cli.help import help_text
from ple_rec.errors import UserError
from ple_rec.inference.export_options import ExportOptions
from tests.tiny import environment

EVALUATE = "known: --split, --checkpoint, --json, --set, --ranks"
# Parameters of TorchX components that ask a scheduler for something, or name what a verb has as a positional argument.
OF_THE_JOB = {
    *("check", "cpu", "env", "gpu", "host", "image", "interface", "max_restarts", "max_retries", "memMB", "min_nnodes"),
    *("mounts", "nnodes", "nproc", "overrides", "port", "python", "threads"),
}
OTHER_NAMES = {"name": "NAME|FILE", "run": "RUN", "run_dir": "RUN", "source": "--from"}


def values(line: str) -> dict[str, Any]:
    """Return the arguments of a command line by name, those of its options among them."""
    arguments = dict(parse(line.split(" ")).values)
    return arguments | (vars(arguments.pop("options")) if "options" in arguments else {})


@pytest.mark.parametrize(
    ("line", "argument", "value"),
    [
        ("evaluate r --split=valid", "split", "valid"),
        ("evaluate --split valid r", "run", "r"),
        ("evaluate --split valid -- -r", "run", "-r"),
        ("evaluate r --split valid --split train", "split", "train"),  # the last one holds, as wrappers rely on
        ("evaluate r --json --json", "json", True),
        ("evaluate r --set a=1 --set=b=2", "overrides", ("a=1", "b=2")),
        ("evaluate r --set a=b=c", "overrides", ("a=b=c",)),
        ("evaluate ünï/日本 --checkpoint é", "checkpoint", "é"),
        ("evaluate r --set -1", "overrides", ("-1",)),
        ("prep mmoe-synthetic --correlation -0.5", "correlation", -0.5),
        ("prep mmoe-synthetic --correlation=-5e-1", "correlation", -0.5),
        ("prep tencent-synthetic --seed -3", "seed", -3),
        ("predict r --out d --split train valid --ids", "splits", ("train", "valid")),
        ("predict r --out d --split train valid --ids", "ids", ()),
        ("predict r --out d", "ids", None),
        ("predict r --ids a b --out d --ids c", "ids", ("c",)),  # as of a list
        ("predict r --out d --split train --split test", "splits", ("test",)),
        ("predict r --out d --ids --ids a", "ids", ("a",)),
        ("predict r --out d --ids a --ids", "ids", ()),
        ("fuse r --target t --tasks a b --tasks c d", "tasks", ["c", "d"]),
        ("predict --ids=a r --out d", "run", "r"),  # a list that begins with = has one value
        ("predict --ids=a r --out d", "ids", ("a",)),
        ("predict --split=test --ids=-a --out=d -- -r", "run", "-r"),
        ("export r --out d --version v3", "version", "v3"),
        ("compare --reuse a b --config c --reuse d", "reuse", (Path("a"), Path("b"), Path("d"))),
        ("compare --share 1/4", "share", (1, 4)),
        ('compare --reuse ["a"]', "reuse", (Path('["a"]'),)),  # no value is JSON
        ('evaluate r --set ["a"]', "overrides", ('["a"]',)),
        ("plan --ranks-per-host 4", "ranks_per_host", 4),
        ("plan --gpus-per-host 4", "ranks_per_host", 4),
        ("plan --device a100", "device", "a100-80"),
        ("plan --compare a b", "compare", (Path("a"), Path("b"))),
        ("plan --rows a=1 --rows b=2k", "rows", (("a", 1), ("b", 2000))),
        ("checkpoint show r --checkpoint best", "checkpoint", "best"),
        ("train --config c --help-config", "help_config", True),
        ("train --ranks 2", "argv", ("train", "--ranks", "2")),
    ],
)
def test_a_command_line_that_is_read(line: str, argument: str, value: object) -> None:
    assert values(line)[argument] == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", 'command line: unknown verb "trian"; did you mean "train"? (known: doctor, init, prep,'),
        ("--jsn", 'command line: got "--jsn" as its verb; known: doctor, init, prep,'),
        ("-- train", 'command line: got "--" as its verb; known: doctor, init, prep,'),
        ("train --version", 'train: unknown argument "--version"; did you mean "--overwrite"?'),
        (
            "train -- --config a",
            'train: unknown argument "--config"; after -- no word is a flag. Fix: leave out the --',
        ),
        ("compare --variants=a b", 'compare: unknown argument "b"; known: --config, '),
        ("plan --compare=a b", "--compare: too few values; it takes 2 of them. Fix: run `ple-rec plan --help`"),
        ("predict", "predict: RUN, --out missing; they are needed. Fix: run `ple-rec predict --help`"),
        ("export --version v3", "export: --out missing; it is needed. Fix: run `ple-rec export --help`"),
        ("diff a", "diff: RUN_B missing; it is needed. Fix: run `ple-rec diff --help`"),
        ("evaluate", "evaluate: RUN missing; it is needed. Fix: run `ple-rec evaluate --help`"),
        ("evaluate r --jsn", f'evaluate: unknown argument "--jsn"; did you mean "--json"? ({EVALUATE}). Fix: run '),
        ("evaluate r --no-json", f'evaluate: unknown argument "--no-json"; did you mean "--json"? ({EVALUATE}).'),
        ("evaluate r --js", f'evaluate: unknown argument "--js"; did you mean "--json"? ({EVALUATE}).'),
        ("evaluate r -j", f'evaluate: unknown argument "-j"; {EVALUATE}. Fix: run '),
        ("evaluate r s", f'evaluate: unknown argument "s"; {EVALUATE}. Fix: run '),
        ("evaluate --run r", f'evaluate: unknown argument "--run"; did you mean "--ranks"? ({EVALUATE})'),
        ("evaluate r --splt ü", 'evaluate: unknown argument "--splt"; did you mean "--split"?'),
        ("evaluate r --split tset", """--split: got 'tset'; did you mean "test"? (known: train, valid, test). Fix: """),
        ("evaluate r --split", "--split: no value; it takes one. Fix: run `ple-rec evaluate --help`"),
        ("evaluate r --split --json", "--split: no value; it takes one. Fix: run `ple-rec evaluate --help`"),
        ("evaluate r --json=perhaps", "--json: got 'perhaps'; expected no value, or true or false. Fix: run "),
        ("train --ranks -3", "--ranks: got '-3'; expected a positive int. Fix: run `ple-rec train --help`"),
        ("train census-ple", 'train: unknown argument "census-ple"; known: --config, '),
        ("train --argv x", 'train: unknown argument "--argv"; known: --config, '),
        ("repeat", "repeat: --config missing; it is needed. Fix: run `ple-rec repeat --help`"),
        ("repeat --confg x", 'repeat: unknown argument "--confg"; did you mean "--config"?'),
        ("predict r", "predict: --out missing; it is needed. Fix: run `ple-rec predict --help`"),
        ("predict r --out d --split", "--split: no value; it takes one or more. Fix: run `ple-rec predict --help`"),
        ("predict r --out d --split test valdi", "--split: got 'valdi'; did you mean \"valid\"?"),
        ("prep x --seed 1.5", "--seed: got '1.5'; expected an int. Fix: run `ple-rec prep --help`"),
        ("prep x --correlation much", "--correlation: got 'much'; expected a number. Fix: run `ple-rec prep --help`"),
        ("plan --compare a", "--compare: too few values; it takes 2 of them. Fix: run `ple-rec plan --help`"),
        ("plan --rows a", "--rows: got 'a'; expected TABLE=N, e.g. user_id=300e6. Fix: run `ple-rec plan --help`"),
        ("compare --share 4/4", "--share: got '4/4'; write I/N with I from 0 to N-1, e.g. 0/4. Fix: run "),
        ("checkpoint lsit", 'checkpoint: unknown action "lsit"; did you mean "list"? (known: list, verify, show).'),
        ("checkpoint list r --checkpoint x", 'checkpoint list: unknown argument "--checkpoint"; known: --json. Fix: '),
        ("doctor now", 'doctor: unknown argument "now"; it takes no more. Fix: run `ple-rec doctor --help`'),
        ("completion tcsh", "SHELL: got 'tcsh'; known: bash, zsh, fish. Fix: run `ple-rec completion --help`"),
    ],
)
def test_a_command_line_that_is_refused(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as refused:
        parse(line.split(" "))
    assert str(refused.value).startswith(message)
    assert main(line.split(" ")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ple-rec: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("line", ["train --config x --help --ranks 2", "train --help", "train -h"])
def test_help_goes_before_all_else(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 0
    out, err = capsys.readouterr()
    assert out.startswith(
        "usage: ple-rec train {--config FILE|NAME | --run-dir DIR --resume} [OPTIONS]\n\n"
        "Train the model of a configuration on a dataset directory."
    )
    assert err == ""


@pytest.mark.parametrize("argv", [[], ["checkpoint"]])
def test_without_a_verb_or_an_action_the_help_is_an_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: ple-rec ")


@pytest.mark.parametrize("line", ["--version", "--version train", "--foo --version"])
def test_the_version_is_the_programs(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 0
    assert capsys.readouterr() == (f"ple-rec {__version__}\n", "")


@pytest.mark.parametrize("options", [["--nnodes", "1"], ["--check"], ["--check", "--nnodes", "2"]])
@pytest.mark.parametrize(("line", "code"), [("train --help", 0), ("plan -h", 0), ("--version", 0), ("", 2)])
def test_help_starts_no_ranks(options: list[str], line: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(line.split()).verb == line.partition(" ")[0].removeprefix("--version")
    with pytest.raises(SystemExit) as ended:
        agent.main([*options, "--", *line.split()])
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert (err if code else out).startswith(("usage: ple-rec ", f"ple-rec {__version__}\n"))


def test_a_flag_of_another_verb_is_refused_before_a_job_waits(capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main(["--check", "--", "prep", "--version"]) == 2
    assert capsys.readouterr().err.startswith('ple-rec: prep: unknown argument "--version";')


@pytest.mark.parametrize("verb", ["train", "plan", "compare"])
def test_a_missing_configuration_is_named_before_torch_loads(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(f"ple_rec.cli.{verb}.require_torch", lambda: pytest.fail("torch is loaded"))
    assert main([verb]) == 2
    assert capsys.readouterr().err.startswith("ple-rec: --config: missing; it names a TOML file or a recipe")
    assert main([verb, "--help"]) == 0
    assert "--config FILE|NAME" in capsys.readouterr().out.partition("\n")[0]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_help_fits_the_terminal_and_is_plain_text(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for verb in VERBS:
        assert main([verb, "--help"]) == 0
        text = capsys.readouterr().out
        assert text.isascii()
        assert "\x1b" not in text
        assert "\n\n\n" not in text
        assert "  -h, --help" in text
        assert max(map(len, text.splitlines())) <= 120
        entries = text.partition("options:\n")[2].partition("\n\n")[0]  # examples below are to be copied as they stand
        wide = [line for line in entries.splitlines() if len(line) > max(width, 46)]
        assert [line for line in wide if not re.fullmatch(r"  -\S.*", line)] == []


@pytest.mark.parametrize("width", ["0", "1", "-1", "wide"])
def test_help_of_a_terminal_without_a_width(
    width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert main(["report", "--help"]) == 0
    assert "run directory" in capsys.readouterr().out


@pytest.mark.parametrize("no_color", ["", "1"])
def test_headings_are_bold_on_a_terminal_that_may_have_them(no_color: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    assert ("\x1b[1m" in help_text(command_line(), ["report"], Terminal())) == (not no_color)


def test_the_programs_help_ends_with_its_own_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    flags = "-h, --help  show this help, then stop\n  --version   print the version, then stop"
    assert f"\n\noptions:\n  {flags}\n\nexit codes:" in capsys.readouterr().out


def test_every_flag_is_explained() -> None:
    app = command_line()
    apps = [app[verb] for verb in VERBS]
    apps += [app["checkpoint"][action] for action in ("list", "verify", "show")]
    for verb in apps:
        if verb.default_command is None:
            continue
        assert (verb.default_command.__doc__ or "").partition("\n")[0].endswith(".")
        for argument in verb.assemble_argument_collection().filter_by(show=True):
            assert argument.parameter.help, f"{verb.name[0]} {argument.name}"


@pytest.mark.parametrize("line", ["fuse --help", "--version"])
def test_a_closed_pipe_is_no_error(line: str, repository: Path) -> None:
    command = [sys.executable, "-m", "ple_rec", *line.split()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(repository)
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def completed(script: str, *words: str) -> set[str]:
    """Return what bash offers after some words, by the script."""
    line = " ".join(f"'{word}'" for word in words)
    ask = (
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; F=$(complete -p ple-rec | sed 's/.*-F \\([^ ]*\\) .*/\\1/')"
    )
    text = f'{script}\n{ask}\n$F ple-rec "{words[-1]}" "{words[-2]}"\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_verbs_flags_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completed(script, "ple-rec", "") >= set(VERBS)
    assert completed(script, "ple-rec", "evaluate", "--") >= {"--split", "--checkpoint", "--json", "--set", "--ranks"}
    assert completed(script, "ple-rec", "prep", "--engine", "") == {"duckdb", "spark"}
    assert main(["__complete", "train", "--config", "census-"]) == 0
    assert {"census-ple", "census-mmoe"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("shell", "offer"),
    [
        ("bash", r'local -a _c=\(.*"--version"'),
        ("zsh", r"'\*?--version\["),
        ("fish", r"(?m)^complete .* -l version "),
    ],
)
def test_the_program_and_export_alone_offer_a_version(
    shell: str, offer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert len(re.findall(offer, script)) == 2
    if shell == "bash":
        assert completed(script, "ple-rec", "--v") == completed(script, "ple-rec", "export", "--v") == {"--version"}
        assert (
            completed(script, "ple-rec", "train", "--v") == completed(script, "ple-rec", "checkpoint", "--v") == set()
        )


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("train --set a=b --plan ini", "initial.json "),
        ("train --init-from ini", "initial.json "),
        ("prep lib", "library/"),
        ("predict r --data my", r"my\ file.csv "),
    ],
)
def test_bash_completes_files(line: str, whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("initial.json", "my file.csv"):
        (tmp_path / name).touch()
    (tmp_path / "library").mkdir()
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    end, terminal = pty.openpty()
    with subprocess.Popen(
        ["bash", "--norc", "-i"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=tmp_path,
        env=os.environ | {"TERM": "dumb", "PS1": "$ "},
        start_new_session=True,
    ) as bash:
        os.write(end, f"source script\nple-rec {line}\t".encode())
        shown, until = "", time.monotonic() + 20
        while not shown.endswith(whole) and time.monotonic() < until:
            if select.select([end], [], [], 0.1)[0]:
                shown += os.read(end, 1 << 16).decode()
        bash.kill()
    for file in (end, terminal):
        os.close(file)
    assert shown.endswith(f"{line[: line.rindex(' ') + 1]}{whole}")


@pytest.mark.parametrize(
    ("line", "options"), [("predict r --out d", PredictOptions(Path("d"))), ("export r --out d", ExportOptions())]
)
def test_flags_have_the_defaults_of_the_api(line: str, options: PredictOptions | ExportOptions) -> None:
    assert values(line).items() >= vars(options).items()


@pytest.mark.parametrize("verb", ["train", "evaluate", "plan", "prep", "compare", "predict"])
def test_what_a_component_takes_its_verb_takes(verb: str) -> None:
    arguments = command_line()[verb].assemble_argument_collection()
    names = {name for argument in arguments.filter_by(parse=True) for name in argument.names}
    parameters = set(inspect.signature(getattr(components, verb)).parameters) - OF_THE_JOB
    assert [p for p in parameters if names.isdisjoint({f"--{p.replace('_', '-')}", OTHER_NAMES.get(p)})] == []


def test_an_address_is_no_path_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fuse", "runs/a", "--target", "click.gauc", "--out", "s3://bucket/fusion"]) == 2
    said = "ple-rec: --out: got the address s3://...; it must be a path on this machine; "
    assert capsys.readouterr().err.startswith(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "verify s3:/a",
        "train --config s3:/a",
        "train --config census-ple --run-dir s3:/a",
        "train --config census-ple --init-from s3:/a",
        "plan --config census-ple --device h100 --schema s3:/a",
        "prep census --out s3:/a",
        "prep kuairand --out x --from s3:/a",
        "prep census --out x --append day=2 --parent s3:/a",
        "evaluate s3:/a",
        "serve s3:/a",
    ],
)
def test_an_address_with_one_slash_is_no_path(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    said = "ple-rec: s3:/a: has only one slash after the scheme; an address has the form s3://bucket/key. Fix: write s3://a\n"
    assert capsys.readouterr().err == said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("init s3://a/b --from x", "DIR: got 's3://a/b'; expected a path on this machine. "),
        (
            "prep census --out x --from s3://a/b",
            "--from: got s3://a/b; the raw files of census must lie on this machine. ",
        ),
    ],
)
def test_an_address_keeps_its_slashes_in_a_message(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    assert f"ple-rec: {said}" in capsys.readouterr().err
