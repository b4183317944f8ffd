"""Gradient-boosted trees on data/census, for docs/census.md: `pip install lightgbm==4.7.0`, then run this."""

from pathlib import Path

import lightgbm as lgb
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from ple_rec.config.load import load_schema

DATA = Path("data/census")
SETTINGS = {"objective": "binary", "metric": "auc", "verbose": -1, "seed": 0, "num_threads": 1} | {
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "cat_smooth": 20,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
}

schema = load_schema(DATA)
nominal = [f.name for f in schema.sparse if not f.name.endswith(("_id", "_bin"))]
columns = nominal + [f.name for f in schema.dense]
splits = {split: pq.read_table(DATA / split).to_pandas() for split in ("train", "valid", "test")}
for task in schema.tasks:
    train = lgb.Dataset(splits["train"][columns], splits["train"][task.label], categorical_feature=nominal)
    valid = lgb.Dataset(splits["valid"][columns], splits["valid"][task.label], reference=train)
    stop = lgb.early_stopping(60, verbose=False)
    model = lgb.train(SETTINGS, train, 1500, valid_sets=[valid], callbacks=[stop])
    aucs = {s: roc_auc_score(splits[s][task.label], model.predict(splits[s][columns])) for s in ("valid", "test")}
    print(f"{task.name}: {model.best_iteration} trees, AUC valid {aucs['valid']:.4f}, test {aucs['test']:.4f}")
