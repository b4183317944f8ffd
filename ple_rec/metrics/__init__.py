"""Evaluation metrics over all ranks in bounded memory: AUC, GAUC, NE, log loss, calibration, MSE, RMSE, MAE and R^2."""

from ple_rec.metrics.accumulator import Result, State, TaskCurves
from ple_rec.metrics.collection import MetricCollection
from ple_rec.metrics.gauc import GroupAuc

__all__ = ["GroupAuc", "MetricCollection", "Result", "State", "TaskCurves"]
