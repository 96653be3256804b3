"""tfmot's side of the benchmarks, for an interpreter that has it: `peer_tfmot.py TASK FOLDER ARGUMENTS`, `steps` or `peak`.

tfmot works on Keras 2 (tf_keras), hence the process of its own.
"""

import inspect
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


def rebuilt(folder):
    """The network that `peer.hand_over` wrote, in tf_keras, and the Rescaling before it, if it begins with one.

    tfmot refuses Rescaling layers, so training has it before the quantized model, and whoever runs the file does it first.
    """
    layers, weights = json.loads((folder / "network.json").read_text()), np.load(folder / "weights.npz")
    tensors, rescaling = {}, None
    for each in layers:
        name = each["config"]["name"]
        given = [tensors[source] for source in each["inputs"]]
        if each["class"] == "InputLayer":
            inputs = tensors[name] = keras.Input(each["config"]["batch_shape"][1:], name=name)
            continue
        cls = getattr(L, each["class"])
        known = ["name", *inspect.signature(cls.__init__).parameters]
        layer = cls(**{key: value for key, value in each["config"].items() if key in known})
        if each["class"] == "Rescaling":
            rescaling, tensors[name] = layer, given[0]
            continue
        tensors[name] = layer(given if len(given) > 1 else given[0])
        if layer.weights:
            layer.set_weights([weights[f"{name}/{i}"] for i in range(len(layer.weights))])
    return keras.Model(inputs, tensors[name]), rescaling


def converted(qmodel):
    converter = tf.lite.TFLiteConverter.from_keras_model(qmodel)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def trained(folder, data, **arguments):
    """The network after quantization-aware training by the recipe; `arguments` are those of `recipe.fine_tune`."""
    model, rescaling = rebuilt(folder)
    qmodel = tfmot.quantization.keras.quantize_model(model)
    whole = qmodel if rescaling is None else keras.Sequential([keras.Input(model.input_shape[1:]), rescaling, qmodel])
    recipe.fine_tune(keras, whole, data["train_x"], data["train_y"], **arguments)
    return qmodel


def train(folder, **arguments):
    """Write the `.tflite` after training."""
    path = folder / "tfmot.tflite"
    path.write_bytes(converted(trained(folder, np.load(folder / "data.npz"), **arguments)))
    return {"bytes": path.stat().st_size}


def parity(folder):
    from ai_edge_litert.interpreter import Interpreter

    data = np.load(folder / "data.npz")
    qmodel = trained(folder, data)
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
        case [("parity" | "train") as task, folder, arguments]:
            print(json.dumps({"parity": parity, "train": train}[task](pathlib.Path(folder), **json.loads(arguments))))
        case ["steps"]:
            clocks.serve(training())
        case ["peak"]:
            print_peak()
