"""Distributed evaluation metrics in bounded memory: AUC, GAUC, NE, log loss and calibration; MSE, RMSE and MAE."""

from ple_rec.metrics.accumulator import Curves, Result, State
from ple_rec.metrics.binary import BinaryMetrics
from ple_rec.metrics.collection import MetricCollection
from ple_rec.metrics.gauc import GroupAuc
from ple_rec.metrics.regression import RegressionMetrics

__all__ = ["BinaryMetrics", "Curves", "GroupAuc", "MetricCollection", "RegressionMetrics", "Result", "State"]
