"""Runs files on whatever runtime this Python has; needs NumPy and that runtime only. Usage: run_files.py IN.npz OUT.npz.

IN holds for file i its bytes `i` and its inputs `i/0`, `i/1`, …; OUT its outputs named alike, or `i/error`.
"""

import sys

import numpy as np

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter


def run(content, inputs):
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    results = []
    details = interpreter.get_input_details()
    # Of a volume whose images lie in the batch a sample has several rows.
    rows = [int(detail["shape"][0]) for detail in details]
    for sample in range(len(inputs[0]) // rows[0]):
        for detail, array, count in zip(details, inputs, rows):
            interpreter.set_tensor(detail["index"], array[sample * count : (sample + 1) * count])
        interpreter.invoke()
        results.append([interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()])
    return [np.concatenate(parts) for parts in zip(*results)]


def main(source, target):
    given, made = np.load(source), {}
    for name in (key for key in given.files if "/" not in key):
        count = sum(key.startswith(f"{name}/") for key in given.files)
        try:
            outputs = run(given[name].tobytes(), [given[f"{name}/{i}"] for i in range(count)])
            made |= {f"{name}/{i}": array for i, array in enumerate(outputs)}
        except (RuntimeError, ValueError) as error:
            made[f"{name}/error"] = np.array(str(error))
    np.savez(target, **made)


main(*sys.argv[1:])
