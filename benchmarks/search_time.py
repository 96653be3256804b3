"""What a search costs, and how it grows with the layers.

    python benchmarks/search_time.py [--layers 25 50 100 200] [--samples 64] [--densenet]

Chains of convolutions, and with `--densenet` DenseNet201 at 64×64, 201 layers with random weights: seconds to measure all
layers in three precisions, and to choose for 0.8 times the bytes of int8 with the true loss checked.
"""

import argparse
import time

import keras
import numpy as np
import report

import keras_quant as kq
from keras_quant.search import Search

L = keras.layers


def chain(length):
    """Convolutions with enough weights for four bits to pay."""
    x = inputs = keras.Input((8, 8, 32))
    for _ in range(length):
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(32, 3, padding="same", use_bias=False)(x)))
    return keras.Model(inputs, x)


def row(name, model, samples):
    x = np.random.default_rng(0).standard_normal((samples, *model.input_shape[1:])).astype("float32")
    clock = lambda: np.array([time.perf_counter(), time.process_time()])
    begin = clock()
    search = Search(model, x, ("int4", "int8", "float16"), verbose=0)
    measured = clock()
    point = search.assign(kq.search.Budget(size=0.8))
    chosen = clock()
    return {
        "model": name,
        "layers": len(search.units),
        "evaluations": search.evaluations,
        "measure s": measured[0] - begin[0],
        "(cpu)": measured[1] - begin[1],
        "choose s": chosen[0] - measured[0],
        "(cpu) ": chosen[1] - measured[1],
        "cpu s a layer": (chosen[1] - begin[1]) / len(search.units),
        "of int8's bytes": point.bytes / search.uniform("int8").bytes,
    }


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "search_time")
    parser.add_argument("--layers", type=int, nargs="*", default=[25, 50, 100, 200])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--densenet", action="store_true", help="DenseNet201, too")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    rows = [row(f"chain of {count}", chain(count), args.samples) for count in args.layers]
    if args.densenet:
        model = keras.applications.DenseNet201(weights=None, input_shape=(64, 64, 3), classes=10)
        rows.append(row("DenseNet201", model, args.samples))
    report.show("Cost of a search", rows, args.json)


if __name__ == "__main__":
    main()
