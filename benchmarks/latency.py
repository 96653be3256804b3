"""Is the exported file as fast as the TensorFlow converter's, and how much faster than float?

    python benchmarks/latency.py [--threads 1 2] [--repeats 60] [--data DIR]

Batch 1 on LiteRT, and, where the extra `onnx` is installed, of the same models on ONNX Runtime. The files of a network run
in turn, again and again; ratios are medians over the pairs of neighbouring runs, in wall time (what a phone's user feels),
processor time beside it.
"""

import argparse
import importlib.util
import pathlib
import tempfile
import time

import networks
import numpy as np
import report
import tensorflow as tf

import keras_quant as kq
from keras_quant.tflite import Runtime


def converted(model, calibration=None):
    """The converter's file: fully integer with calibration data, else float."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([x[None]] for x in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def exported(model, calibration, policy="int8", **arguments):
    qmodel = kq.quantize(model, policy, calibration, **arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.tflite"
        kq.export(qmodel, path)
        return path.read_bytes()


def onnx_files(model, calibration):
    """The `.onnx` of the quantized and of the float model; nothing without the extra."""
    if importlib.util.find_spec("tf2onnx") is None:
        return {}
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.onnx"
        for name, source in (("ONNX", kq.quantize(model, "int8", calibration)), ("ONNX float", model)):
            kq.export(source, path)
            files[name] = path.read_bytes()
    return files


def lite_call(content, name, threads):
    runtime = Runtime(content, name, threads)
    detail = runtime.inputs[0]
    runtime.interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    return runtime.interpreter.invoke


def onnx_call(content, name, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    zeros = np.zeros((1, *given.shape[1:]), "float32")
    return lambda: session.run(None, {given.name: zeros})


def time_once(call, calls):
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(calls):
        call()
    return (time.perf_counter() - wall) / calls, (time.process_time() - processor) / calls


def measure(files, threads, repeats):
    """Seconds of wall and processor time, `(repeats, 2)` for each file."""
    made = {name: (onnx_call if name.startswith("ONNX") else lite_call)(f, name, threads) for name, f in files.items()}
    for call in made.values():
        time_once(call, 3)
    # As many calls as make about 20 ms, so that the clock does not matter.
    calls = {name: max(1, int(0.02 / time_once(call, 3)[0])) for name, call in made.items()}
    seconds = {name: [] for name in files}
    for _ in range(repeats):
        for name, call in made.items():
            seconds[name].append(time_once(call, calls[name]))
    return {name: np.array(values) for name, values in seconds.items()}


def rows(name, model, calibration, threads, repeats):
    files = {"ours": exported(model, calibration), "float": converted(model), **onnx_files(model, calibration)}
    try:
        files["converter"] = converted(model, calibration)
    except Exception as error:  # the converter refuses some networks; that is a result
        print(f"{name}: the converter failed: {str(error).splitlines()[0][:100]}")
    for count in threads:
        seconds = measure(files, count, repeats)
        row = {"network": name, "threads": count}
        for file in ("ours", "converter", "float"):
            row[f"{file} ms"] = float(np.median(seconds[file][:, 0]) * 1e3) if file in seconds else "-"
        for file in ("converter", "float"):
            row[f"ours / {file}"] = ratio(seconds["ours"], seconds[file], 0) if file in seconds else "-"
            row[f"(cpu) {file}"] = ratio(seconds["ours"], seconds[file], 1) if file in seconds else "-"
        row["float / ours"] = 1 / row["ours / float"]
        for file in ("ONNX", "ONNX float"):
            row[f"{file} ms"] = float(np.median(seconds[file][:, 0]) * 1e3) if file in seconds else "-"
        row["ONNX float / ONNX"] = ratio(seconds["ONNX float"], seconds["ONNX"], 0) if "ONNX" in seconds else "-"
        yield row


def ratio(ours, theirs, clock):
    return float(np.median(ours[:, clock] / theirs[:, clock]))


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "latency")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA)
    args = parser.parse_args()
    table = []
    if (args.data / "resnet8_cifar10.keras").exists():
        calibration = networks.cifar10("train", args.data)[0][:200].astype("float32")
        table += rows("ResNet-8", networks.resnet8(args.data), calibration, args.threads, args.repeats)
    else:
        print(f"ResNet-8 left out: {args.data} is not there.")
    for name, make in networks.NETWORKS.items():
        model = make()
        table += rows(name, model, networks.images(model, 16), args.threads, args.repeats)
    report.show("Latency, batch 1, medians", table, args.json)


if __name__ == "__main__":
    main()
