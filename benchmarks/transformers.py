"""How long do transformers take in each precision, beside TFLiteConverter's files, and what do training and building cost?

    python benchmarks/transformers.py [--size small deit bert] [--threads 1 2] [--repeats 30] [--steps]
        [--policies int8 dynamic_int8]

Encoders in the manner of ViT: layer normalization, attention, layer normalization, GELU between two Dense layers. Batch 1
on LiteRT; the files of a size run in turn, times are medians of processor time, ratios medians over the pairs of
neighbouring runs. SQNR is that of the logits against the float model on 32 samples. With `--steps` a training step at batch
32, its peak memory, and the first calls of `predict` and `fit` as well, each contestant in a process of its own.
"""

import argparse
import contextlib
import gc
import json
import subprocess
import sys
import time

import clocks
import keras
import latency
import numpy as np
import report
import tensorflow as tf
import train_step

import keras_quant as kq
from keras_quant.tflite import Runtime
from keras_quant.tflite.runtime import quantize_array

L = keras.layers
# Tokens, width, blocks, heads.
SIZES = {"small": (64, 128, 4, 4), "deit": (197, 192, 12, 3), "bert": (128, 512, 4, 8)}
INTEGERS = kq.Policy(integer_only=True)
POLICIES = {
    "int8": "int8",
    "int8, GELU in float32": kq.PolicyMap({".*/gelu": "float32"}),
    "int8, GELU in float32, sums in int8": kq.PolicyMap({".*/gelu": "float32", "add.*": "int8"}),
    "int8, GELU, norms in float32": kq.PolicyMap({".*/gelu": "float32", "layer_normalization.*": "float32"}),
    "int8, integers only": INTEGERS,
    "float32": "float32",
    "float16": "float16",
    "dynamic_int8": "dynamic_int8",
}
FLOAT, DYNAMIC = "converter, float", "converter, dynamic range"


def encoder(tokens, width, blocks, heads):
    x = inputs = keras.Input((tokens, width))
    for _ in range(blocks):
        y = L.LayerNormalization(epsilon=1e-6)(x)
        x = L.Add()([x, L.MultiHeadAttention(heads, width // heads)(y, y)])
        y = L.LayerNormalization(epsilon=1e-6)(x)
        x = L.Add()([x, L.Dense(width)(L.Dense(4 * width, "gelu")(y))])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(inputs, L.Dense(10)(x))


def made(size):
    keras.utils.set_random_seed(0)
    model = encoder(*SIZES[size])
    return model, np.random.default_rng(1).standard_normal((32, *model.input_shape[1:])).astype("float32")


def dynamic_range(model):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def files_of(model, x, policies):
    """Each contestant's file; what cannot be written is said."""
    makers = {FLOAT: lambda: latency.converted(model), "converter, int8": lambda: latency.converted(model, x)}
    makers[DYNAMIC] = lambda: dynamic_range(model)
    makers |= {name: lambda policy=policy: latency.exported(model, x, policy) for name, policy in policies.items()}
    files = {}
    for name, make in makers.items():
        try:
            files[name] = make()
        except Exception as error:
            print(f"{name}: {str(error).splitlines()[0][:150]}")
    return files


def decibels(content, model, x):
    runtime, logits = Runtime(content, "m.tflite"), []
    (given,), (made,) = runtime.inputs, runtime.outputs
    scale, zero_point = made["quantization"]
    for sample in x:
        (y,) = runtime.run([quantize_array(sample[None], given)])
        logits.append((y - np.float32(zero_point)) * scale if scale else y)
    wanted = model.predict(x, verbose=0)
    return float(10 * np.log10(np.sum(wanted**2) / np.sum((wanted - np.concatenate(logits)) ** 2)))


def rows(size, policies, threads, repeats):
    model, x = made(size)
    files = files_of(model, x, policies)
    seconds = latency.measure(files, threads, repeats)
    for name, content in files.items():
        runtime = Runtime(content, "m.tflite")
        yield {
            "": name,
            "ms": float(np.median(seconds[name][:, 1]) * 1e3),
            "to float": latency.ratio(seconds[name], seconds[FLOAT], 1),
            "to dynamic range": latency.ratio(seconds[name], seconds[DYNAMIC], 1),
            "bytes": len(content),
            "partitions": len(runtime.partitions()),
            "dB": decibels(content, model, x),
        }


def training(size, name, predicts=True):
    """Seconds that the first calls take, of `predict` only if it `predicts`, and a training step."""
    model, x = made(size)
    y = np.random.default_rng(0).integers(0, 10, len(x))
    if name in POLICIES:
        # What is read from the worker is its figures.
        with contextlib.redirect_stdout(sys.stderr):
            model = kq.quantize(model, POLICIES[name], x)
    gc.collect()
    model.compile(keras.optimizers.SGD(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    calls = [lambda: model.predict(x, verbose=0)] * predicts + [lambda: model.fit(data, steps_per_epoch=1, verbose=0)]
    first = [_wall(call) for call in calls]
    batches = iter(data)
    return first, lambda: model.train_function(batches)


def _wall(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def step_rows(size, policies, rounds):
    names = [FLOAT, *policies]
    command = lambda name, mode: (sys.executable, __file__, "--worker", name, "--mode", mode, "--size", size)
    peaks = {name: train_step.peak(*command(name, "peak")) for name in names}
    firsts = {
        name: json.loads(subprocess.check_output(command(name, "first"), text=True).splitlines()[-1]) for name in names
    }
    workers = {name: train_step.Worker(*command(name, "steps")) for name in names}
    seconds = train_step.interleaved({name: workers[name].run for name in names}, rounds)
    for worker in workers.values():
        worker.close()
    for row in train_step.rows(seconds, FLOAT, peaks):
        first = firsts[row[""]]
        row["first predict s"], row["first fit s"] = first
        row["predict ratio"], row["fit ratio"] = (own / base for own, base in zip(first, firsts[FLOAT]))
        yield row


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "transformers")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES), metavar="NAME")
    parser.add_argument("--steps", action="store_true", help="training and first calls, too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        made = lambda: training(*args.size, args.worker, args.mode != "peak")
        if args.mode == "first":
            return print(json.dumps(made()[0]))
        return train_step.print_peak(lambda: made()[1]) if args.mode == "peak" else clocks.serve(made()[1])
    policies = {name: POLICIES[name] for name in args.policies}
    for size in args.size:
        title = "{} tokens, width {}, {} blocks".format(*SIZES[size])
        for threads in args.threads:
            path = args.json.with_name(f"{args.json.stem}_{size}_{threads}.json")
            report.show(f"{title}, {threads} thread(s)", list(rows(size, policies, threads, args.repeats)), path)
        if args.steps:
            path = args.json.with_name(f"{args.json.stem}_{size}_steps.json")
            report.show(f"A training step, {title}, batch 32", list(step_rows(size, policies, 20)), path)


if __name__ == "__main__":
    main()
