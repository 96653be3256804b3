"""The callbacks on two replicas."""

import pathlib
import subprocess
import sys

import pytest

import keras_quant as kq

MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, numpy as np, keras_quant as kq
from tests.callbacks.models import FEW_BITS, X, Y, compiled, float_model
from tests.callbacks.test_weight_average import Steps, averaged_variables, numpy_average
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
keras.utils.set_random_seed(0)
with strategy.scope():
    teacher = float_model()
    qmodel = kq.quantize(teacher, FEW_BITS, X)
    model = compiled(kq.distill(qmodel, teacher), keras.optimizers.Adam(0.02))
steps = Steps(averaged_variables(qmodel))
freeze = kq.callbacks.FreezeOscillating(0.2, momentum=0.3)
schedule = kq.callbacks.Schedule(1, 2, freeze_statistics_at=4, weight_bits={{0: 8, 3: None}})
model.fit(X, Y, batch_size=16, epochs=6, verbose=0, callbacks=[schedule, freeze])
assert sum(freeze.frozen.values()) > 0
model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[steps, kq.callbacks.WeightAverage(0.9)])
for variable, value in zip(steps.variables, numpy_average(steps.values, 0.9)):
    np.testing.assert_allclose(variable, value, rtol=1e-4, atol=1e-6, err_msg=variable.path)
try:
    model.fit(X, Y, verbose=0, callbacks=[kq.callbacks.LocateNaN()])
    raise SystemExit("not refused")
except kq.QuantizationError as error:
    assert "one device" in str(error)
kq.export(qmodel, r"{path}/m.tflite")
assert kq.verify(qmodel, r"{path}/m.tflite", X[:16], verbose=0).equal
"""


@pytest.mark.slow
def test_mirrored_strategy(tmp_path):
    root = pathlib.Path(kq.__file__).parents[1]
    command = [sys.executable, "-c", MIRRORED.format(path=tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
