"""Trained networks on real images: exact, one partition, and as accurate as float, straight after calibration."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_quant as kq

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
CALIBRATION, TEST = 200, 500


def cifar10_test(count):
    """The first images `(count, 32, 32, 3)` float32 in 0…255 and their labels."""
    path = DATA / "cifar10_jpeg_test.tfrecord"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    records = (tf.io.parse_single_example(r, features) for r in tf.data.TFRecordDataset(str(path)).take(count))
    x, y = zip(*((tf.io.decode_jpeg(r["image"]).numpy(), int(r["label"])) for r in records))
    return np.stack(x).astype("float32"), np.array(y)


@pytest.mark.parametrize("name", ["resnet8_cifar10", pytest.param("mobilenet_v2_cifar10", marks=pytest.mark.slow)])
def test_trained_network(name, tmp_path):
    x, y = cifar10_test(CALIBRATION + TEST)
    model = keras.models.load_model(DATA / f"{name}.keras")
    qmodel = kq.quantize(model, "int8", x[:CALIBRATION])
    report = kq.export(qmodel, tmp_path / "m.tflite")
    assert report.partitions == 1
    x, y = x[CALIBRATION:], y[CALIBRATION:]
    parity = kq.verify(qmodel, tmp_path / "m.tflite", x, intermediates=True, verbose=0)
    assert parity.equal and parity.elements == 10 * TEST and len(parity.intermediates) > 10
    float_right, int8_right = ((m.predict(x, batch_size=250, verbose=0).argmax(-1) == y).mean() for m in (model, qmodel))
    assert int8_right > float_right - 0.015
