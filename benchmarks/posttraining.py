"""What post-training methods bring without any training, alone and chained.

    python benchmarks/posttraining.py [--networks resnet8,mobilenet_v2] [--samples 512] [--data DIR]

ResNet-8 and the MobileNetV2-style network on all 10,000 CIFAR-10 test images, the methods given training images without
labels. Accuracies are those of the exported file on LiteRT.
"""

import argparse
import pathlib
import tempfile
import time

import keras
import networks
import parity
import report

import keras_quant as kq
from keras_quant.posttraining.refine import METHODS

CHAINS = {
    "int4": [(), ("equalization",), ("batch_norm",), ("bias_correction",), ("gptq",), ("adaround",), METHODS],
    "int8": [(), METHODS],
    "w2a8": [(), METHODS],
}
LABELS = {"int4": "W4A8", "int8": "W8A8", "w2a8": "W2A8"}


def rows_of(name, args):
    model = keras.models.load_model(networks.need(args.data / f"{name}_cifar10.keras"))
    x, y = networks.cifar10("test", args.data)
    x, samples = x.astype("float32"), networks.cifar10("train", args.data)[0][: args.samples].astype("float32")
    exact = parity.accuracy(model, x, y)
    yield {"network": name, "weights": "float", "methods": "", "accuracy %": f"{exact:.2f}", "loss": "", "CPU s": ""}
    with tempfile.TemporaryDirectory() as folder:
        for policy, chains in CHAINS.items():
            for chain in chains:
                qmodel = kq.quantize(model, policy, samples)
                begin = time.process_time()
                if chain:
                    print(kq.refine(qmodel, samples, chain, verbose=0), flush=True)
                took = time.process_time() - begin if chain else 0.0
                device = parity.device_accuracy(qmodel, x, y, pathlib.Path(folder))
                yield {
                    "network": name,
                    "weights": LABELS[policy],
                    "methods": " + ".join(chain) or "rounding to nearest",
                    "accuracy %": f"{device:.2f}",
                    "loss": f"{exact - device:.2f}",
                    "CPU s": f"{took:.0f}",
                }


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "posttraining")
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=["resnet8", "mobilenet_v2"])
    parser.add_argument("--samples", type=int, default=512, help="training images that the methods see")
    args = parser.parse_args()
    rows = [row for name in args.networks for row in rows_of(name, args)]
    report.show(f"Post-training methods, on {args.samples} images", rows, args.json)


if __name__ == "__main__":
    main()
