"""What trials may change: of every variant, within its cost, and nothing by which variants are compared."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ple_rec.analysis.compare.tuning.sampler import DEFAULT_SPACE, Space, build_space, propose, with_trial_values
from ple_rec.cli.app import parse
from ple_rec.cli.compare import read_comparison
from ple_rec.config.compare import TuneConfig
from ple_rec.config.load import ConfigError, load_config
from ple_rec.errors import UserError
from tests.analysis.compare.comparisons import MMOE, matrix

DROPOUT = {"model.dropout": {"low": 0, "high": 1}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tuning(space: dict[str, Any]) -> TuneConfig:
    return TuneConfig.model_validate_json(json.dumps({"trials": 4, "space": space}))


def space(here: Path, keys: dict[str, Any], *overrides: str, **changes: Any) -> Space:
    return build_space(matrix(here, *overrides, **changes), tuning(keys))


def test_every_variant_has_the_default_space(here: Path) -> None:
    assert [dimension.key for dimension in space(here, {})] == list(DEFAULT_SPACE)
    without = [dimension.key for dimension in space(here, {}, 'data.drop=["user"]')]
    assert without == [key for key in DEFAULT_SPACE if key != "table_optimizer.learning_rate"]  # there are no tables


def test_ints_for_a_float_are_a_range_of_floats(here: Path) -> None:
    (dropout,) = space(here, {"model.dropout": {"low": 0, "high": 0.5}})
    assert dropout.bounds_or_choices == [0.0, 0.5]
    assert not space(here, {"model.input_dropout": {"low": 0, "high": 0.9}})[0].is_integer
    assert space(here, {"train.epochs": {"low": 1, "high": 3}})[0].is_integer
    with pytest.raises(
        ConfigError, match=r"model.dropout=1.0: 1 problem\n  model.dropout: got 1.0; must be >= 0 and < 1"
    ):
        space(here, DROPOUT)


def test_id_dropout_is_tuned_of_all_tables_or_of_one(here: Path) -> None:
    keys = ("embeddings.id_dropout", "embeddings.tables.user.id_dropout")
    shares = space(here, {key: {"low": 0.0, "high": 0.95} for key in keys})
    assert [dimension.bounds_or_choices for dimension in shares] == [[0.0, 0.95]] * 2
    assert not any(dimension.is_integer for dimension in shares)
    (values,) = propose(shares, 0, 1, [])
    config = with_trial_values("ple", matrix(here).variants["ple"].config, values)
    assert [config.embeddings.id_dropout, config.embeddings.tables["user"].id_dropout] == [values[key] for key in keys]
    with pytest.raises(UserError, match=r"tables: no feature of this run reads table usr; .* did you mean \"user\"\?"):
        space(here, {"embeddings.tables.usr.id_dropout": {"low": 0.0, "high": 0.95}})


def test_a_key_that_a_variant_lacks_names_the_variant(here: Path) -> None:
    experts = {"model.experts": {"choices": [2, 3]}}
    with pytest.raises(
        ConfigError, match=r"variants.single_task, tuned with model.experts=2.*\n.*experts: unknown key"
    ):
        space(here, experts)


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("seed", "this key identifies a run"),
        ("runtime.threads", "says where and how it runs"),
        ("model.variant", "this key identifies a run"),
        ("data.path", "have the same samples, tasks and metric"),
        ("tasks[0].weight", "have the same samples, tasks and metric"),
        ("train.best_metric", "have the same samples, tasks and metric"),
        ("train.batch_size", "gains are paired by seed"),
    ],
)
def test_what_variants_are_compared_by_is_no_trials_to_change(here: Path, key: str, rule: str) -> None:
    with pytest.raises(UserError, match=rule) as error:
        space(here, {key: {"low": 1, "high": 2}})
    assert error.value.place == f'tune.space."{key}"'


def test_a_key_that_cannot_be_read(here: Path) -> None:
    with pytest.raises(
        UserError, match=r'tune.space."model..dropout": `model..dropout` is no place; .* "model.dropout"'
    ):
        space(here, {"model..dropout": {"low": 0.0, "high": 0.5}})


def test_sizes_are_not_tuned_where_costs_are_equal(here: Path) -> None:
    wide = {"base": "tiny.toml", "overrides": ["model.levels[0].expert_hidden=[64]"]}
    both = {"ple": wide, "mmoe": {"base": "tiny.toml", "overrides": list(MMOE)}}
    towers = {"model.tower.hidden": {"choices": [[8], [16]]}}
    with pytest.raises(
        UserError, match=r"\[8\] changes single_task from [\d,]+ to [\d,]+ FLOPs a sample; costs are equal before"
    ):
        space(here, towers, match="flops", variants=both)
    with pytest.raises(UserError, match=r'"embeddings.dim": 8 changes .* dense parameters; costs are equal before'):
        space(here, {"embeddings.dim": {"choices": [8, 16]}}, match="params", variants=both)
    (tower,) = space(here, towers, match="none", variants=both)
    assert tower.bounds_or_choices == [(8,), (16,)]
    config = matrix(here, variants=both).variants["ple"].config
    assert with_trial_values("ple", config, {"model.tower.hidden": [8]}).model.tower.hidden == (8,)


def test_variants_are_judged_by_one_metric(here: Path) -> None:
    other = {"base": "tiny.toml", "overrides": [*MMOE, "train.best_metric=mean.auc"]}
    with pytest.raises(
        UserError, match=r"train.best_metric: ple has loss, mmoe has mean.auc; it chooses the best trial"
    ):
        space(here, {}, variants={"ple": {"base": "tiny.toml"}, "mmoe": other})
    weights = 'tasks=[{name = "click"}, {name = "like", weight = 0.5}]'
    weighted = {"base": "tiny.toml", "overrides": [*MMOE, weights]}
    named = {"base": "tiny.toml", "overrides": [weights.replace("0.5", "1.0")]}
    with pytest.raises(UserError, match=r"ple has loss, mmoe has loss \(weights 1, 0.5\); it chooses the best trial"):
        space(here, {}, variants={"ple": named, "mmoe": weighted})
    by_auc = {"variants": {"ple": named, "mmoe": weighted}}
    assert space(here, {}, "train.best_metric=mean.auc", **by_auc)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"model.dropout" = {low = 0.5, high = 0.5}', "low = 0.5 is not below high = 0.5"),
        (
            '"model.dropout" = {low = 0.0, high = 0.5, log = true}',
            "log = true with low = 0.0; a logarithm needs low > 0",
        ),
        ('"model.dropout" = {low = 0.0}', r"a range has low and high; or give choices = \[...\]"),
        ('"model.dropout" = {low = 0.0, high = 0.5, choices = [0.1, 0.2]}', "has choices and a range"),
        ('"model.dropout" = {choices = [0.1]}', "choices: got .0.1.; must have at least 2 items"),
        ("model.dropout = {low = 0.0, high = 0.5}", "space.model.dropout: unknown key; known: low, high, log, choices"),
        ('"model.dropout" = {low = 0.0, hi = 0.5}', "hi: unknown key"),
    ],
)
def test_a_range_that_is_none(here: Path, text: str, problem: str) -> None:
    file = here / "tune.toml"
    file.write_text(f"trials = 3\n[space]\n{text}\n")
    with pytest.raises(ConfigError, match=problem):
        load_config(TuneConfig, file)


def test_the_docs_show_the_default(repository: Path) -> None:
    text = (repository / "docs" / "compare.md").read_text()
    (block,) = re.findall(r"```toml\n(\[tune\]\n.*?)```", text, re.DOTALL)
    assert tuning(tomllib.loads(block)["tune"]["space"]).space == DEFAULT_SPACE


def test_the_command_line_goes_before_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "cmp.toml").write_text('name = "cmp"\n[tune]\ntrials = 7\n[variants.ple]\nbase = "census-ple"\n')

    def trials(*flags: str) -> int:
        return read_comparison(parse(["compare", "--config", "cmp.toml", *flags]).values["options"])[0].tune.trials

    assert (trials(), trials("--tune", "20"), trials("--tune", "0")) == (7, 20, 0)
    with pytest.raises(UserError, match="--tune: got 'few'; expected a non-negative int, 0 for none"):
        trials("--tune", "few")
