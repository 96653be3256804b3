"""What does a step of `fit` cost with each of the callbacks, and in each phase of a schedule?

    python benchmarks/callbacks.py [--network NAME] [--policy w4a8] [--rounds 20]

The networks and batches of `train_step.py`, quantized with learned ranges. A step is what `fit` does for a batch: the
callback before, the compiled step, the callback behind. All contestants live in one process and step in turn; processor and
wall time a step, medians, and medians of the ratios to the step without a callback of the same round.
"""

import argparse

import clocks
import keras
import numpy as np
import report
import tensorflow as tf
from train_step import NETWORKS, WARM_UP, interleaved, rows

import keras_quant as kq

PLAIN = "no callback"
CONTESTANTS = {
    PLAIN: lambda: None,
    "Schedule, no phase": kq.callbacks.Schedule,
    "Schedule, float warm-up": lambda: kq.callbacks.Schedule(quantize_at=2),
    "Schedule, ranges observed": lambda: kq.callbacks.Schedule(learn_ranges_at=2),
    "Schedule, ranges frozen": lambda: kq.callbacks.Schedule(freeze_ranges_at=0),
    "Schedule, statistics frozen": lambda: kq.callbacks.Schedule(freeze_statistics_at=0),
    "WeightAverage": kq.callbacks.WeightAverage,
    "FreezeOscillating": kq.callbacks.FreezeOscillating,
    "LocateNaN": kq.callbacks.LocateNaN,
    "distill": None,
}


def step_with(name, network, policy):
    """One step of `fit` with a callback, or of a distillation."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, network.shape).astype("float32")
    y = rng.integers(0, network.classes, len(x))
    float_model = network.make()
    model = kq.calibrate(kq.quantize(float_model, policy), x, verbose=0)
    if name == "distill":
        model = kq.distill(model, float_model)
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy")
    make = CONTESTANTS[name]
    callback = make() if make is not None and make() is not None else keras.callbacks.Callback()
    callback.set_model(model)
    callback.set_params({"steps": 1000, "epochs": 2})
    data = iter(tf.data.Dataset.from_tensors((x, y)).cache().repeat())
    model.make_train_function()
    callback.on_train_begin()
    callback.on_epoch_begin(0)

    def step():
        callback.on_train_batch_begin(0)
        logs = model.train_function(data)
        callback.on_train_batch_end(0, logs)
        return float(tf.reduce_mean(logs["loss"]))

    clocks.timed(step, WARM_UP)
    return lambda count: clocks.timed(step, count)


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "callbacks")
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    parser.add_argument("--policy", default="w4a8")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    widths = kq.policy.get(args.policy)
    policy = kq.Policy(widths.weights, widths.activations, kernel_quantizer="lsq", output_quantizer="lsq")
    for key in [args.network] if args.network else NETWORKS:
        runs = {name: step_with(name, NETWORKS[key], policy) for name in CONTESTANTS}
        title = f"A step of `fit`, {NETWORKS[key].title}, {args.policy}"
        report.show(
            title, list(rows(interleaved(runs, args.rounds), PLAIN)), args.json.with_name(f"{args.json.stem}_{key}.json")
        )


if __name__ == "__main__":
    main()
