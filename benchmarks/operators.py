"""Which operators of a network gain from int8 on this machine, and how much?

    python benchmarks/operators.py [--threads 1] [--repeats 20]

Each distinct convolution and Dense of MobileNetV2 at 224×224 as a file of its own, ours and the converter's float one, in
turn. An int8 network cannot gain more than its operators do: this table is the limit that XNNPACK's kernels set here.
"""

import argparse
import collections

import keras
import latency
import networks
import numpy as np
import report

L = keras.layers


def kind(layer):
    if isinstance(layer, L.Dense):
        return "Dense"
    if isinstance(layer, L.DepthwiseConv2D):
        return f"depthwise, stride {layer.strides[0]}"
    return "pointwise" if layer.kernel_size == (1, 1) else f"convolution {layer.kernel_size[0]}×{layer.kernel_size[1]}"


def distinct(model):
    """Single-layer models and how often each stands in `model`: `[(layer, network, count)]`."""
    found, counts = {}, collections.Counter()
    for layer in model.layers:
        if isinstance(layer, L.Conv2D | L.DepthwiseConv2D | L.Dense):
            config = {key: value for key, value in layer.get_config().items() if key != "name"}
            # What a batch normalization becomes on the device; its activation is a clamp, free in both files.
            config["use_bias"] = True
            key = (layer.input.shape[1:], repr(config))
            counts[key] += 1
            if key not in found:
                found[key] = layer, keras.Sequential([keras.Input(layer.input.shape[1:]), type(layer).from_config(config)])
    return [(*found[key], count) for key, count in counts.items()]


def rows(model, threads, repeats):
    """One row for each kind of layer: milliseconds in the whole network."""
    totals = collections.defaultdict(lambda: np.zeros(3))
    for layer, single, count in distinct(model):
        x = np.random.default_rng(0).standard_normal((4, *single.input_shape[1:])).astype("float32")
        files = {"int8": latency.exported(single, x), "float": latency.converted(single)}
        seconds = latency.measure(files, threads, repeats)
        int8, real = (np.median(seconds[name][:, 0]) * 1e3 for name in ("int8", "float"))
        totals[kind(layer)] += count, count * int8, count * real
    totals["all"] = sum(totals.values())
    for name, (count, int8, real) in totals.items():
        yield {"": name, "layers": int(count), "int8 ms": int8, "float ms": real, "float / int8": real / int8}


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "operators")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    report.show("MobileNetV2, layer by layer", list(rows(networks.mobilenet_v2(), args.threads, args.repeats)), args.json)


if __name__ == "__main__":
    main()
