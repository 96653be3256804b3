"""Does the device compute what Keras computes, and how accurate is it?

    python benchmarks/parity.py [--qat] [--tfmot] [--peer-python PYTHON] [--data DIR]

ResNet-8 on all 10,000 CIFAR-10 test images, MobileNetV2, ResNet50 and a U-Net on 32 inputs: outputs and tensors inside that
differ between `predict` and LiteRT. `--qat` fine-tunes ResNet-8 for two epochs; `--tfmot` does the same with tfmot on
tf_keras (in the interpreter `--peer-python`), by the same recipe, and compares tfmot's own simulation with its own file.
"""

import argparse
import pathlib
import tempfile

import keras
import networks
import peer
import recipe
import report

import keras_quant as kq
from keras_quant.tflite import Runtime
from keras_quant.tflite.runtime import quantize_array


def compare(name, qmodel, x, folder):
    """One row: export, run on LiteRT, count."""
    path = folder / "model.tflite"
    exported = kq.export(qmodel, path)
    parity = kq.verify(qmodel, path, x, intermediates=True, verbose=0)
    return {
        "network": name,
        "inputs": parity.samples,
        "outputs": parity.elements,
        "outputs that differ": parity.mismatches,
        "tensors inside": len(parity.intermediates),
        "of them differ": sum(t.mismatches > 0 for t in parity.intermediates),
        "partitions": exported.partitions,
        "off XNNPACK": ", ".join(op.name for op in exported.off_xnnpack) or "-",
    }


def device_accuracy(qmodel, x, y, folder):
    path = folder / "device.tflite"
    kq.export(qmodel, path)
    runtime = Runtime(path.read_bytes(), path)
    return float((runtime.run([quantize_array(x, runtime.inputs[0])])[0].argmax(-1) == y).mean() * 100)


def accuracy(model, x, y):
    return float((model.predict(x, batch_size=250, verbose=0).argmax(-1) == y).mean() * 100)


def resnet8(args, folder):
    """Rows of parity and of accuracy."""
    x, y = networks.cifar10("test", args.data)
    train_x, train_y = networks.cifar10("train", args.data)
    x, calibration = x.astype("float32"), train_x[:500].astype("float32")
    model = networks.resnet8(args.data)
    qmodel = kq.quantize(model, "int8", calibration)
    parity = [compare("ResNet-8, calibrated", qmodel, x, folder)]
    scores = [("float", accuracy(model, x, y)), ("post-training, on LiteRT", device_accuracy(qmodel, x, y, folder))]
    if args.qat:
        recipe.fine_tune(keras, qmodel, train_x, train_y)
        scores.append(("2 epochs of QAT, on LiteRT", device_accuracy(qmodel, x, y, folder)))
        parity.append(compare("ResNet-8, 2 epochs of QAT", qmodel, x, folder))
    if report.peer(args):
        peer.hand_over(model, folder, train_x=train_x, train_y=train_y, x=x, y=y)
        found = peer.run(report.peer(args), "parity", folder)
        scores.append(("tfmot, 2 epochs of QAT, its simulation", found["simulation"]))
        scores.append(("tfmot, 2 epochs of QAT, on LiteRT", found["device"]))
        same = {"network": "ResNet-8, tfmot", "inputs": len(x), "outputs": found["outputs"]}
        rest = {"tensors inside": "-", "of them differ": "-", "partitions": found["partitions"], "off XNNPACK": "-"}
        parity.append({**same, "outputs that differ": f"{found['differ']:,} (by up to {found['largest']})", **rest})
    return parity, [{"ResNet-8": name, "test accuracy %": f"{score:.2f}"} for name, score in scores]


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "parity", peer=True)
    parser.add_argument("--qat", action="store_true", help="fine-tune ResNet-8 for two epochs, too")
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA)
    args = parser.parse_args()
    rows, scores = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if (args.data / "resnet8_cifar10.keras").exists():
            rows, scores = resnet8(args, folder)
        else:
            print(f"ResNet-8 left out: {args.data} is not there.")
        for name, make in networks.NETWORKS.items():
            model = make()
            x = networks.images(model, 32)
            rows.append(compare(name, kq.quantize(model, "int8", x), x, folder))
    report.show("Keras against LiteRT", rows, args.json)
    if scores:
        report.show("Accuracy", scores, args.json.with_name("parity_accuracy.json"))


if __name__ == "__main__":
    main()
