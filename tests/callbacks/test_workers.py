"""Calibration and training by two workers, each a process."""

import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

import keras_quant as kq

WORKER = """
import json, os
os.environ["TF_CONFIG"] = json.dumps({{"cluster": {{"worker": {workers}}}, "task": {{"type": "worker", "index": {rank}}}}})
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
import keras, numpy as np, keras_quant as kq
L = keras.layers
keras.utils.set_random_seed(0)
x, y = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32"), np.arange(32) % 3
x[:, 0] *= 1 + np.arange(32).reshape(-1, 1, 1) % 8
policy = kq.Policy("int8", "int8", output_quantizer="{quantizer}")
with strategy.scope():
    body = [L.Conv2D(4, 3, use_bias=False), L.BatchNormalization(name="norm"), L.ReLU(), L.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *body, L.Dense(3)])
    qmodel = kq.quantize(model, policy, x[{rank}::2])  # each its own half
    kq.export(qmodel, r"{path}/calibrated_{rank}.tflite")
    qmodel.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
qmodel.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False)
kq.export(qmodel, r"{path}/trained_{rank}.tflite")
assert kq.verify(qmodel, r"{path}/trained_{rank}.tflite", x[:16], verbose=0).equal
entrance = qmodel.get_layer("input_layer_quantize").output_quantizer
np.savez(r"{path}/state_{rank}.npz", range=np.array(entrance.range()))
"""


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["moving_average", "lsq"])
def test_two_workers_go_by_the_global_batch_and_export_the_same_bytes(quantizer, tmp_path):
    root = pathlib.Path(kq.__file__).parents[1]
    workers = json_list(f"127.0.0.1:{port}" for port in _free_ports(2))
    scripts = [WORKER.format(workers=workers, rank=rank, path=tmp_path, quantizer=quantizer) for rank in range(2)]
    started = [subprocess.Popen([sys.executable, "-c", s], stderr=subprocess.PIPE, text=True, cwd=root) for s in scripts]
    errors = [process.communicate(timeout=900)[1] for process in started]
    assert all(process.returncode == 0 for process in started), "".join(error[-3000:] for error in errors)
    for name in ("calibrated", "trained"):
        first, second = ((tmp_path / f"{name}_{rank}.tflite").read_bytes() for rank in range(2))
        assert first == second
    if quantizer == "moving_average":
        x = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
        x[:, 0] *= 1 + np.arange(32).reshape(-1, 1, 1) % 8
        state = np.load(tmp_path / "state_0.npz")
        # Of the global batches of 16, the last ones after those of the first epoch.
        low, high = state["range"]
        batches = [x[:16], x[16:]] * 2
        assert high > 0.9 * min(batch.max() for batch in batches) and low < 0.9 * max(batch.min() for batch in batches)


def json_list(items):
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"
