"""Precision chosen layer by layer: the Pareto front against one policy for all layers, on CIFAR-10.

    python benchmarks/search.py [--network resnet8] [--samples 1024] [--points 10] [--candidates w2a8,int4,int8,float16]
    python benchmarks/search.py --qat [--size 0.6]
    python benchmarks/search.py --transformers [small bert deit]

The search sees training images; accuracies are those of the 10,000 test images, post-training. With `--qat`, the choice for
`--size` times the bytes of int8, and int4 for all layers beside the choice for as many bytes, after two epochs of training,
scales of weights of few bits learned.

With `--transformers`, the maps found for a budget of time against each policy throughout, on the encoders of
`transformers.py`: one map for the least time, one for the time of the fastest policy. The files run in turn on one thread;
times are medians of processor time, ratios medians over the pairs of neighbouring runs, SQNR that of the logits against
float.
"""

import argparse
import dataclasses
import pathlib
import time

import keras
import latency
import networks
import numpy as np
import recipe
import report
import transformers

import keras_quant as kq
from keras_quant.tflite import Runtime

NETWORKS = {"resnet8": "resnet8_cifar10.keras", "mobilenet_v2": "mobilenet_v2_cifar10.keras"}
# What a search of a transformer chooses from, and how many samples it sees.
POLICIES, SAMPLES = ("int8", "dynamic_int8", "float32", "float16"), 8
# Weights of few bits move further than those of eight: see `recipe.RATE`.
RATE = 4e-4


def load(args):
    model = keras.models.load_model(networks.need(args.data / NETWORKS[args.network]))
    from_logits = args.network == "mobilenet_v2"
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits), metrics=["accuracy"])
    return model


def accuracy(model, x, y):
    found = [model.predict(x[i : i + 2000].astype("float32"), verbose=0) for i in range(0, len(x), 2000)]
    return float(np.mean(np.concatenate(found).argmax(-1) == y))


def learned(name):
    """The policy of a name; scales of few bits are trained."""
    policy = kq.policy.get(name)
    return policy if policy.weight_bits > 4 else dataclasses.replace(policy, kernel_quantizer="lsq")


def searched(args, model, train):
    x, y = (part[: args.samples] for part in train)
    begin, processor = time.perf_counter(), time.process_time()
    search = kq.search.Search(model, (x.astype("float32"), y), args.candidates, cache=args.cache)
    took = time.perf_counter() - begin, time.process_time() - processor
    print(f"{search.evaluations} evaluations, {len(search.units)} layers: {took[0]:.0f} s, {took[1]:.0f} s of processor")
    return search


def front_rows(args, model, train, test):
    """One row a point, and the uniform policies."""
    search = searched(args, model, train)
    begin = time.perf_counter()
    front = search.front(args.points)
    print(f"front: {time.perf_counter() - begin:.0f} s")
    front.plot(args.json.with_suffix(".png"))
    named = {id(point): name for name, point in front.uniform.items()}
    points = sorted({*front.points, *front.uniform.values()}, key=lambda point: point.bytes)
    x = train[0][: args.samples].astype("float32")
    for point in points:
        qmodel = kq.quantize(model, point.policies, x)
        yield {
            "bytes": point.bytes,
            "of int8": point.bytes / front.int8_bytes,
            "rise of the loss": point.loss,
            "test accuracy": f"{100 * accuracy(qmodel, *test):.2f} %",
            "on the front": "yes" if point in front.points else "",
            "policy": named.get(id(point), point.counts()),
        }


def qat_rows(args, model, train, test):
    """Searched choices and uniform int4 after two epochs of training."""
    args.candidates = list(map(learned, args.candidates))
    search = searched(args, model, train)
    narrow = search.uniform(learned("int4"))
    chosen = {
        f"searched, {args.size} of int8": search.assign(kq.search.Budget(size=args.size)),
        "int4": narrow,
        "searched, as many bytes as int4": search.assign(kq.search.Budget(bytes=narrow.bytes)),
    }
    int8, exact = search.uniform("int8"), accuracy(model, *test)
    for name, point in chosen.items():
        print(name, point.policies)
        qmodel = kq.quantize(model, point.policies, train[0][: args.samples].astype("float32"))
        before = accuracy(qmodel, *test)
        recipe.fine_tune(keras, qmodel, *train, rate=RATE, from_logits=args.network == "mobilenet_v2")
        yield {
            "policy": name,
            "bytes": kq.export(qmodel, args.json.with_suffix(".tflite")).bytes,
            "of int8": point.bytes / int8.bytes,
            "float": f"{100 * exact:.2f} %",
            "post-training": f"{100 * before:.2f} %",
            "after 2 epochs": f"{100 * accuracy(qmodel, *test):.2f} %",
        }


def fast_maps(model, x):
    """The maps of the least time, and of the least loss in the time of the fastest uniform policy."""
    begin, processor = time.perf_counter(), time.process_time()
    search = kq.search.Search(model, x[:SAMPLES], POLICIES, latencies=True, measures=("noise",), verbose=0)
    share_of = lambda point: point.milliseconds / search.uniform("int8").milliseconds
    shares = {"the least time": share_of(search.fastest())}
    shares["the fastest policy's time"] = share_of(min(map(search.uniform, POLICIES), key=lambda p: p.milliseconds))
    found = {f"searched, {name}": search.assign(kq.search.Budget(latency=share)) for name, share in shares.items()}
    took = time.perf_counter() - begin, time.process_time() - processor
    print(f"{len(search.units)} layers: {took[0]:.0f} s, {took[1]:.0f} s of processor", flush=True)
    for name, point in found.items():
        print(f"{name}: {point.counts()}", point.policies, sep="\n", flush=True)
    return {name: point.policies for name, point in found.items()}


def transformer_rows(size, repeats=30):
    model, x = transformers.made(size)
    uniform = {name: policy for name, policy in transformers.POLICIES.items() if isinstance(policy, str)}
    by_hand = {name: policy for name, policy in transformers.POLICIES.items() if isinstance(policy, kq.PolicyMap)}
    makers = uniform | by_hand | fast_maps(model, x)
    files = {name: latency.exported(model, x, policy) for name, policy in makers.items()}
    seconds = latency.measure(files, 1, repeats)
    best = min(uniform, key=lambda name: np.median(seconds[name][:, 1]))
    for name, content in files.items():
        yield {
            "": name,
            "ms": float(np.median(seconds[name][:, 1]) * 1e3),
            "to the fastest policy": latency.ratio(seconds[name], seconds[best], 1),
            "bytes": len(content),
            "partitions": len(Runtime(content, "m.tflite").partitions()),
            "dB": transformers.decibels(content, model, x),
        }


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "search")
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA, help="folder with networks and images")
    parser.add_argument("--network", choices=NETWORKS, default="resnet8")
    parser.add_argument("--samples", type=int, default=1024, help="training images that the search sees")
    parser.add_argument("--candidates", type=lambda text: text.split(","), default=["w2a8", "int4", "int8", "float16"])
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--cache", help="JSON file that keeps what is measured")
    parser.add_argument("--qat", action="store_true", help="train the choices")
    parser.add_argument("--size", type=float, default=0.6, help="with --qat: share of int8's bytes")
    parser.add_argument(
        "--transformers", nargs="*", choices=transformers.SIZES, help="budgets of time; all sizes by default"
    )
    args = parser.parse_args()
    if args.transformers is not None:
        for size in args.transformers or transformers.SIZES:
            title = "{} tokens, width {}, {} blocks".format(*transformers.SIZES[size])
            report.show(title, list(transformer_rows(size)), args.json.with_name(f"{args.json.stem}_{size}.json"))
        return
    args.json.parent.mkdir(parents=True, exist_ok=True)
    model, train, test = load(args), networks.cifar10("train", args.data), networks.cifar10("test", args.data)
    rows, title = (qat_rows, "trained") if args.qat else (front_rows, "Pareto front")
    report.show(f"{args.network}, {title}", list(rows(args, model, train, test)), args.json)


if __name__ == "__main__":
    main()
