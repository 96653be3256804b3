"""`ai-edge-quantizer`, given the float file and our ranges for its calibration's, writes the integers that we write.

The float file is the converter's, so that batch normalization is folded in float by a tool of others before a third one
quantizes. Where the files part, the test says why:

* **scale of an activation**: it divides the range in float32, we divide in float64 and round once: at most one float32
  step. Bias scales follow their input's.
* **scale of folded weights**: it takes the largest weight after folding in float32, we the largest before, times the gain.
* **average pooling**: it keeps AVERAGE_POOL_2D, whose output has to lie on the input's grid, and drops the range that
  belongs to the output; see the converter's test for what we write.
"""

import functools

import numpy as np
import pytest

from tests.judges.cases import AVERAGED, DENSE, NORMALIZED, PLAIN, case
from tests.judges.judges import ai_edge_quantizer
from tests.judges.reading import differences, operators, within

pytest.importorskip("ai_edge_quantizer", reason="ai-edge-quantizer comes with the `test` extra: pip install '.[test]'")
pytestmark = [
    pytest.mark.slow,
    # One process makes the files for all.
    pytest.mark.xdist_group("judges"),
    # Its own check of the float file asks LiteRT to keep all tensors.
    pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`"),
]

SCALES_OF_GRIDS = {(role, "scale"): 1 for role in ("input", "input_1", "input_2", "output")}


@functools.cache
def judged(name):
    """Its file, as bytes and as operators."""
    content = ai_edge_quantizer(case(name))
    return content, operators(content)


@pytest.mark.parametrize("name", PLAIN | {"dense": DENSE["dense"]})
def test_integers_weight_scales_and_outputs_are_ai_edge_quantizers(name):
    content, theirs = judged(name)
    assert within(differences(case(name).ours, theirs), {**SCALES_OF_GRIDS, ("bias", "scale"): 2}) == {}
    assert case(name).parting(content) == (0, 0)


@pytest.mark.parametrize("name", NORMALIZED | {name: DENSE[name] for name in ("dense_bn", "residual")})
def test_integers_agree_behind_its_own_folding(name):
    content, theirs = judged(name)
    allowed = {**SCALES_OF_GRIDS, ("weights", "scale"): 3, ("bias", "scale"): 4}
    assert within(differences(case(name).ours, theirs), allowed) == {}
    assert case(name).parting(content) == (0, 0)


@pytest.mark.parametrize("name", ["conv", "depthwise", "max_pooling"])
def test_scale_of_an_activation_parts_by_float32_division(name):
    for our, their in zip(case(name).ours, judged(name)[1]):
        bounds = case(name).ranges.get(our.roles["output"].name)
        if bounds is not None:
            low, high = np.float32(bounds)
            assert their.roles["output"].scale == (high - low) / np.float32(255)
            assert our.roles["output"].scale == np.float32((np.float64(high) - np.float64(low)) / 255)


@pytest.mark.parametrize("name", AVERAGED)
def test_average_pooling_stays_on_its_inputs_grid(name):
    pool, ours = judged(name)[1][0], case(name).ours[0]
    assert (pool.name, ours.name) == ("AVERAGE_POOL_2D", "DEPTHWISE_CONV_2D")
    x, y = pool.roles["input"], pool.roles["output"]
    assert (x.scale, x.zero_point) == (y.scale, y.zero_point)
    assert ours.roles["output"].scale < y.scale
