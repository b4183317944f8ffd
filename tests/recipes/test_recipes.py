"""Every recipe: it loads, and its model can be built on the dataset that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import tomli_w
import torch

from data_prep.engines.base import Engine, PartFile
from data_prep.output.metadata import build_schema
from data_prep.run import read_recipe
from data_prep.synthetic.mmoe import NAME as MMOE
from data_prep.synthetic.mmoe import Mmoe
from data_prep.vocabulary.build import Vocabularies
from ple_rec.config.base import SPLITS
from ple_rec.config.load import dump_toml, load_config, load_described_schema, recipe_names
from ple_rec.config.model import ModelConfig
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import DatasetSchema, SplitInfo, Table
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.models.variants import VARIANTS
from ple_rec.training.checks import select_run_columns
from ple_rec.training.model import build_unsharded_model

STATISTICS: Mapping[str, Any] = {
    **{"mean": 0.0, "std": 1.0, "log_mean": 0.0, "log_std": 1.0},
    "quantiles": [i / 1000 for i in range(1001)],
}
SPLIT_INFO = {split: SplitInfo(rows=1, row_groups=1) for split in SPLITS}


def schema_of(source: str, folder: Path) -> DatasetSchema:
    """What the preparation would write, with vocabularies of one value and splits of one row."""
    config, _, _ = read_recipe(source)
    vocabularies = Vocabularies(cast(Engine, None), config, folder, None)  # which counts nothing here
    vocabularies.tables |= {name: Table(name=name, rows=2) for name in vocabularies.names}
    files = {split: [PartFile(part=0, rows=1, row_groups=1)] for split in SPLITS}
    events = {history.name: 1 for history in config.histories}
    return build_schema(config, vocabularies.tables.values(), files, "f", None, events=events)


def write_without_data(folder: Path, schema: DatasetSchema) -> None:
    """A dataset directory of schema and statistics alone."""
    folder.mkdir(parents=True)
    (folder / "schema.toml").write_text(tomli_w.dumps(schema.model_dump(mode="json", exclude_none=True)))
    columns = {feature.name: {"train": STATISTICS} for feature in schema.dense}
    (folder / "stats.json").write_text(json.dumps({"columns": columns}))
    (folder / "_SUCCESS").touch()


@pytest.mark.parametrize("name", recipe_names())
def test_the_model_of_a_recipe_fits_its_dataset(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(RunConfig, name)
    assert config.name == name  # so that runs/<name> is what the documentation says
    assert load_config(RunConfig, _saved(config, tmp_path)) == config
    source = Path(config.data.path).name
    assert config.data.path == f"data/{source}"
    shipped = config.data.described_by
    if source == MMOE:
        schema = DatasetSchema(version=1, fingerprint="f", splits=SPLIT_INFO, **Mmoe().schema_fields())
    else:
        schema = schema_of(source, tmp_path / "vocab") if shipped is None else load_described_schema(shipped)
    write_without_data(Path(config.data.path), schema)
    dataset = DatasetDirectory(config.data.path)
    selection = select_run_columns(config, dataset)
    model = build_unsharded_model(config, selection, dataset.statistics(), torch.device("cpu"))
    assert model.dense_parameters() > 0
    assert model.flops_per_sample() > 0


def _saved(config: RunConfig, folder: Path) -> Path:
    file = folder / "config.toml"
    file.write_text(dump_toml(config))
    return file


def test_every_variant_has_a_census_recipe_that_differs_in_the_model_alone() -> None:
    ple = load_config(RunConfig, "census-ple")
    for variant in VARIANTS:
        config = load_config(RunConfig, f"census-{variant.replace('_', '-')}")
        assert config.model.variant == variant
        assert config.model_copy(update={"model": ple.model, "name": ple.name}) == ple
        for field in ("tower", "activation", "dropout", "input_dropout"):
            assert getattr(config.model, field) == getattr(ple.model, field), (variant, field)
        assert _depth(config.model) == _depth(ple.model), variant


def _depth(model: ModelConfig) -> int:
    """Layers between x and the towers."""
    levels = getattr(model, "levels", (model,))
    return sum(len(getattr(level, "expert_hidden", ()) or getattr(level, "bottom", ())) for level in levels)
