"""What the benchmarks of small classifiers share: how one is trained, written and judged on the device's runtime."""

import pathlib
import tempfile

import keras
import numpy as np

import keras_quant as kq
from keras_quant.tflite import Runtime
from keras_quant.tflite.runtime import quantize_array

BATCH = 64
# What more epochs do by themselves.
CONTROL = "float32, trained on"
UNTRAINED = ", without training"


def trained(model, data, epochs, rate, held_out=None, callbacks=(), clipnorm=None):
    """Fit a model that gives logits.

    Args:
        model: `keras.Model`.
        data: inputs and labels, or a `keras.utils.PyDataset` of both.
        epochs: how many.
        rate: of Adam, a number or a schedule.
        held_out: inputs and labels to choose by, or `None`.
        callbacks: of `fit`.
        clipnorm: of Adam.

    Returns:
        The model.
    """
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate, clipnorm=clipnorm), loss, metrics=["accuracy"])
    x, y = (data, None) if isinstance(data, keras.utils.PyDataset) else data
    batch = None if y is None else BATCH
    model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0, callbacks=list(callbacks), validation_data=held_out)
    return model


def written(qmodel, data):
    """The file's bytes, and how many of its outputs differ from `predict`."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.tflite"
        kq.export(qmodel, path)
        parity = kq.verify(qmodel, path, data, verbose=0)
        return path.read_bytes(), parity.mismatches


def accuracy(content, data):
    """Per cent of right answers of a file on LiteRT."""
    runtime, right = Runtime(content, "m.tflite"), 0
    (given,) = runtime.inputs
    for x, label in zip(*data):
        (logits,) = runtime.run([quantize_array(x[None], given)])
        right += int(np.argmax(logits[0].astype("float32")) == label)
    return 100 * right / len(data[0])


def trials(model, seed, policies, train_on, calibration, held_out, test):
    """Train a float model on in each precision, and judge the files.

    Args:
        model: trained float `keras.Model`.
        seed: of each training.
        policies: names of policies, the first of them "float32" and the second `CONTROL`; with `UNTRAINED` behind it one is
            calibrated only, as "float32" is.
        train_on: function that trains a quantized model.
        calibration: inputs.
        held_out, test: inputs and labels.

    Yields:
        Dicts, the rows of a table.
    """
    base = control = None
    for name in policies:
        keras.utils.set_random_seed(seed)
        policy = name.split(",")[0]
        qmodel = kq.quantize(model, policy, calibration)
        if name != "float32" and not name.endswith(UNTRAINED):
            train_on(qmodel)
        content, differ = written(qmodel, test[0])
        own = accuracy(content, test)
        base = own if base is None else base
        control = own if name == CONTROL else control
        yield {
            "seed": seed,
            "policy": name,
            "held out": accuracy(content, held_out),
            "accuracy": own,
            "to float": own - base,
            "to trained on": "-" if control is None else own - control,
            "bytes": len(content),
            "differ": differ,
        }


def means(lines):
    """A row a policy, over the seeds."""
    for policy in dict.fromkeys(line["policy"] for line in lines):
        own = [line for line in lines if line["policy"] == policy]
        mean = dict(own[0], seed="mean", differ=sum(line["differ"] for line in own))
        for key, value in own[0].items():
            if isinstance(value, float):
                mean[key] = float(np.mean([line[key] for line in own]))
        yield mean


def shown(line):
    """A row with two decimals, for one answer in a thousand is less than a tenth of a point."""
    return {key: f"{value:.2f}" if isinstance(value, float) else value for key, value in line.items()}


def printed(lines):
    """The rows, each printed as it comes."""
    for line in lines:
        print(" | ".join(str(value) for value in shown(line).values()), flush=True)
        yield line
