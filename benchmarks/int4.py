"""What weights of 4 bits save, and what they cost in time.

    python benchmarks/int4.py [--windows] [--samples 16] [--threads 1] [--repeats 60]

MobileNetV2 at 224×224 with its pointwise convolutions and its classifier in int4 and the rest in int8, against all int8:
bytes, partitions, outputs that differ between `predict` and LiteRT, and latency in the same run. With `--windows`, the 3×3
convolutions of ResNet50 and ResNet-8, each alone, against int8.
"""

import argparse
import pathlib
import tempfile

import keras
import latency
import networks
import numpy as np
import report

import keras_quant as kq


def in_4_bits(model):
    """The map that gives every pointwise convolution and Dense layer int4."""
    return kq.PolicyMap({layer.name: "int4" for layer in model.layers if _is_product(layer)}, default="int8")


def _is_product(layer):
    pointwise = type(layer) is keras.layers.Conv2D and (*layer.kernel_size, *layer.strides) == (1, 1, 1, 1)
    return pointwise or type(layer) is keras.layers.Dense


# Height and channels of the 3×3 convolutions of ResNet-8 and of ResNet50.
WINDOWS = [(32, 16), (16, 32), (8, 64), (56, 64), (28, 128), (14, 256), (7, 512)]


def window_rows(threads, repeats):
    """One row for each 3×3 convolution."""
    for size, channels in WINDOWS:
        model = keras.Sequential([keras.Input((size, size, channels)), keras.layers.Conv2D(channels, 3, padding="same")])
        x = np.random.default_rng(0).standard_normal((4, *model.input_shape[1:])).astype("float32")
        files = {policy: latency.exported(model, x, policy) for policy in ("int8", "int4")}
        seconds = latency.measure(files, threads, repeats)
        yield {
            "image": f"{size}×{size}×{channels}",
            "bytes in int8": len(files["int8"]),
            "in int4": len(files["int4"]),
            "int8 µs": float(np.median(seconds["int8"][:, 0]) * 1e6),
            "int4 / int8": latency.ratio(seconds["int4"], seconds["int8"], 0),
            "(cpu)": latency.ratio(seconds["int4"], seconds["int8"], 1),
        }


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "int4")
    parser.add_argument("--samples", type=int, default=16, help="inputs compared")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--windows", action="store_true", help="3×3 convolutions, each alone")
    args = parser.parse_args()
    if args.windows:
        report.show("3×3 convolutions in int4", list(window_rows(args.threads, args.repeats)), args.json)
    else:
        report.show("MobileNetV2, pointwise convolutions and classifier in int4", mobilenet_rows(args), args.json)


def mobilenet_rows(args):
    """One row a policy."""
    model = networks.mobilenet_v2()
    x = networks.images(model, args.samples)
    rows, files = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, policy in {"int8": "int8", "int4": in_4_bits(model)}.items():
            path = pathlib.Path(folder) / f"{name}.tflite"
            qmodel = kq.quantize(model, policy, x)
            exported = kq.export(qmodel, path)
            parity = kq.verify(qmodel, path, x, intermediates=True, verbose=0)
            files[name] = path.read_bytes()
            rows.append(
                {
                    "policy": name,
                    "layers in int4": sum(str(getattr(layer, "policy", "")) == "int4" for layer in qmodel.layers),
                    "bytes": exported.bytes,
                    "outputs": parity.elements,
                    "that differ": parity.mismatches,
                    "tensors inside that differ": sum(t.mismatches > 0 for t in parity.intermediates),
                    "partitions": exported.partitions,
                    "off XNNPACK": len(exported.off_xnnpack),
                }
            )
    seconds = latency.measure(files, args.threads, args.repeats)
    for row in rows:
        own = seconds[row["policy"]]
        row["of int8's bytes"] = row["bytes"] / rows[0]["bytes"]
        row["ms"] = float(sorted(own[:, 0])[len(own) // 2] * 1e3)
        row["of int8's time"] = latency.ratio(own, seconds["int8"], 0)
        row["(cpu)"] = latency.ratio(own, seconds["int8"], 1)
    return rows


if __name__ == "__main__":
    main()
