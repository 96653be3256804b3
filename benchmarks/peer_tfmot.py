"""tfmot's side of the benchmarks, for an interpreter that has it: `peer_tfmot.py parity FOLDER`, `steps` or `peak`.

tfmot works on Keras 2 (tf_keras), hence the process of its own.
"""

import json
import os
import pathlib
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import clocks
import numpy as np
import recipe
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

L = keras.layers


def resnet8(weights):
    """The network of `resnet8_cifar10.keras` in tf_keras, with its weights."""
    counts = {"conv2d": 0, "batch_normalization": 0, "activation": 0, "add": 0}

    def name(kind):
        counts[kind] += 1
        return kind if counts[kind] == 1 else f"{kind}_{counts[kind] - 1}"

    def conv(x, filters, size=3, strides=1):
        return L.Conv2D(filters, size, strides, padding="same", name=name("conv2d"))(x)

    def norm(x):
        return L.BatchNormalization(name=name("batch_normalization"))(x)

    def relu(x):
        return L.Activation("relu", name=name("activation"))(x)

    inputs = keras.Input((32, 32, 3), name="input_1")
    x = relu(norm(conv(inputs, 16)))
    y = norm(conv(relu(norm(conv(x, 16))), 16))
    x = relu(L.Add(name=name("add"))([x, y]))
    for filters in (32, 64):
        y = conv(relu(norm(conv(x, filters, strides=2))), filters)
        x = conv(x, filters, 1, 2)
        x = relu(L.Add(name=name("add"))([x, norm(y)]))
    x = L.Flatten()(L.AveragePooling2D(8)(x))
    model = keras.Model(inputs, L.Dense(10, activation="softmax", name="dense")(x))
    for layer in model.layers:
        if layer.weights:
            layer.set_weights([weights[f"{layer.name}/{w.name.split('/')[-1].split(':')[0]}"] for w in layer.weights])
    return model


def converted(qmodel):
    converter = tf.lite.TFLiteConverter.from_keras_model(qmodel)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def parity(folder):
    from ai_edge_litert.interpreter import Interpreter

    data = np.load(folder / "data.npz")
    model = resnet8(np.load(folder / "weights.npz"))
    qmodel = tfmot.quantization.keras.quantize_model(model)
    recipe.fine_tune(keras, qmodel, data["train_x"], data["train_y"])
    x, y = data["x"], data["y"]
    interpreter = Interpreter(model_content=converted(qmodel))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = source["quantization"]
    fed = np.clip(np.rint(x / scale) + zero, -128, 127).astype(np.int8)
    device = np.empty((len(x), 10), np.int8)
    for i in range(len(x)):
        interpreter.set_tensor(source["index"], fed[i : i + 1])
        interpreter.invoke()
        device[i] = interpreter.get_tensor(target["index"])[0]
    simulated = qmodel.predict(x, batch_size=250, verbose=0)
    scale, zero = target["quantization"]
    difference = np.abs(np.clip(np.rint(simulated / scale) + zero, -128, 127) - device.astype(int))
    return {
        "outputs": difference.size,
        "differ": int((difference > 0).sum()),
        "largest": int(difference.max()),
        "simulation": float((simulated.argmax(-1) == y).mean() * 100),
        "device": float((device.argmax(-1) == y).mean() * 100),
        "partitions": sum(d["op_name"] == "DELEGATE" for d in interpreter._get_ops_details()),
    }


def training():
    """One training step of MobileNetV2 (alpha 0.35) at 96×96, batch 32."""
    model = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None)
    qmodel = tfmot.quantization.keras.quantize_model(model)
    qmodel.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(-1, 1, (32, 96, 96, 3)).astype("float32"))
    y = tf.constant(rng.integers(0, 1000, 32))
    return tf.function(lambda: qmodel.train_step((x, y)))


def print_peak():
    imports = clocks.memory("VmRSS")
    clocks.timed(training(), 6)
    print(clocks.memory("VmHWM") - imports)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["parity", folder]:
            print(json.dumps(parity(pathlib.Path(folder))))
        case ["steps"]:
            clocks.serve(training())
        case ["peak"]:
            print_peak()
