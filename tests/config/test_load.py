"""Files, recipes and bases; what strict means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from ple_rec.config import choices
from ple_rec.config.base import Config, PositiveInt, Sizes
from ple_rec.config.load import ConfigError, dump_toml, load_config, recipe_names
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError


class Ple(Config):
    variant: Literal["ple"]
    levels: PositiveInt = 2
    hidden: Sizes = (8,)


class Mmoe(Config):
    variant: Literal["mmoe"]
    experts: PositiveInt = 4
    hidden: Sizes = (8,)


class Train(Config):
    steps: PositiveInt = 1
    rate: float = 0.1


class Run(Config):
    model: Annotated[Ple | Mmoe, Field(discriminator="variant")] = Ple(variant="ple")
    train: Train = Train()
    sizes: Sizes = (1,)
    day: str = ""


@pytest.fixture
def recipe_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes in place of the package's, apart from the working directory."""
    folder, work = tmp_path / "recipes", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    monkeypatch.setattr(choices, "RECIPES", folder)
    monkeypatch.chdir(work)
    (folder / "census-ple.toml").write_text(
        'sizes = [1, 2]\n[train]\nsteps = 7\n[model]\nvariant = "ple"\nlevels = 3\n'
    )
    (folder / "census-mmoe.toml").write_text('base = "census-ple"\n[model]\nvariant = "mmoe"\n')
    return folder


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.usefixtures("recipe_dir")
def test_arrays_become_tuples_and_ints_stand_for_floats() -> None:
    config = load_config(Run, write("a.toml", "sizes = [3, 4]\nday = 2024-05-01\n[train]\nrate = 1\n"))
    assert config == Run(sizes=(3, 4), day="2024-05-01", train=Train(rate=1.0))
    assert type(config.train.rate) is float


@pytest.mark.usefixtures("recipe_dir")
def test_recipe_by_name_goes_before_a_file_and_a_path_does_not() -> None:
    write("census-ple", "sizes = [9]\n")
    assert load_config(Run, "census-ple").train.steps == 7
    assert load_config(Run, Path("census-ple")).sizes == (9,)
    assert recipe_names() == ["census-mmoe", "census-ple"]


@pytest.mark.usefixtures("recipe_dir")
def test_base_merges_tables_and_replaces_arrays() -> None:
    write("deep/middle.toml", 'base = "census-ple"\nsizes = [5]\n[train]\nrate = 0.5\n')
    config = load_config(Run, write("deep/top.toml", 'base = "middle.toml"\n[model]\nhidden = [6]\n'))
    assert config == Run(
        model=Ple(variant="ple", levels=3, hidden=(6,)), train=Train(steps=7, rate=0.5), sizes=(5,), day=""
    )


@pytest.mark.usefixtures("recipe_dir")
def test_another_variant_keeps_only_the_keys_that_it_has() -> None:
    assert load_config(Run, "census-mmoe").model == Mmoe(variant="mmoe")
    both = write("a.toml", 'base = "census-ple"\n[model]\nvariant = "mmoe"\nlevels = 3\n')
    with pytest.raises(ConfigError) as caught:  # what the user wrote is not dropped
        load_config(Run, both)
    assert str(caught.value) == (
        "a.toml (base census-ple): 1 problem\n  model.levels: unknown key; known: variant, experts, hidden"
    )


@pytest.mark.usefixtures("recipe_dir")
def test_a_typing_error_of_the_base_survives_another_variant() -> None:
    write("base.toml", '[model]\nvariant = "ple"\nlevls = 3\n')
    with pytest.raises(ConfigError, match=r"model\.levls: unknown key"):
        load_config(Run, write("a.toml", 'base = "base.toml"\n[model]\nvariant = "mmoe"\n'))


@pytest.mark.usefixtures("recipe_dir")
def test_brackets_without_end() -> None:
    with pytest.raises(UserError, match=r"a\.toml: nested too deeply; .* Fix: correct its brackets"):
        load_config(Run, write("a.toml", "sizes = " + "[" * 20_000))


@pytest.mark.usefixtures("recipe_dir")
def test_bases_in_a_circle() -> None:
    write("a.toml", 'base = "b.toml"\n')
    write("b.toml", 'base = "./a.toml"\n')
    with pytest.raises(UserError) as caught:
        load_config(Run, "a.toml")
    assert str(caught.value) == (
        "b.toml: base leads in a circle (a.toml -> b.toml -> a.toml); no file is its own base. Fix: drop one `base`"
    )
    write("conf/a.toml", 'base = "../conf/a.toml"\n')
    with pytest.raises(UserError, match=r"^conf/a\.toml: base leads in a circle \(conf/a\.toml -> conf/\.\./conf/a\."):
        load_config(Run, "conf/a.toml")


@pytest.mark.usefixtures("recipe_dir")
def test_base_is_a_string() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Run, write("a.toml", "base = 3\n"))
    assert str(caught.value) == ("a.toml: 1 problem\n  base: got 3 (int); expected a recipe's name or a path")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "census-pel",
            'census-pel: no such recipe or file; did you mean "census-ple"? (recipes: census-mmoe, census-ple). '
            "Fix: give the path of a TOML file or the name of a recipe",
        ),
        (
            "feed",
            "feed: no such recipe or file; recipes: census-mmoe, census-ple. "
            "Fix: give the path of a TOML file or the name of a recipe",
        ),
        (
            "runs/census-ple.toml",
            'runs/census-ple.toml: no such file in {here}; did you mean "census-ple"? (recipes: census-mmoe, '
            "census-ple). Fix: give the path of a TOML file or the name of a recipe",
        ),
        (
            Path("feed"),
            "feed: no such file in {here}; recipes: census-mmoe, census-ple. "
            "Fix: give the path of a TOML file or the name of a recipe",
        ),
        (
            "lost_base.toml",
            "lost_base.toml: base feed: no such recipe or file; recipes: census-mmoe, census-ple. "
            "Fix: give the path of a TOML file or the name of a recipe",
        ),
        ("run", "run: a directory; a configuration is a TOML file. Fix: name the file in it, run/config.toml"),
        ("empty", "empty: a directory; a configuration is a TOML file. Fix: name a file"),
    ],
)
@pytest.mark.usefixtures("recipe_dir")
def test_no_such_source(source: str | Path, text: str) -> None:
    write("lost_base.toml", 'base = "feed"\n')
    write("run/config.toml", "")
    Path("empty").mkdir()
    with pytest.raises(UserError) as caught:
        load_config(Run, source)
    assert str(caught.value) == text.replace("{here}", str(Path.cwd()))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            b"sizes = [1]\n[train]\n  steps = ten\n",
            "a.toml, line 3, column 11: `steps = ten` is not TOML; invalid value. Fix: correct it; strings need quotes",
        ),
        (
            b"sizes = [1,",
            "a.toml, line 1, column 12: `sizes = [1,` is not TOML; invalid value. Fix: correct it; strings need quotes",
        ),
        (b"# \xff", "a.toml: byte 2 is not UTF-8; TOML is UTF-8 text. Fix: save the file as UTF-8"),
    ],
)
@pytest.mark.usefixtures("recipe_dir")
def test_not_toml(content: bytes, text: str) -> None:
    Path("a.toml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_config(Run, "a.toml")
    assert str(caught.value) == text


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_run(name: str) -> None:
    assert load_config(RunConfig, name).name


@pytest.mark.usefixtures("recipe_dir")
def test_the_resolved_run_reads_back() -> None:
    source = write(
        "a.toml",
        'name = "demo"\ndata.path = "data"\n[train]\nepochs = 1\nbatch_size = 64\n'
        '[model]\nvariant = "ple"\n[[model.levels]]\ntask_experts = {income = 2}\n[[model.levels]]\n',
    )
    config = load_config(RunConfig, source, ["train.epochs=", "train.steps=5", "embeddings.tables.job.dim=8"])
    assert (config.train.epochs, config.train.steps, config.embeddings.tables["job"].dim) == (None, 5, 8)
    assert load_config(RunConfig, write("resolved.toml", dump_toml(config))) == config


def test_no_torch() -> None:
    code = "import sys, ple_rec.config.load, ple_rec.config.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
