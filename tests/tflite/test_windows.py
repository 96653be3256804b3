"""Convolutions with weights of few bits: products over windows on XNNPACK."""

import pathlib
import tempfile

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import keras_quant as kq
from tests.helpers import images, sequential, shake, ship

L = keras.layers


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 3),
    padding=st.sampled_from(["same", "valid"]),
    size=st.tuples(st.integers(6, 11), st.integers(6, 11)),
    bits=st.sampled_from([2, 3, 4]),
)
@pytest.mark.slow
def test_convolutions_of_few_bits_go_over_windows(kernel, strides, dilation, padding, size, bits):
    """Shrinking as far as the bits say, on XNNPACK whole, exact."""
    reach = [(k - 1) * (dilation if strides == (1, 1) else 1) + 1 for k in kernel]
    assume(padding == "same" or all(r <= s for r, s in zip(reach, size)))
    keras.utils.set_random_seed(0)
    conv = L.Conv2D(
        64, kernel, strides, padding, dilation_rate=dilation if strides == (1, 1) else 1, activation="relu", name="conv"
    )
    model = sequential(L.Conv2D(64, 1), conv, shape=(*size, 4))
    x = np.random.default_rng(0).normal(size=(4, *size, 4)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        report, _ = ship(kq.quantize(shake(model), f"w{bits}a8", x), pathlib.Path(folder), x)
    (stored,) = [t for t in report.tensors if t.name == "conv/kernel"]
    assert stored.dtype == ("int2" if bits == 2 else "int4") and stored.shape == (64, 64 * kernel[0] * kernel[1])
    assert report.partitions == 1 and report.off_xnnpack == ()


def test_causal_and_strided_sequences_of_few_bits_are_exact(tmp_path):
    x = images(shape=(20, 24))
    layers = L.Conv1D(64, 5, padding="causal"), L.Conv1D(64, 4, strides=3), L.Conv1D(32, 3, dilation_rate=2, padding="same")
    report, _ = ship(kq.quantize(shake(sequential(*layers, shape=(20, 24))), "int4", x), tmp_path, x)
    assert [t.dtype for t in report.tensors if t.name.endswith("/kernel")] == ["int4"] * 3


def test_windows_that_would_cost_more_bytes_than_they_save_stay_a_convolution(tmp_path):
    report, _ = ship(kq.quantize(shake(sequential(L.Conv2D(6, 3))), "int4", images()), tmp_path, images())
    assert [op.name for op in report.operators] == ["CONV_2D"]
