"""Does ONNX Runtime compute what Keras computes, how fast, and how do other ways to such a file compare?

    python benchmarks/onnx_runtime.py [--threads 1 2] [--repeats 30] [--data DIR]

ResNet-8 on all 10,000 CIFAR-10 test images; MobileNetV2, ResNet50 and a U-Net, with weights as `weights.py` makes them, on
32 inputs: outputs that differ between `predict` and ONNX Runtime, and what it leaves in float beside a QuantizeLinear or
DequantizeLinear. Then, paired, our int8 file, the float one, ONNX Runtime's own `quantize_static` of that with the same
calibration data, and the `.tflite` converted by tf2onnx; of weights in int8 alone our dynamic file, with an open batch and
with one sample, and ONNX Runtime's `quantize_dynamic`: bytes, latency, signal to quantization noise.
"""

import argparse
import logging
import pathlib
import tempfile
import time

import keras
import networks
import numpy as np
import onnxruntime
import report
import tf2onnx
import weights
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import keras_quant as kq
from keras_quant.onnx import describe
from keras_quant.onnx.report import WEIGHTED

SAMPLES = 32


def session(path, threads=1):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, x, batch=250):
    """The first output, on batches."""
    loaded = session(path, 2)
    name = loaded.get_inputs()[0].name
    return np.concatenate([loaded.run(None, {name: x[i : i + batch]})[0] for i in range(0, len(x), batch)])


class Reader(CalibrationDataReader):
    """The calibration data, one sample at a time."""

    def __init__(self, name, x):
        self.rest = iter([{name: sample[None]} for sample in x])

    def get_next(self):
        return next(self.rest, None)


def make(model, calibration, folder):
    """The quantized model and the files by name; `None` for a way that fails, which is printed."""
    qmodel = kq.quantize(model, "int8", calibration)
    files = {name: folder / f"{name}.onnx" for name in ("ours", "float")}
    kq.export(qmodel, files["ours"])
    kq.export(model, files["float"])
    qmodel_dynamic = kq.quantize(model, "dynamic_int8")
    for name, batch_size in (("dynamic", None), ("dynamic, batch 1", 1)):
        files[name] = folder / f"{name}.onnx"
        kq.export(qmodel_dynamic, files[name], batch_size=batch_size)
    ways = {
        "quantize_static": by_onnx_runtime,
        "tf2onnx of .tflite": by_tf2onnx,
        "quantize_dynamic": by_onnx_runtime_dynamically,
    }
    for name, way in ways.items():
        try:
            files[name] = way(qmodel, files["float"], calibration, folder / f"{name}.onnx")
            session(files[name])
        except Exception as error:  # another tool's failure is a result
            print(f"{model.name}: {name} failed: {' '.join(str(error).split())[:200]}")
            files[name] = None
    return qmodel, files


def by_onnx_runtime(qmodel, floats, calibration, path):
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(floats), str(prepared), skip_symbolic_shape=True)
    reader = Reader(qmodel.inputs[0].name, calibration)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(path), reader, QuantFormat.QDQ, per_channel=True, **kinds)
    return path


def by_onnx_runtime_dynamically(qmodel, floats, calibration, path):
    quantize_dynamic(str(floats), str(path), per_channel=True, weight_type=QuantType.QInt8)
    return path


def by_tf2onnx(qmodel, floats, calibration, path):
    file = path.with_suffix(".tflite")
    kq.export(qmodel, file, batch_size=1, input_type="float32", output_type="float32")
    tf2onnx.convert.from_tflite(str(file), opset=18, output_path=str(path))
    return path


def equality(name, qmodel, path, x):
    """One row: what differs from `predict`."""
    described = describe(path)
    parity = kq.verify(qmodel, path, x, verbose=0, intermediates=True)
    return {
        "network": name,
        "inputs": parity.samples,
        "outputs": parity.elements,
        "differ": parity.mismatches,
        "equal %": f"{100 * (1 - parity.mismatches / parity.elements):.3f}",
        "largest LSB": parity.largest,
        "tensors inside": len(parity.intermediates),
        "of them differ": sum(t.mismatches > 0 for t in parity.intermediates),
        "weights in float": len(described.unfused),
        "transposes": sum(op.name == "Transpose" for op in described.operators),
    }


def logits(model):
    """The model without its softmax: a thousand classes of random weights are all about equally likely, on any grid."""
    last = model.layers[-1]
    if getattr(last, "activation", None) is keras.activations.softmax:
        last.activation = keras.activations.linear
    return model


def sqnr(model, path, x):
    wanted = model.predict(x, verbose=0, batch_size=16)
    made = run(path, x, 1)
    return 10 * np.log10(np.mean((wanted - wanted.mean(0)) ** 2) / np.mean((wanted - made) ** 2))


def seconds(files, sample, threads, repeats):
    """Wall time of one call, `(repeats,)` for each file, run in turn."""
    calls = {}
    for name, path in files.items():
        loaded = session(path, threads)
        given = {loaded.get_inputs()[0].name: sample}
        calls[name] = lambda loaded=loaded, given=given: loaded.run(None, given)
        once(calls[name], 3)
    counts = {name: max(1, int(0.02 / once(call, 3))) for name, call in calls.items()}
    taken = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(once(call, counts[name]))
    return {name: np.array(values) for name, values in taken.items()}


def once(call, times):
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def in_float(path):
    """How many convolutions and products are left in float, of quantized layers and, in a dynamic file, of others."""
    runs = describe(path).runs
    return sum(count for operator, count in runs.items() if operator in WEIGHTED)


def compare(name, model, files, x, threads, repeats):
    """One row a file."""
    present = {way: path for way, path in files.items() if path is not None}
    taken = {count: seconds(present, x[:1], count, repeats) for count in threads}
    for way, path in present.items():
        row = {
            "network": name,
            "file": way,
            "bytes": path.stat().st_size,
            "SQNR dB": f"{sqnr(model, path, x[:SAMPLES]):.1f}",
        }
        row["weights in float"] = "-" if way == "float" else in_float(path)
        for count, times in taken.items():
            row[f"ms, {count} thread{'s' * (count > 1)}"] = float(np.median(times[way]) * 1e3)
            row[f"float / it, {count}"] = float(np.median(times["float"] / times[way]))
        yield row


def accuracy(qmodel, files, x, y):
    """Rows of ResNet-8 on the test set."""
    wanted = qmodel.predict(x, batch_size=250, verbose=0)
    yield {
        "ResNet-8": "predict",
        "accuracy %": f"{100 * np.mean(wanted.argmax(-1) == y):.2f}",
        "same class as predict %": "100",
    }
    for way, path in files.items():
        if path is not None and way not in ("tf2onnx of .tflite", "dynamic, batch 1"):
            made = run(path, x)
            same = f"{100 * np.mean(made.argmax(-1) == wanted.argmax(-1)):.2f}"
            yield {
                "ResNet-8": way,
                "accuracy %": f"{100 * np.mean(made.argmax(-1) == y):.2f}",
                "same class as predict %": same,
            }


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "onnx_runtime")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    equal, sides, scores = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if (args.data / "resnet8_cifar10.keras").exists():
            x, y = networks.cifar10("test", args.data)
            x, calibration = x.astype("float32"), networks.cifar10("train", args.data)[0][:500].astype("float32")
            model = networks.resnet8(args.data)
            qmodel, files = make(model, calibration, folder)
            equal.append(equality("ResNet-8", qmodel, files["ours"], x))
            scores += accuracy(qmodel, files, x, y)
            sides += compare("ResNet-8", model, files, x, args.threads, args.repeats)
        else:
            print(f"ResNet-8 left out: {args.data} is not there.")
        for name, build in networks.NETWORKS.items():
            keras.utils.set_random_seed(0)
            model = logits(build())
            x, calibration = networks.images(model, SAMPLES), networks.images(model, 16, seed=2)
            qmodel, files = make(weights.settle(model, calibration), calibration, folder)
            equal.append(equality(name, qmodel, files["ours"], x))
            sides += compare(name, model, files, x, args.threads, args.repeats)
    report.show("Keras against ONNX Runtime", equal, args.json)
    report.show("Files side by side, batch 1, medians", sides, args.json.with_name("onnx_files.json"))
    if scores:
        report.show("Accuracy on ONNX Runtime", scores, args.json.with_name("onnx_accuracy.json"))


if __name__ == "__main__":
    main()
