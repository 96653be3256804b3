"""Does every keras_hub model that sees images, sound or text become an exact integer file?

    python benchmarks/hub.py [NAMES] [--converter] [--write-docs]

Each model of `hub_models.py`, small and with random weights: quantized with calibration data, trained for a step, exported,
verified on LiteRT. SQNR is that of all outputs against the float model, before the training step; with `--converter`, also
of TFLiteConverter's full-integer file from the same data. Each model has a process of its own; a failure gives a row with
the error.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import report

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "hub.md"
COMMAND = "python benchmarks/hub.py --converter --write-docs"
HEAD = f"""# keras_hub

Small models of keras_hub with random weights: quantized, trained for a step, exported, verified on LiteRT. SQNR is that of
the outputs against the float model. `{COMMAND}` prints this table.

| model | operators | partitions | outputs compared | differ | SQNR in dB | TFLiteConverter's |
|---|---|---|---|---|---|---|
"""
FNET = """
FNet's Fourier transform makes the numbers of one place many times as large as all others, which share a few steps of the
grid then. TFLiteConverter cannot convert it.
"""


def measure(name, converter):
    """What one model gives, in this process."""
    import hub_models
    import keras

    import keras_quant as kq

    keras.utils.set_random_seed(0)
    model, x = hub_models.MODELS[name]()
    hub_models.settle(model)
    wanted = keras.tree.flatten(model.predict(x, verbose=0))
    qmodel = kq.quantize(model, "int8", x)
    got = keras.tree.flatten(qmodel.predict(x, verbose=0))
    result = {"name": name, "sqnr": sqnr(wanted, got)}
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, model.predict(x, verbose=0), verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.tflite"
        written = kq.export(qmodel, path)
        parity = kq.verify(qmodel, path, x, verbose=0)
    result |= {"operators": len(written.operators), "partitions": written.partitions}
    result |= {"outputs": parity.elements, "differ": parity.mismatches}
    if converter:
        try:
            result["converter"] = sqnr(wanted, converted(model, x))
        except Exception as error:  # whatever the converter or its file ends in is its result
            result["converter"] = type(error).__name__
    return result


def sqnr(wanted, got):
    """In dB, of all outputs together."""
    import numpy as np

    signal = sum(float(np.sum(np.square(w, dtype="float64"))) for w in wanted)
    noise = sum(float(np.sum(np.square(np.float64(w) - g))) for w, g in zip(wanted, got))
    return float(10 * np.log10(signal / max(noise, 1e-30)))


def converted(model, x):
    """The real outputs of TFLiteConverter's full-integer file, in the model's order."""
    import keras
    import numpy as np
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    names = sorted(x) if isinstance(x, dict) else ["x"]
    arrays = [x[name] for name in names] if isinstance(x, dict) else [x]
    given = lambda values: dict(zip(names, values)) if isinstance(x, dict) else values[0]
    call = lambda *values: keras.tree.flatten(model(given(values), training=False))
    specs = [tf.TensorSpec((1, *a.shape[1:]), a.dtype, f"input_{i}") for i, a in enumerate(arrays)]
    function = tf.function(call, input_signature=specs, autograph=False)
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    maker = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    maker.optimizations = [tf.lite.Optimize.DEFAULT]
    maker.representative_dataset = lambda: ([a[i : i + 1] for a in arrays] for i in range(len(arrays[0])))
    maker.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    runner = Interpreter(model_content=maker.convert())
    runner.allocate_tensors()
    by_name = {d["name"].split(":")[0]: d["index"] for d in runner.get_input_details()}
    made = []
    for row in range(len(arrays[0])):
        for i, array in enumerate(arrays):
            runner.set_tensor(by_name[f"input_{i}"], array[row : row + 1])
        runner.invoke()
        made.append([runner.get_tensor(d["index"]) for d in sorted(runner.get_output_details(), key=lambda d: d["name"])])
    return [np.concatenate(parts) for parts in zip(*made)]


def run(name, converter):
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, name, "--worker", *(["--converter"] if converter else [])]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"name": name, "error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}


def cells(result):
    if "error" in result:
        return [result["name"], *[""] * 5, result["error"][:160]]
    text = lambda value: "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
    keys = ("name", "operators", "partitions", "outputs", "differ", "sqnr", "converter")
    return [text(result.get(key)) for key in keys]


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.splitlines()[0]), "hub")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--converter", action="store_true")
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.names[0], args.converter)))
        return
    import hub_models

    results = []
    for name in args.names or hub_models.MODELS:
        results.append(run(name, args.converter))
        print(" | ".join(cells(results[-1])), flush=True)
    columns = ("model", "operators", "partitions", "outputs", "differ", "SQNR", "converter")
    report.show("keras_hub", [dict(zip(columns, cells(result))) for result in results], args.json)
    if args.write_docs:
        rows = "".join(f"| {' | '.join(cells(result))} |\n" for result in results)
        left_out = "".join(f"- {name}: {reason}.\n" for name, reason in hub_models.LEFT_OUT.items())
        DOCS.write_text(f"{HEAD}{rows}{FNET}\nLeft out:\n\n{left_out}")


if __name__ == "__main__":
    main()
