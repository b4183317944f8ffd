"""Distributed evaluation metrics in bounded memory: AUC, GAUC, NE, log loss and calibration; MSE, RMSE and MAE."""

from ple_rec.metrics.accumulator import Curves, Result, State
from ple_rec.metrics.collection import MetricCollection
from ple_rec.metrics.gauc import GroupAuc

__all__ = ["Curves", "GroupAuc", "MetricCollection", "Result", "State"]
