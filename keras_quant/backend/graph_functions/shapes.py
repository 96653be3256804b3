"""Questions about shapes, which are known."""

import math

import numpy as np

from keras_quant.backend.graph_functions.operator import reads


@reads("Shape")
def _shape(operator, x):
    return np.array(_sizes(operator), operator.output_dtype())


@reads("ShapeN")
def _shapes(operator, *operands):
    dtype = operator.output_dtype()
    return [np.array(x.shape.as_list(), dtype) for x in operator.operation.inputs]


@reads("Size")
def _size(operator, x):
    return np.array(math.prod(_sizes(operator)), operator.output_dtype())


@reads("Rank")
def _rank(operator, x):
    return np.array(len(_sizes(operator)), operator.output_dtype())


def _sizes(operator):
    return operator.operation.inputs[0].shape.as_list()
