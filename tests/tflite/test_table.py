"""Tables in steps: any function of one int8 value, exactly, by two convolutions on XNNPACK."""

import numpy as np
import pytest

from keras_quant.tflite.lower import Lowering, Output
from keras_quant.tflite.runtime import Runtime
from keras_quant.tflite.table import steps
from tests.integer.one_op import EVERY_VALUE, grid, scales

RANDOM = {
    "anything": lambda rng: rng.integers(-128, 128, 256),
    "rising": lambda rng: np.sort(rng.integers(-128, 128, 256)),
    "falling": lambda rng: np.sort(rng.integers(-128, 128, 256))[::-1],
    "jumps": lambda rng: rng.choice([-128, 127], 256),
    "constant": lambda rng: np.full(256, rng.integers(-128, 128)),
}


@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("shape", [(16, 16, 1), (256,), (2, 4, 32)])
def test_steps_are_any_table_on_every_value(kind, shape):
    for sx, zx, rng in scales(21, 6):
        entries = RANDOM[kind](rng).astype(np.int8)
        lowering = Lowering(batch_size=1)
        x = lowering.writer.activation("x", shape, sx, zx)
        params = grid(np.exp(rng.uniform(-9, 3)), rng.integers(-128, 128))
        y = steps(lowering, entries, x, Output("y", shape, params))
        runtime = Runtime(lowering.writer.finish({"x": x}, {"y": y}, "a table"))
        assert len(runtime.partitions()) == 1
        (found,) = runtime.run([EVERY_VALUE.reshape(1, *shape)])
        np.testing.assert_array_equal(found.reshape(256), entries)
        assert (runtime.outputs[0]["quantization"]) == (params.scale, params.zero_point)
