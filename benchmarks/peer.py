"""What tfmot's process is given, and how it is run: a network, its weights and the data in one folder."""

import json
import pathlib
import subprocess

import keras
import numpy as np

SCRIPT = pathlib.Path(__file__).with_name("peer_tfmot.py")


def hand_over(model, folder, **arrays):
    """Write a Functional model whose layers are used once, its weights and the arrays.

    tf_keras does not read Keras 3's files: each layer's class, plain arguments and inputs go over as JSON, and its weights,
    whose order the two Keras share.
    """
    layers = [{"class": type(layer).__name__, "config": _plain(layer), "inputs": _inputs(layer)} for layer in model.layers]
    (folder / "network.json").write_text(json.dumps(layers))
    weights = {f"{layer.name}/{i}": w for layer in model.layers for i, w in enumerate(layer.get_weights())}
    np.savez(folder / "weights.npz", **weights)
    np.savez(folder / "data.npz", **arrays)


def run(python, task, folder, **arguments):
    """Run one task of `peer_tfmot.py`; what it prints last, read as JSON."""
    command = [python, SCRIPT, task, folder, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"`{SCRIPT.name} {task}` failed in {python}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _plain(layer):
    """The arguments that are no objects; the others are defaults in the networks here."""
    return {name: value for name, value in layer.get_config().items() if not isinstance(value, dict) and value is not None}


def _inputs(layer):
    if isinstance(layer, keras.layers.InputLayer):
        return []
    return [tensor._keras_history.operation.name for tensor in layer._inbound_nodes[0].input_tensors]
