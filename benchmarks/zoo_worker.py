"""The stages of one model of the zoo, each in a process of its own: `python zoo_worker.py STAGE NAME FOLDER [options]`.

`make` leaves a float model's weights, pictures and logits in a folder, `ours` and `converter` quantize it, `latency` runs
the two files in turn. Each prints a JSON object as its last line.
"""

import argparse
import json
import pathlib
import sys
import time

import applications
import clocks
import keras
import latency
import numpy as np
import weights

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.layers import Quantize
from keras_quant.report import measure
from keras_quant.tflite import Runtime
from keras_quant.tflite.runtime import quantize_array

FLOAT = "float.weights.h5"
CALIBRATION = 32


def make(args):
    """The float model: its weights, the pictures to calibrate and to test on, its logits."""
    size = args.size or applications.smallest_size(args.name)
    keras.utils.set_random_seed(0)
    model = applications.build(args.name, size)
    x = applications.pictures(args.name, size, applications.enough(size), seed=0)
    weights.settle(model, x)
    model.save_weights(args.folder / FLOAT)
    test = applications.pictures(args.name, size, args.inputs, seed=1)
    logits = model.predict(test, batch_size=8, verbose=0)
    np.savez(args.folder / "data.npz", calibration=x[:CALIBRATION], test=test, logits=logits)
    kernels = sum(int(np.prod(w.shape)) for w in model.weights)
    return {"family": applications.family(args.name), "size": size, "float_bytes": 4 * kernels}


def load(args):
    data = np.load(args.folder / "data.npz")
    model = applications.build(args.name, data["test"].shape[1])
    model.load_weights(args.folder / FLOAT)
    return model, data["calibration"], data["test"], data["logits"]


def ours(args):
    """Quantize, calibrate, export, verify."""
    model, calibration, test, logits = load(args)
    path, begin = args.folder / "ours.tflite", time.perf_counter()
    qmodel = kq.quantize(model, "int8", calibration)
    exported = kq.export(qmodel, path)
    seconds = time.perf_counter() - begin
    parity = kq.verify(qmodel, path, test, intermediates=args.intermediates, verbose=0)
    off = [{"name": op.name, "layer": op.layer, "reason": op.reason} for op in exported.off_xnnpack]
    return {
        "operators": len(exported.operators),
        "float_operators": len(exported.float_operators),
        "partitions": exported.partitions,
        "off_xnnpack": off,
        "bytes": exported.bytes,
        "outputs": parity.elements,
        "differ": parity.mismatches,
        "inside": len(parity.intermediates),
        "inside_differ": sum(t.mismatches > 0 for t in parity.intermediates),
        **noise(logits, on_litert(path, test)),
        **noisiest_layer(qmodel, test),
        "quantize_export_s": seconds,
        "peak_mb": clocks.memory("VmHWM"),
    }


def converter(args):
    """The TensorFlow converter's full-integer file, on the same calibration data."""
    model, calibration, test, logits = load(args)
    path, begin = args.folder / "converter.tflite", time.perf_counter()
    content = latency.converted(model, calibration)
    seconds = time.perf_counter() - begin
    path.write_bytes(content)
    partitions = len(Runtime(content, path).partitions())
    report = {"converter_bytes": len(content), "converter_partitions": partitions, "converter_s": seconds}
    found = noise(logits, on_litert(path, test))
    return {**report, **{f"converter_{key}": value for key, value in found.items()}}


def measure_latency(args):
    """One thread, processor time, the files in turn."""
    files = {path.stem: path.read_bytes() for path in sorted(args.folder.glob("*.tflite"))}
    seconds = latency.measure(files, threads=1, repeats=args.repeats)
    result = {f"{name}_ms": float(np.median(values[:, 1]) * 1e3) for name, values in seconds.items()}
    if len(files) == 2:
        result["latency_ratio"] = latency.ratio(seconds["ours"], seconds["converter"], 1)
    return result


def on_litert(path, x):
    """The file's output as real numbers."""
    runtime = Runtime(path.read_bytes(), path)
    (scale, zero_point) = runtime.outputs[0]["quantization"]
    return (runtime.run([quantize_array(x, runtime.inputs[0])])[0].astype("float32") - zero_point) * scale


def noise(real, quantized):
    """Signal to quantization noise in dB, and the same where only what depends on the input counts as signal."""
    power = lambda x: np.sum(x**2, dtype="float64")
    decibels = lambda signal: float(10 * np.log10(signal / max(power(real - quantized), 1e-30)))
    return {"sqnr": decibels(power(real)), "varying": decibels(power(real - real.mean(0)))}


def noisiest_layer(qmodel, x):
    """The layer that loses most when it alone computes on int8, its inputs and output on their grids: name and SQNR."""
    entrances = {node.path for node in trace(qmodel).nodes if isinstance(node.operation, Quantize)}
    found = {path: measured.local_sqnr for path, measured in measure(qmodel, x)[1].items() if path not in entrances}
    name = min(found, key=found.get)
    return {"noisiest": name, "noisiest_sqnr": found[name]}


STAGES = {"make": make, "ours": ours, "converter": converter, "latency": measure_latency}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("name")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--size", type=int)
    parser.add_argument("--inputs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--intermediates", action="store_true")
    args = parser.parse_args()
    try:
        result = STAGES[args.stage](args)
    except Exception as error:  # one row of the table, not the end of it
        lines = str(error).strip().splitlines() or [""]
        result = {"error": f"{type(error).__name__}: {lines[0][:300]}"}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
