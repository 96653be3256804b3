"""Average pooling with padding: two operators, and yet near the exact average."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import images, sequential


@pytest.mark.parametrize("window, strides", [(2, 1), (3, 1), (3, 2), (5, 1), (7, 3)])
def test_padded_average_is_within_two_and_a_half_steps_of_keras(window, strides):
    x = images()
    model = sequential(keras.layers.AveragePooling2D(window, strides, padding="same", name="pool"))
    qmodel = kq.quantize(model, "int8", x)
    # Rounded twice, at a corner of 7×7 multiplied by 49/16 in between; inputs are rounded to their own grid first.
    on_grid = qmodel.layers[1](x)
    step = float(qmodel.get_layer("pool").last_part.output_quantizer.params().scale)
    difference = np.abs(np.asarray(qmodel(x)) - np.asarray(model(on_grid)))
    # Calibration clips a few outliers.
    assert np.quantile(difference, 0.99) <= 2.5 * step
