"""Which method of calibration loses least, with 8 bits and with fewer?

    python benchmarks/calibration.py [--data DIR]

ResNet-8 and the MobileNetV2-style network on all 10,000 CIFAR-10 test images after calibration on 500 training images,
without training: accuracy of `predict`, which is the exported file's, output by output.
"""

import argparse
import pathlib

import keras
import networks
import report

import keras_quant as kq

METHODS = ("mse", "min_max", "moving_average", "percentile", "mean_std", "entropy")
POLICIES = {"W8A8": "int8", "W4A8": "int4", "W8A4": "w8a4"}


def accuracy(model, x, y):
    return float((model.predict(x, batch_size=500, verbose=0).argmax(-1) == y).mean() * 100)


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "calibration")
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA)
    args = parser.parse_args()
    x, y = networks.cifar10("test", args.data)
    x, calibration = x.astype("float32"), networks.cifar10("train", args.data)[0][:500].astype("float32")
    rows = []
    for name in ("resnet8", "mobilenet_v2"):
        model = keras.models.load_model(networks.need(args.data / f"{name}_cifar10.keras"))
        rows.append({"network": name, "method": "float", **dict.fromkeys(POLICIES, f"{accuracy(model, x, y):.2f}")})
        for method in METHODS:
            row = {"network": name, "method": method}
            for label, policy in POLICIES.items():
                qmodel = kq.quantize(model, policy, calibration, calibration_method=method)
                row[label] = f"{accuracy(qmodel, x, y):.2f}"
            rows.append(row)
    report.show("Test accuracy %, calibrated on 500 images", rows, args.json)


if __name__ == "__main__":
    main()
