"""In thousands of channels some integers part from the judges' by one: only where the quotient lies half way.

Every tool divides a real number by a scale and rounds. We divide a bias in float64, they in float32; we multiply a weight by
the float32 reciprocal of its scale, as training does, they divide. The results are a few float32 steps apart, so that a
quotient that lies so near to a half may go either way: about one bias in a thousand, one weight in a hundred thousand.
"""

import numpy as np
import pytest

from tests.helpers import sequential
from tests.judges.cases import L, made
from tests.judges.judges import ai_edge_quantizer, converter
from tests.judges.reading import differences, kernels, operators, within

# Distance from a half, in float32 steps of the largest term: four roundings of theirs, of half a step each, and ours.
STEPS = 4 * 2.0**-23
ALLOWED = {
    **{("weights", "values"): 1, ("bias", "values"): 1},
    **{("weights", "scale"): 4, ("bias", "scale"): 5, ("output", "scale"): 1},
}


def real_terms(subject):
    """The folded bias in float64, and the sum of the magnitudes of the terms that it is made of."""
    values = {path.rpartition("/")[2]: np.float64(value) for path, value in subject.values.items()}
    if "gamma" not in values:
        return values["kernel"], values["bias"], np.abs(values["bias"])
    gain = values["gamma"] / np.sqrt(values["moving_variance"] + 1e-3)
    terms = [values["bias"] * gain, values["beta"], -values["moving_mean"] * gain]
    return values["kernel"] * gain, sum(terms), sum(map(np.abs, terms))


def from_half(quotient):
    return np.abs(np.abs(quotient - np.rint(quotient)) - 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("judge", [converter, ai_edge_quantizer])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("seed", [0, 2])
def test_integers_part_only_where_a_quotient_lies_half_way(seed, normalized, judge):
    if judge is ai_edge_quantizer:
        pytest.importorskip("ai_edge_quantizer", reason="comes with the `test` extra")
    layers = [L.Conv2D(1500, 3, strides=9)] + [L.BatchNormalization()] * normalized
    subject = made(lambda: sequential(*layers), seed)
    theirs = operators(judge(subject))
    assert within(differences(subject.ours, theirs), ALLOWED) == {}
    ((our, their),) = zip(kernels(subject.ours), kernels(theirs))
    kernel, bias, magnitude = real_terms(subject)
    scale = np.float64(our["weights"].scale)
    step = scale * np.float64(our["input"].scale)

    apart = our["bias"].values != their["bias"].values
    assert np.all(from_half(bias / step)[apart] <= STEPS * (magnitude / step)[apart])
    assert np.count_nonzero(apart) <= 30
    apart = our["weights"].values != their["weights"].values
    quotient = (kernel / scale).transpose(3, 0, 1, 2)
    assert np.all(from_half(quotient)[apart] <= STEPS * np.abs(quotient)[apart])
    assert np.count_nonzero(apart) <= 5
    # A bias or a weight off by one may move an output across the edge between two integers, never further.
    assert np.abs(subject.outputs(subject.content) - subject.outputs(judge(subject))).max() <= 1
