"""`TFLiteConverter`, given fake-quantization operations at our ranges, writes the integers that we write.

Where the two files part, the test says why:

* **bias scale**: the format wants `s_x · s_w`. We write the float32 product of the two float32 scales in the file, which
  is what the kernels multiply; the converter rounds the product of two float64 scales. One or two float32 steps; no kernel
  reads the bias's scale.
* **scale of folded weights**: we multiply by the normalization's gain in float64 and round once, the converter computes
  the gain and the product in float32.
* **Dense**: the converter fails on one scale a channel, so it gets one a tensor: coarser weights. Written as a 1×1
  convolution the layer can have one a channel there too, and then all integers agree.
* **Dense behind which a batch normalization follows**: the converter cannot fold a gain a channel into one scale a tensor
  and leaves the layer in float.
* **average pooling**: AVERAGE_POOL_2D keeps its input's grid, so that the converter rounds twice, the second time in a
  QUANTIZE; we write a DEPTHWISE_CONV_2D that stays on XNNPACK and rounds once.
"""

import functools

import numpy as np
import pytest

from tests.judges.cases import DENSE, NORMALIZED, PLAIN, case
from tests.judges.judges import converter
from tests.judges.reading import differences, kernels, operators, ulps, within

# One process makes the files for all.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("judges")]


@functools.cache
def judged(name, **options):
    """The converter's file, as bytes and as operators."""
    content = converter(case(name), **options)
    return content, operators(content)


@pytest.mark.parametrize("name", PLAIN)
def test_integers_scales_and_outputs_are_the_converters(name):
    content, theirs = judged(name)
    assert within(differences(case(name).ours, theirs), {("bias", "scale"): 2}) == {}
    assert case(name).parting(content) == (0, 0)


@pytest.mark.parametrize("name", ["conv", "depthwise"])
def test_bias_scale_parts_by_the_order_of_rounding_alone(name):
    for our, their in zip(kernels(case(name).ours), kernels(judged(name)[1])):
        np.testing.assert_array_equal(our["bias"].scale, our["input"].scale * our["weights"].scale)
        # The exact scales that the file's are rounded from: known to half a float32 step each.
        exact = np.float64(their["input"].scale) * np.float64(their["weights"].scale)
        np.testing.assert_allclose(their["bias"].scale, exact, rtol=3 * 2.0**-24)


@pytest.mark.parametrize("name", NORMALIZED)
def test_batch_normalization_folds_as_the_converter_folds_it(name):
    content, theirs = judged(name)
    found = differences(case(name).ours, theirs)
    assert within(found, {("weights", "scale"): 3, ("bias", "scale"): 4}) == {}
    assert case(name).parting(content) == (0, 0)


@pytest.mark.parametrize("name", NORMALIZED)
def test_folded_scale_is_rounded_once(name):
    (ours,), values = kernels(case(name).ours), case(name).values
    of = lambda what: np.float64(next(v for path, v in values.items() if path.endswith(what)))
    axes = (0, 1, 2) if name == "conv_bn" else (0, 1)
    own = np.float32(np.abs(of("kernel")).max(axis=axes).ravel() / 127)
    gain = of("gamma") / np.sqrt(of("moving_variance") + 1e-3)
    np.testing.assert_array_equal(ours["weights"].scale, np.float32(own * np.abs(gain)))


def test_dense_has_one_scale_a_tensor_in_the_converters_file():
    _, theirs = judged("dense")
    found = differences(case("dense").ours, theirs)
    assert {key[2:] for key in found} == {("weights", "channels"), ("bias", "channels")}
    for our, their in zip(kernels(case("dense").ours), kernels(theirs)):
        assert their["weights"].scale == our["weights"].scale.max()
        # Our integers on that coarser grid: half a step of ours and half a step of theirs apart at most.
        coarser = our["weights"].values * (our["weights"].scale / their["weights"].scale)[:, None]
        assert np.abs(coarser - their["weights"].values).max() <= 1.0


@pytest.mark.parametrize("name", DENSE)
def test_dense_as_convolution_has_our_integers(name):
    content, theirs = judged(name, dense="as_convolution")
    ours, theirs = kernels(case(name).ours), kernels(theirs)
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs):
        np.testing.assert_array_equal(our["weights"].values.ravel(), their["weights"].values.ravel())
        np.testing.assert_array_equal(our["bias"].values, their["bias"].values)
        assert np.abs(ulps(our["weights"].scale, their["weights"].scale)).max() <= 3
        for role in ("input", "output"):
            assert (our[role].scale, our[role].zero_point) == (their[role].scale, their[role].zero_point)
    assert case(name).parting(content) == (0, 0)


def test_network_agrees_but_for_the_scales_of_its_dense_layers():
    _, theirs = judged("residual")
    found = differences(case("residual").ours, theirs)
    left = within(found, {("weights", "scale"): 3, ("bias", "scale"): 4})
    dense = [place for place, op in enumerate(theirs) if op.name == "FULLY_CONNECTED"]
    assert set(left) == {(p, "FULLY_CONNECTED", role, "channels") for p in dense for role in ("weights", "bias")}


def test_dense_before_batch_normalization_stays_float_in_the_converters_file():
    _, theirs = judged("dense_bn")
    assert [op.name for op in theirs] == ["RESHAPE", "DEQUANTIZE", "FULLY_CONNECTED", "QUANTIZE"]
    assert theirs[2].roles["weights"].scale.size == 0


def test_average_pooling_ends_on_the_same_grids():
    _, theirs = judged("average_pooling")
    (ours,) = case("average_pooling").ours
    assert [op.name for op in theirs] == ["AVERAGE_POOL_2D", "QUANTIZE"]
    pool, quantize = theirs
    assert pool.roles["output"].scale == pool.roles["input"].scale
    for our, their in ((ours.roles["input"], pool.roles["input"]), (ours.roles["output"], quantize.roles["output"])):
        assert (our.scale, our.zero_point) == (their.scale, their.zero_point)


def test_average_pooling_rounds_once_where_the_converter_rounds_twice():
    subject, (content, _) = case("average_pooling"), judged("average_pooling")
    (ours,) = subject.ours
    x, y = ours.roles["input"], ours.roles["output"]
    q = subject.inputs().astype(int) - x.zero_point
    mean = q.reshape(len(q), 6, 2, 6, 2, 6).mean(axis=(2, 4))
    ratio = float(x.scale[0] / y.scale[0])
    exact = np.clip(mean * ratio + y.zero_point, -128, 127)
    our_error = np.abs(subject.outputs(subject.content) - exact).max()
    their_error = np.abs(subject.outputs(content) - exact).max()
    # Half a step of the output; there, half a step of the input's grid besides (and 1/256 in QUANTIZE's own multiplier).
    assert our_error < 0.501
    assert 0.501 < their_error <= 0.5 * ratio + 0.5 + 0.5
