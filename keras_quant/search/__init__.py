"""Precision chosen layer by layer for a budget."""

from keras_quant.search.assign import Search, assign
from keras_quant.search.budget import Budget, BudgetError
from keras_quant.search.cost import Cost, Latencies, write_operators
from keras_quant.search.front import Front, Point
from keras_quant.search.sensitivity import MEASURES, Sensitivity
