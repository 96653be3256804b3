"""Recurrent layers on ONNX Runtime: how much of what `predict` computes differs, and how fast are they?

    python benchmarks/onnx_recurrent.py [--seeds 2] [--rounds 60]

Each layer of 32 units on 64 sequences of 49 steps (ConvLSTM2D: 8 filters, 16 of 12), outputs of all steps, with Keras's
initial weights and trained for a few epochs on moving sums: outputs that differ from `predict` and by how many steps of the
grid, sequences in which any does. *Alone*: the step's operators on the numbers that Keras gives them, all steps of all
sequences. Then processor time of one sequence, one thread, median of interleaved rounds, beside the float file of the same
layer.
"""

import argparse
import collections
import pathlib
import tempfile
import time

import keras
import numpy as np
import onnxruntime
from keras import ops
from onnx_alone import alone

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.graph.graph import in_float
from keras_quant.layers.loop import Loop
from keras_quant.onnx import Runtime

L = keras.layers
UNITS = 32


class Minimal(L.Layer):
    """A cell of one's own with one gate, that of Zhou et al. (2016)."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = units
        self.gate, self.candidate = L.Dense(units), L.Dense(units)

    def build(self, input_shape):
        shape = None, input_shape[-1] + self.state_size
        self.gate.build(shape)
        self.candidate.build(shape)
        self.built = True

    def call(self, x, states):
        (h,) = states
        f = ops.sigmoid(self.gate(ops.concatenate([x, h], -1)))
        h = (1.0 - f) * h + f * ops.tanh(self.candidate(ops.concatenate([x, f * h], -1)))
        return h, [h]


def encoder_decoder(x):
    _, *states = L.LSTM(UNITS, return_state=True)(x)
    return L.LSTM(UNITS, return_sequences=True)(L.Dense(16)(x), initial_state=states)


def plain(cls, **options):
    return lambda x: cls(UNITS, return_sequences=True, **options)(x)


MODELS = {
    "LSTM": plain(L.LSTM),
    "GRU": plain(L.GRU),
    "GRU, `reset_after=False`": plain(L.GRU, reset_after=False),
    "SimpleRNN": plain(L.SimpleRNN),
    "LSTM, masked": lambda x: plain(L.LSTM)(L.Masking()(x)),
    "Bidirectional LSTM": lambda x: L.Bidirectional(L.LSTM(UNITS, return_sequences=True))(x),
    "LSTM encoder and decoder": encoder_decoder,
    "a cell of one's own": lambda x: L.RNN(Minimal(UNITS), return_sequences=True)(x),
    "ConvLSTM2D": lambda x: L.ConvLSTM2D(8, 3, padding="same", return_sequences=True)(x),
}


def data(name, seed):
    """Sequences, some with an end of zeros, and moving sums of theirs."""
    rng = np.random.default_rng(seed)
    if name == "ConvLSTM2D":
        x = rng.standard_normal((80, 12, 8, 8, 2)).astype("float32")
    else:
        x = rng.standard_normal((576, 49, 10)).astype("float32")
        x[::4, 25:] = 0
    return x, 0.3 * np.cumsum(x[..., :1], 1) + x[..., 1:2]


def float_model(name, trained, seed):
    """The float model, data to calibrate with, and other data."""
    keras.utils.set_random_seed(seed)
    x, y = data(name, seed)
    count = 16 if name == "ConvLSTM2D" else 64
    inputs = keras.Input(x.shape[1:])
    outputs = MODELS[name](inputs)
    if trained:
        head = keras.Model(inputs, L.Dense(1)(outputs))
        head.compile(keras.optimizers.Adam(0.01), "mse")
        head.fit(x[count:], y[count:], epochs=8, verbose=0)
    return keras.Model(inputs, outputs), x[count:][:128], x[:count]


def of_steps(qmodel, folder, x):
    """For each kind of operator in the steps: elements that differ, elements, and the largest difference."""
    graph = trace(qmodel, keep_float=True)
    values, found = graph.run([ops.convert_to_tensor(x)], in_float), collections.defaultdict(lambda: np.zeros(3, int))
    for node in graph.nodes:
        if not isinstance(node.operation, Loop):
            continue
        step, path = node.operation.step, folder / "step.onnx"
        kq.export(step, path)
        arrays = map(ops.convert_to_numpy, node.operation.float_steps([values[v] for v in node.inputs]))
        given = dict(zip((v.name for v in trace(step, keep_float=True).inputs), arrays))
        for one in alone(step, path, given).values():
            sums = found[one.kind]
            sums[:2] += one.differ, one.elements
            sums[2] = max(sums[2], one.steps)
    found.pop("StepInput", None)
    return found


def microseconds(paths, x, rounds):
    """Processor time of one sequence for each file, interleaved."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    sessions = [onnxruntime.InferenceSession(str(p), options, providers=["CPUExecutionProvider"]) for p in paths]
    taken = [[] for _ in sessions]
    for _ in range(rounds):
        for session, times in zip(sessions, taken):
            start = time.process_time()
            session.run(None, {session.get_inputs()[0].name: x[:1]})
            times.append(1e6 * (time.process_time() - start))
    return [float(np.median(times)) for times in taken]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    totals = collections.defaultdict(lambda: np.zeros(3, int))
    print("| layer | weights | outputs that differ | by up to | sequences | operators that differ alone | µs: int8, float |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in MODELS:
            for trained in (False, True):
                row = np.zeros(5, int)
                own = collections.defaultdict(lambda: np.zeros(3, int))
                for seed in range(options.seeds):
                    model, calibration, x = float_model(name, trained, seed)
                    qmodel = kq.quantize(model, "int8", calibration)
                    paths = [folder / "int8.onnx", folder / "float.onnx"]
                    kq.export(qmodel, paths[0])
                    found = kq.verify(qmodel, paths[0], x, verbose=0)
                    apart = (Runtime(paths[0]).run([x])[0] != qmodel.predict(x, verbose=0)).reshape(len(x), -1).any(1)
                    row[[0, 1, 3, 4]] += found.mismatches, found.elements, apart.sum(), len(x)
                    row[2] = max(row[2], found.largest)
                    for kind, sums in of_steps(qmodel, folder, x).items():
                        for total in (own[kind], totals[kind]):
                            total[:2] += sums[:2]
                            total[2] = max(total[2], sums[2])
                kq.export(model, paths[1])
                times = microseconds(paths, x, options.rounds)
                alone_ = (
                    ", ".join(
                        f"{k if k == 'Quantize' else k.removeprefix('Quant')} {s[0] / s[1]:.0e}"
                        for k, s in own.items()
                        if s[0]
                    )
                    or "–"
                )
                print(
                    f"| {name} | {'trained' if trained else 'initial'} | {row[0]:,} of {row[1]:,} | {row[2]} LSB | "
                    f"{row[3]} of {row[4]} | {alone_} | {times[0]:.0f}, {times[1]:.0f} |",
                    flush=True,
                )
    print("\nOperators of steps on the numbers that Keras gives them:")
    for kind, (differ, elements, steps) in totals.items():
        print(f"{kind}: {differ:,} of {elements:,} elements differ, by up to {steps}")


if __name__ == "__main__":
    main()
