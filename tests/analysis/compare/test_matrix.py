"""Variants as runs: a baseline where there is none, equal cost, and what cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from ple_rec.analysis.compare.equal_cost import compute_cost
from ple_rec.analysis.compare.runs import list_runs
from ple_rec.config.choices import COMPARISON_CONFIGS
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import ConfigError, load_config, recipe_names
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import UserError
from ple_rec.runs.layout import resolve_checkpoint_path
from ple_rec.training.checks import select_run_columns
from ple_rec.training.model import first_layer_shape
from tests.analysis.compare.comparisons import MMOE, comparison, matrix

TINY = {"base": "tiny.toml"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_baseline_is_added_and_said(here: Path) -> None:
    found = matrix(here)
    assert list(found.variants) == ["single_task", "ple", "mmoe"]
    assert (found.baseline, found.reference) == ("single_task", "ple")
    assert found.variants["single_task"].config.model.bottom == (4,)  # type: ignore[union-attr]
    assert found.remarks == [
        "single_task is added as the baseline of all gains, with bottom layers [4]; other keys as in ple"
    ]
    assert [(variant.name, seed) for variant, seed in found.runs[:4]] == [
        ("single_task", 0),
        ("ple", 0),
        ("mmoe", 0),
        ("single_task", 1),
    ]


def test_runs_of_one_seed_differ_in_their_model_alone(here: Path) -> None:
    found = matrix(here, "train.epochs=3")
    configs = [variant.config.model_dump(exclude={"model", "name"}) for variant in found.variants.values()]
    assert configs[0] == configs[1] == configs[2]
    assert found.variants["mmoe"].config.train.epochs == 3


def test_a_variant_that_names_no_threads_has_one(here: Path) -> None:
    comparison(here)
    text = (here / "tiny.toml").read_text().replace("threads = 1\n", "")
    (here / "free.toml").write_text(text)
    found = matrix(here, variants={"ple": {"base": "free.toml"}})
    assert {variant.config.runtime.threads for variant in found.variants.values()} == {1}


def test_a_baseline_that_is_there_is_used(here: Path) -> None:
    alone = ["model.variant=single_task", "model.bottom=[4]"]
    found = matrix(here, variants={"ple": TINY, "alone": TINY | {"overrides": alone}})
    assert (found.baseline, list(found.variants), found.remarks) == ("alone", ["ple", "alone"], [])


def test_equal_flops(here: Path) -> None:
    wide = ["model.levels[0].expert_hidden=[64]"]
    found = matrix(
        here, match="flops", variants={"ple": TINY | {"overrides": wide}, "mmoe": TINY | {"overrides": MMOE}}
    )
    costs = [variant.cost.flops_per_sample for variant in found.variants.values()]
    assert max(costs) <= 1.01 * found.variants["ple"].cost.flops_per_sample
    assert min(costs) >= 0.99 * found.variants["ple"].cost.flops_per_sample
    assert set(found.variants["mmoe"].sizes) == {"model.expert_hidden"}
    mmoe = found.variants["mmoe"]
    width, _ = first_layer_shape(mmoe.config, select_run_columns(mmoe.config, DatasetDirectory("data")))
    assert compute_cost(mmoe.config, ["click", "like"], width) == mmoe.cost


def test_other_samples_or_tasks_are_refused(here: Path) -> None:
    other = TINY | {"overrides": ["data.path=elsewhere"]}
    with pytest.raises(UserError, match=r"variants.mmoe: has data.path = 'elsewhere'; ple has 'data'; .* same samples"):
        matrix(here, variants={"ple": TINY, "mmoe": other})
    fewer = TINY | {"overrides": ['tasks=[{name = "click"}]']}
    with pytest.raises(UserError, match=r"variants.mmoe: has a table \[tasks\] of its own; ple has another one"):
        matrix(here, variants={"ple": TINY, "mmoe": fewer})


@pytest.mark.parametrize("change", ["embeddings.dim=4000000000000", "model.tower.hidden=[4000000000000]"])
def test_a_variant_that_no_memory_holds_is_refused(here: Path, change: str) -> None:
    with pytest.raises(UserError) as caught:
        matrix(here, variants={"ple": TINY, "wide": TINY | {"overrides": [change]}})
    assert caught.value.place == "wide (embeddings.dim, model)"


def test_runs_that_leave_the_test_split_unread_have_no_gains(here: Path) -> None:
    with pytest.raises(
        UserError, match=r"evaluation.test: got false; gains and their intervals are computed on the test split"
    ):
        matrix(here, "evaluation.test=false")


def test_every_run_has_a_place_of_its_own_for_its_checkpoints(here: Path) -> None:
    found = matrix(here, f"checkpoint.path={here}/ck/{{run}}")
    runs = list_runs(found, Path("runs/cmp"))
    places = [resolve_checkpoint_path(run.config.checkpoint.path, run.directory) for run in runs]
    assert places == [
        here / "ck" / f"{variant}-seed-{seed}" for seed in (0, 1) for variant in ("single_task", "ple", "mmoe")
    ]
    assert not any("checkpoint" in remark for remark in found.remarks)


def test_runs_that_would_share_a_place_of_checkpoints_are_refused(here: Path) -> None:
    with pytest.raises(UserError) as caught:
        matrix(here, "checkpoint.path=/ck", seeds=1)
    assert str(caught.value) == (
        'checkpoint.path: got "/ck" for single_task seed 0 and ple seed 0; each run of a series has a place of its own '
        'for its checkpoints. Fix: give "/ck/{run}", in which {run} stands for NAME-seed-N'
    )


def test_how_the_losses_of_the_same_tasks_count_may_differ_and_is_said(here: Path) -> None:
    tasks = '[{name = "click"}, {name = "like"%s}]'
    variants = {
        "ple": TINY | {"overrides": ["tasks=" + tasks % ""]},
        "heavy": TINY | {"overrides": ["tasks=" + tasks % ", weight = 2.0"]},
    }
    found = matrix(here, baseline="ple", variants=variants)
    assert found.remarks == ["heavy differs from ple in tasks[1].weight too"]


def test_a_name_that_is_no_variant_is_refused(here: Path) -> None:
    (here / "c.toml").write_text('name = "c"\nbaseline = "alone"\n[variants.ple]\nbase = "tiny.toml"\n')
    with pytest.raises(ConfigError, match=r'baseline: "alone" is no variant; there are ple'):
        load_config(CompareConfig, "c.toml", kind=COMPARISON_CONFIGS)


def test_what_is_wrong_with_a_variant_is_told_with_its_name(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"^variants.mmoe: overrides: 1 problem\n  model.expert: unknown key"):
        matrix(here, variants={"ple": TINY, "mmoe": TINY | {"overrides": [*MMOE, "model.expert=3"]}})
    with pytest.raises(UserError, match=r"^variants.ple: .*nix.toml: no such file"):
        matrix(here, variants={"ple": {"base": "nix.toml"}})


@pytest.mark.parametrize("name", recipe_names(COMPARISON_CONFIGS))
def test_recipes_name_runs_that_are_there(name: str) -> None:
    found = load_config(CompareConfig, name, kind=COMPARISON_CONFIGS)
    assert {variant.base for variant in found.variants.values()} <= set(recipe_names())
