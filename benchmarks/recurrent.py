"""How fast, how large and how precise are recurrent layers in int8, without training?

    python benchmarks/recurrent.py [--tables time bytes precision streaming] [--repeats 60] [--weights FILE]

Time: single layers of 40 inputs a step that give sequences, batch 1, one thread of LiteRT, against TFLiteConverter's float
file of the same Keras layer. The files run in turn; times are medians of processor time, ratios medians over the pairs of
neighbouring runs. Bytes: the same layers at two lengths; "without outputs" leaves out a byte for each output of the whole
sequence, which a file holds room for. Precision: the signal to quantization noise of `h`, of trained layers of 64 units that
follow moving averages of one channel, and the last value of another at a mark, over 200 steps. Streaming: files of one step
a call, states in variables or handed on, each step compared with `predict` of the whole sequence; processor time of
`invoke` alone.
"""

import argparse
import pathlib
import tempfile

import clocks
import keras
import latency
import networks
import numpy as np
import report
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import keras_quant as kq

L = keras.layers
INPUTS = 40
LAYERS = {
    "LSTM 16 × 32": (L.LSTM, 16, 32),
    "LSTM 49 × 64": (L.LSTM, 49, 64),
    "LSTM 100 × 128": (L.LSTM, 100, 128),
    "LSTM 100 × 256": (L.LSTM, 100, 256),
    "GRU 100 × 128": (L.GRU, 100, 128),
    "SimpleRNN 100 × 128": (L.SimpleRNN, 100, 128),
}
LENGTHS = 100, 1000
TABLES = "time", "bytes", "precision", "streaming"
STREAMED = {"LSTM 256": (L.LSTM, 256), "LSTM 64": (L.LSTM, 64), "GRU 128": (L.GRU, 128)}
STEPS = 50
WEIGHTS = networks.DATA.parent / "reference" / "sequences_weights.npz"
TRAINED = {"LSTM": L.LSTM, "GRU": L.GRU}


def network(layer, steps, units, **options):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((steps, INPUTS)), layer(units, **{"return_sequences": True, **options})])


def samples(model, count=8):
    return np.random.default_rng(0).standard_normal((count, *model.input_shape[1:])).astype("float32")


def converted(model):
    """The converter's float file, variables frozen: its form of a layer that it takes as a loop."""
    call = tf.function(lambda x: model(x, training=False))
    step = call.get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:]), tf.float32))
    frozen = convert_variables_to_constants_v2(step, lower_control_flow=False)
    return tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert()


def times(repeats):
    for name, (layer, steps, units) in LAYERS.items():
        model = network(layer, steps, units)
        files = {"int8": latency.exported(model, samples(model)), "float": converted(model)}
        seconds = latency.measure(files, 1, repeats)
        row = {"": name} | {f"{file} µs": float(np.median(seconds[file][:, 1]) * 1e6) for file in files}
        row["int8 / float"] = latency.ratio(seconds["int8"], seconds["float"], 1)
        row |= {f"{file} bytes": len(content) for file, content in files.items()}
        yield row | {"bytes, int8 / float": len(files["int8"]) / len(files["float"])}


def sizes():
    for kind in (L.LSTM, L.GRU, L.SimpleRNN):
        for whole in (True, False):
            row = {"": f"{kind.__name__}, {'all outputs' if whole else 'the last output'}"}
            for steps in LENGTHS:
                model = network(kind, steps, 256, return_sequences=whole)
                size = len(latency.exported(model, samples(model, 2)))
                row |= {f"{steps} steps": size, f"{steps}, without outputs": size - 256 * steps * whole}
            yield row


def moving_averages(count, seed, steps=200):
    """Sequences of what the trained layers were trained on: noise; marks, three in a hundred; noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (count, steps, 3)).astype("float32")
    x[..., 1] = rng.random((count, steps)) < 0.03
    return x


def precisions(path):
    weights = dict(np.load(path))
    calibration, x = moving_averages(64, 3), moving_averages(64, 1)
    for name, layer in TRAINED.items():
        model = keras.Sequential([keras.Input(x.shape[1:]), layer(64, return_sequences=True)])
        model.set_weights([weights[f"memory_{name}_{index}"] for index in range(3)])
        exact = model.predict(x, verbose=0)
        for policy, options in (("int8", {}), ("int8", {"integer_only": True}), ("int4", {})):
            qmodel = kq.quantize(model, policy, calibration, **options)
            noise = qmodel.predict(x, verbose=0) - exact
            row = {"": f"{name}, {policy}{', integer_only' * bool(options)}"}
            for part, steps in (("all steps", slice(None)), ("first quarter", slice(50)), ("last step", slice(-1, None))):
                ratio = np.mean(exact[:, steps] ** 2) / np.mean(noise[:, steps] ** 2)
                row[f"{part}, dB"] = float(10 * np.log10(ratio))
            yield row


def streams(repeats):
    for name, (layer, units) in STREAMED.items():
        model = network(layer, STEPS, units)
        x = samples(model)
        qmodel = kq.quantize(model, "int8", x)
        for kept in ("variables", "inputs"):
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "stream.tflite"
                size = kq.export(qmodel, path, streaming=kept).bytes
                found = kq.verify(qmodel, path, x, verbose=0)
                step = loaded_step(path)
            clocks.timed(step, 1000)
            seconds = [clocks.timed(step, 1000)[0] for _ in range(repeats)]
            row = {"": f"{name}, states in {kept}", "µs a step": float(np.median(seconds) * 1e6), "bytes": size}
            yield row | {"outputs": found.elements, "differ": found.mismatches}


def loaded_step(path):
    """One step of a file, its inputs filled."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.ones(detail["shape"], detail["dtype"]))
    return interpreter.invoke


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "recurrent")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--weights", type=pathlib.Path, default=WEIGHTS, help="of the trained layers")
    args = parser.parse_args()
    path = lambda table: args.json.with_name(f"{args.json.stem}_{table}.json")
    if "time" in args.tables:
        report.show("Recurrent layers, processor time, one thread", list(times(args.repeats)), path("time"))
    if "bytes" in args.tables:
        report.show(f"Bytes, 256 units, {INPUTS} inputs", list(sizes()), path("bytes"))
    if "streaming" in args.tables:
        report.show("One step a call, processor time, one thread", list(streams(args.repeats)), path("streaming"))
    if "precision" in args.tables and not args.weights.exists():
        print(f"Precision left out: {args.weights} is not there; pass the file with --weights.")
    elif "precision" in args.tables:
        report.show("Signal to quantization noise of h, 200 steps", list(precisions(args.weights)), path("precision"))


if __name__ == "__main__":
    main()
