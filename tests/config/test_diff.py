from ple_rec.config.diff import differences, disallowed_differences
from ple_rec.config.run import RunConfig

RAW = {
    "name": "a",
    "data": {"path": "d"},
    "model": {"variant": "ple", "levels": [{"task_experts": 1}, {"task_experts": 2}]},
    "train": {"epochs": 1, "batch_size": 32},
}


def _config(**changes: object) -> RunConfig:
    return RunConfig.model_validate(RAW | changes, strict=False)


def test_equal_configurations_do_not_differ() -> None:
    assert differences(_config(), _config()) == []


def test_every_differing_leaf_is_named_with_both_values() -> None:
    other = _config(
        seed=3,
        model={"variant": "ple", "levels": [{"task_experts": 1}, {"task_experts": 4}]},
        train={"steps": 7, "batch_size": 32},
    )
    assert differences(_config(), other) == [
        ("seed", 0, 3),
        ("model.levels[1].task_experts", 2, 4),
        ("train.epochs", 1, None),
        ("train.steps", None, 7),
    ]


def test_a_missing_level_is_named_leaf_by_leaf() -> None:
    other = _config(model={"variant": "ple", "levels": [{"task_experts": 1}]})
    assert ("model.levels[1].task_experts", 2, None) in differences(_config(), other)


def test_allowed_keys_and_tables_are_left_out() -> None:
    other = _config(seed=3, train={"steps": 7, "batch_size": 32}, checkpoint={"keep": 9})
    assert disallowed_differences(_config(), other, ["checkpoint", "train.steps", "train.epochs"]) == [("seed", 0, 3)]
    assert [key for key, _, _ in disallowed_differences(_config(), other, ["check"])] == [
        "seed",
        "train.epochs",
        "train.steps",
        "checkpoint.keep",
    ]
