"""Is post-training W8A8 as accurate as TFLiteConverter's int8, or is the difference one of the images drawn?

    python benchmarks/paired.py [--network NAME ...] [--draws 10] [--samples 500] [--methods mse ...] [--held-out]

Both quantize the float networks of `accuracy.py` with the same training images, for each of ten draws of them. Their files
run on LiteRT, on the 10,000 test images and on 20,000 training images that are in no draw. The float networks were trained
on those, so accuracy there says little of a network; of what quantization changes it does, with less sampling.

The test is McNemar's. Of one draw: does each get as many images right that the other gets wrong? Of all draws: does each
get as many images right in more draws than the other does? So each image counts once.

Signal to noise and cross entropy are of the logits: where a network ends in softmax, of files without it.
"""

import argparse
import pathlib

import accuracy
import keras
import latency
import networks
import numpy as np
import report
from scipy import special, stats

HELD_OUT = 20_000
CONVERTER = "TFLiteConverter"


def draws(count, samples, total):
    """The calibration images of each draw, as `accuracy.py` draws them, and the held-out images, in none of them."""
    drawn = [np.random.default_rng(seed).choice(total, samples, replace=False) for seed in range(count)]
    rest = np.setdiff1d(np.arange(total), np.concatenate(drawn))
    return drawn, np.random.default_rng(count).permutation(rest)[:HELD_OUT]


def without_softmax(model):
    """The network up to its logits."""
    last = model.layers[-1]
    if getattr(last, "activation", None) is not keras.activations.softmax:
        return model
    logits = type(last).from_config({**last.get_config(), "activation": None})
    cut = keras.Model(model.inputs, logits(last.input))
    logits.set_weights(last.get_weights())
    return cut


def files_of(model, calibration, method):
    """The file that is shipped, and the one that ends in logits."""
    if method == CONVERTER:
        make = lambda network: latency.converted(network, calibration)
    else:
        make = lambda network: latency.exported(network, calibration, calibration_method=method)
    shipped, cut = make(model), without_softmax(model)
    return shipped, shipped if cut is model else make(cut)


def seen(files, x, y, exact):
    """What the files make of images.

    Args:
        files: as of `files_of`.
        x, y: images and labels.
        exact: the float network's logits.

    Returns:
        Dict: which images are "right", an array of bool; the share "as float" has them, in per cent; "sqnr" of the logits in
        dB; "cross entropy".
    """
    shipped, cut = files
    made = accuracy.outputs(shipped, x)
    classes, logits = made.argmax(-1), made if cut is shipped else accuracy.outputs(cut, x)
    return {
        "right": classes == y,
        "as float": accuracy.percent(classes == exact.argmax(-1)),
        "sqnr": 10 * np.log10(np.sum(exact**2) / np.sum((exact - logits) ** 2)),
        "cross entropy": -float(np.mean(special.log_softmax(np.float64(logits), -1)[np.arange(len(y)), y])),
    }


def paired(ours, theirs):
    """McNemar's test: how many images are only ours, how many only theirs, and how likely so uneven a number is."""
    alone, other = int(np.sum(ours > theirs)), int(np.sum(ours < theirs))
    return alone, other, stats.binomtest(alone, max(alone + other, 1)).pvalue if alone + other else 1.0


def compare(args, name, parts, calibrations):
    """`{part: {method: what each draw gave}}`, and the float network's by part."""
    model = keras.models.load_model(networks.need(args.data / f"{name}_cifar10.keras"))
    float_files = latency.converted(model), latency.converted(without_softmax(model))
    exact = {part: accuracy.outputs(float_files[1], x) for part, (x, _) in parts.items()}
    by_float = {part: seen(float_files, x, y, exact[part]) for part, (x, y) in parts.items()}
    found = {part: {method: [] for method in (CONVERTER, *args.methods)} for part in parts}
    for number, calibration in enumerate(calibrations):
        for method in (CONVERTER, *args.methods):
            files = files_of(model, calibration, method)
            for part, (x, y) in parts.items():
                found[part][method].append(seen(files, x, y, exact[part]))
            shown = ", ".join(f"{accuracy.percent(found[part][method][-1]['right']):.2f} %" for part in parts)
            print(f"{name}, draw {number}, {method}: {shown}", flush=True)
    return found, by_float


def quality(found, by_float):
    """A row for each method: mean and deviation over the draws."""
    whole = {"float": [by_float], **found}
    for method, runs in whole.items():
        right = [accuracy.percent(run["right"]) for run in runs]
        spread = f" ± {np.std(right, ddof=1):.2f}" if len(right) > 1 else ""
        same, sqnr, entropy = (np.mean([run[key] for run in runs]) for key in ("as float", "sqnr", "cross entropy"))
        yield {
            "": method if method in ("float", CONVERTER) else f"keras_quant, {method}",
            "accuracy %": f"{np.mean(right):.2f}{spread}",
            "same class as float": f"{same:.2f} %",
            "SQNR of the logits": "-" if method == "float" else f"{sqnr:.2f} dB",
            "cross entropy": f"{entropy:.4f}",
        }


def tests(found):
    """A row for each method against the converter."""
    theirs = [run["right"] for run in found[CONVERTER]]
    for method in found:
        if method == CONVERTER:
            continue
        ours = [run["right"] for run in found[method]]
        single = [paired(*pair) for pair in zip(ours, theirs)]
        alone, other, likely = paired(np.sum(ours, 0), np.sum(theirs, 0))
        difference = np.mean(ours, 0) - np.mean(theirs, 0)
        error = np.std(difference, ddof=1) / len(difference) ** 0.5
        yield {
            "against the converter": f"keras_quant, {method}",
            "difference in points": f"{difference.mean() * 100:+.3f} ± {error * 100:.3f}",
            "in a draw, right alone": f"{np.mean([s[0] for s in single]):.0f} : {np.mean([s[1] for s in single]):.0f}",
            "p of each": f"{min(s[2] for s in single):.2f} to {max(s[2] for s in single):.2f}",
            "right in more draws": f"{alone} : {other}",
            "p": f"{likely:.2g}",
        }


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "paired")
    parser.add_argument("--network", nargs="+", choices=accuracy.NETWORKS, default=list(accuracy.NETWORKS))
    parser.add_argument("--draws", type=int, default=10, help="of the calibration images")
    parser.add_argument("--samples", type=int, default=accuracy.CALIBRATION, help="calibration images in a draw")
    parser.add_argument("--methods", nargs="+", default=["mse"], help="of calibration; the first is the default")
    parser.add_argument("--held-out", action="store_true", help="leave the test images alone, for a choice between methods")
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA, help="folder with networks and images")
    args = parser.parse_args()
    train_x, train_y = networks.cifar10("train", args.data)
    drawn, held_out = draws(args.draws, args.samples, len(train_x))
    parts = {"training images that no draw holds": (train_x[held_out].astype("float32"), train_y[held_out])}
    if not args.held_out:
        x, y = networks.cifar10("test", args.data)
        parts = {"test images": (x.astype("float32"), y), **parts}
    calibrations = [train_x[chosen].astype("float32") for chosen in drawn]
    for name in args.network:
        found, by_float = compare(args, name, parts, calibrations)
        for number, (part, (x, _)) in enumerate(parts.items()):
            title = f"{accuracy.NETWORKS[name]}, {len(x):,} {part}, {args.draws} draws of {args.samples}"
            path = args.json.with_name(f"{args.json.stem}_{name}_{number}.json")
            report.show(title, list(quality(found[part], by_float[part])), path)
            report.show(title, list(tests(found[part])), path.with_stem(f"{path.stem}_test"))


if __name__ == "__main__":
    main()
