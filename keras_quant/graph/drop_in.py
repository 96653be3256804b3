"""The quantized model inside of a `QuantLSTM` and its kin."""

import keras

from keras_quant import policy as policies
from keras_quant.graph.passes import prepare
from keras_quant.graph.place import place_behind
from keras_quant.graph.trace import trace
from keras_quant.layers.loop import StepInput
from keras_quant.layers.recurrent import BUILDERS


def quantized_recurrent(layer, shape, policy, states, on_grid, masked):
    """What a recurrent Keras layer becomes, as a quantized model: `[x, *states, mask]` → its outputs.

    Args:
        layer: recurrent Keras layer.
        shape: of its sequence.
        policy: `Policy`.
        states: shapes of first states without the batch, where it is called with such.
        on_grid: whether the sequence, and each state, comes from a quantized layer.
        masked: whether there is a mask.
    """
    x = keras.Input(batch_shape=tuple(shape), name="x")
    first = [keras.Input(size, name=f"first_{index}") for index, size in enumerate(states)]
    mask = [keras.Input(batch_shape=tuple(shape[:2]), dtype="bool", name="mask")] if masked else []
    given = {"initial_state": first} if first else {"mask": mask[0]} if mask else {}
    model = keras.Model([x, *first, *mask], layer(x, **given))
    graph = trace(model, keep_float=policy.computes_in_float, follow_weights=True)
    graph = prepare(graph.with_policies(policies.as_map(policy)))
    own = {} if policy.storage is None else {"policy": policies.Policy("int8", policy.storage)}

    def enter(slot, tensor):
        return StepInput(slot, name=f"{tensor.name}_in", **own)(tensor) if [*on_grid, False][slot] else tensor

    return place_behind(graph, layer.name, enter)


BUILDERS.append(quantized_recurrent)
