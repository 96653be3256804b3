"""What float16 saves, and whether it costs accuracy: files of the policies float32 and float16 on LiteRT.

    python benchmarks/half_precision.py [--data FOLDER]

Bytes of both files, and accuracy on the 10,000 CIFAR-10 test images; for MobileNetV2 at 224×224, whose weights are random,
bytes only.
"""

import argparse
import pathlib
import tempfile

import keras
import networks
import numpy as np
import report

import keras_quant as kq
from keras_quant.tflite.runtime import Runtime

NAMES = "resnet8_cifar10", "mobilenet_v2_cifar10"


def exported(model, policy):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.tflite"
        kq.export(kq.quantize(model, policy), path, batch_size=100)
        return path.read_bytes()


def accuracy(content, x, y):
    (outputs,) = Runtime(content, threads=2).run([x.astype("float32")])
    return float(np.mean(outputs.argmax(-1) == y))


def row(name, model, test=None):
    files = {policy: exported(model, policy) for policy in ("float32", "float16")}
    sizes = {policy: len(content) for policy, content in files.items()}
    made = {"network": name, "float32 bytes": sizes["float32"], "float16 bytes": sizes["float16"]}
    made["of float32's"] = sizes["float16"] / sizes["float32"]
    for policy, content in files.items():
        made[f"{policy} accuracy"] = "" if test is None else f"{100 * accuracy(content, *test):.2f} %"
    return made


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "half_precision")
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA, help="folder with networks and images")
    args = parser.parse_args()
    test = networks.cifar10("test", args.data)
    rows = [row(name, keras.models.load_model(networks.need(args.data / f"{name}.keras")), test) for name in NAMES]
    report.show("float16", [*rows, row("MobileNetV2", networks.mobilenet_v2())], args.json)


if __name__ == "__main__":
    main()
