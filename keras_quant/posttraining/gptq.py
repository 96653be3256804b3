"""Rounding one input after the other, each error made good by the weights that are still to come."""

import numpy as np
from scipy import linalg

from keras_quant.errors import QuantizationError
from keras_quant.posttraining import windows
from keras_quant.posttraining.method import RoundingMethod, register
from keras_quant.posttraining.walk import is_weighted


@register("gptq")
class GPTQ(RoundingMethod):
    """GPTQ: for Dense layers, and convolutions without groups as what they are on windows of their input.

    With `H = XᵀX + λI` over sampled inputs, the weights of one input after the other are rounded, those of the greatest
    power first, and what is lost is made good by those still to come: `W ← W - (w - ŵ)/[H⁻¹]ᵢᵢ · [H⁻¹]ᵢ` by the Cholesky
    factor of `H⁻¹`. Scales stay as the quantizer has them. A layer that comes out no better than rounding to nearest keeps
    that.

    Args:
        damping: λ as a share of the mean of H's diagonal.
        places: how many places of a layer's output are looked at.
        seed: of their choice.

    References:
        - [GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers](
          https://arxiv.org/abs/2210.17323)
    """

    def __init__(self, damping=0.01, places=8192, seed=0):
        super().__init__(places, seed)
        if not damping > 0:
            raise QuantizationError(f"`damping` is positive. Received: damping={damping}")
        self.damping = damping

    def takes(self, layer):
        return is_weighted(layer) and windows.sums_rows(layer)

    def round(self, layer, grid, sample):
        rows = np.float64(sample.rows)
        hessian = rows.T @ rows
        hessian += self.damping * max(np.mean(np.diag(hessian)), 1e-12) * np.eye(len(hessian))
        order = np.argsort(-np.diag(hessian))
        inverse = linalg.cho_solve(linalg.cho_factor(hessian[np.ix_(order, order)]), np.eye(len(order)))
        steps, nearest, is_free = (a.reshape(len(order), -1)[order] for a in (grid.steps, grid.nearest, grid.is_free))
        integers = np.empty_like(steps)
        integers[order] = _rounded(steps, nearest, is_free, linalg.cholesky(inverse), grid.limit)
        return integers.reshape(grid.steps.shape)

    def get_config(self):
        return {**super().get_config(), "damping": self.damping}


# Inputs whose errors are passed on together.
BLOCK = 128


def _rounded(steps, nearest, is_free, factor, limit):
    """The integers `(inputs, outputs)` of weights in steps of the grid, input after input.

    Args:
        steps, nearest, is_free: of `Grid`, `(inputs, outputs)`.
        factor: upper Cholesky factor of the Hessian's inverse.
        limit: largest integer.
    """
    steps, integers = steps.copy(), np.empty_like(steps)
    for start in range(0, len(steps), BLOCK):
        end = min(start + BLOCK, len(steps))
        errors = np.empty((end - start, steps.shape[1]))
        for row in range(start, end):
            integers[row] = np.where(is_free[row], np.clip(np.rint(steps[row]), -limit, limit), nearest[row])
            errors[row - start] = (steps[row] - integers[row]) / factor[row, row]
            steps[row + 1 : end] -= np.outer(factor[row, row + 1 : end], errors[row - start])
        steps[end:] -= factor[start:end, end:].T @ errors
    return integers
