"""Sums of products over any labels ship as matrix products."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.helpers import few, functional, quantize_and_ship

L = keras.layers
WORDS, GRID = (6, 8), (4, 3, 2)


def kernel(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


CASES = {
    "two axes summed, the result turned": (lambda x: L.EinsumDense("abc,bcde->aed", (5, 4), bias_axes="e")(x), WORDS),
    "a kernel for each place": (lambda x: L.EinsumDense("abc,bcd->abd", (6, 4), bias_axes="d", activation="tanh")(x), WORDS),
    "new axes in between": (lambda x: L.EinsumDense("abc,bde->adce", (3, 8, 2))(x), WORDS),
    "a kernel of one axis": (lambda x: L.EinsumDense("abc,b->ac", (8,))(x), WORDS),
    "an ellipsis": (lambda x: L.EinsumDense("...x,xy->...y", (4,), bias_axes="y")(x), WORDS),
    "constant on the left, no batch in it": (lambda x: ops.einsum("ij,bjk->bik", kernel(5, 6), x), WORDS),
    "constant over two axes": (lambda x: ops.einsum("bhwc,hwk->bck", x, kernel(4, 3, 5)), GRID),
    "one tensor": (lambda x: ops.einsum("bij->bj", x), WORDS),
    "labels of one tensor alone": (lambda x: ops.einsum("bij,bkl->bi", x, x), WORDS),
    "ellipses": (lambda x: ops.einsum("...ij,...kj->...ik", x, x), WORDS),
    "three tensors": (lambda x: ops.einsum("bij,bkj,bkl->bil", x, x, x), WORDS),
    "all summed": (lambda x: ops.einsum("bij,bij->b", x, x), WORDS),
    "outer product": (lambda x: ops.einsum("bi,bj->bij", x[:, 0], x[:, 1]), WORDS),
}


@pytest.mark.parametrize("name", few(CASES, "a kernel for each place"))
def test_it_ships(name, tmp_path):
    quantize_and_ship(functional(*CASES[name]), tmp_path)
