"""How much each layer's precision costs in accuracy, measured on data with all other layers in float.

Three measures run the network from the layer on, once for each layer, policy and batch:

* `noise`: share of the quantization noise in the outputs' power, `Σ(y - ŷ)² / Σy²`; the SQNR is `-10·log10` of it;
* `divergence`: Kullback-Leibler divergence of the class scores from the float model's (of other outputs, `noise`);
* `loss`: how much the loss rises.

The fourth needs a few passes for all layers together:

* `hessian`: `½·tr(H)/n · ‖w - ŵ‖²`, the rise of the loss to second order with errors in all directions alike, `n` weights
  ([HAWQ-V2](https://arxiv.org/abs/1911.03852)). It sees the weights only.
"""

import contextlib
import dataclasses
import math
import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_quant import backend
from keras_quant import policy as policies
from keras_quant.graph.graph import Value, in_float
from keras_quant.graph.loops import inner_graph
from keras_quant.layers.conv import QuantDepthwiseConvolution
from keras_quant.layers.derived import with_value
from keras_quant.quantizers import Distribution, ranges
from keras_quant.quantizers.weight import rounded
from keras_quant.search.objective import distance
from keras_quant.search.units import key_of

MEASURES = ("noise", "divergence", "loss", "hessian")
# Vectors of random signs for the trace; HAWQ-V2 finds it settled by then.
PROBES = 8
# Values of one tensor that its range is found from.
SAMPLES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What one layer in one policy costs.

    Attributes:
        noise, divergence, loss, hessian: see this module; `loss` may be negative, all others are not.
    """

    noise: float
    divergence: float
    loss: float
    hessian: float

    @property
    def sqnr(self):
        """Signal to quantization noise of the outputs, in dB."""
        return -10 * np.log10(max(self.noise, 1e-20))


class Sensitivities:
    """Measures sensitivities, batch by batch.

    Args:
        graph: `Graph` of the model quantized to int8, calibrated; its layers compute in float here.
        units: list of `Unit`s of it.
        options: dict from each unit to the `Policy`s that it takes.
        batches: list of `(inputs, labels, weights)`.
        objective: `Objective`.
        cache: `Cache`.
        seed: of the Hessian's random signs.
    """

    def __init__(self, graph, units, options, batches, objective, cache, seed=0):
        self.graph, self.units, self.options = graph, units, options
        self.batches, self.objective, self.cache, self.seed = batches, objective, cache, seed
        self.grids, self._loops = {}, {}

    @property
    def evaluations(self):
        """Runs of the network, from some layer on, that `measure` takes: a batch, a layer and a policy each."""
        return len(self.batches) * sum(len(self.options[unit]) for unit in self.units)

    def measure(self, verbose=1):
        """All sensitivities.

        Returns:
            Dict from `(unit, policy)` to `Sensitivity`.
        """
        progress = keras.utils.Progbar(self.evaluations, unit_name="evaluation") if verbose else None
        sums = {}
        for number, batch in enumerate(self.batches):
            for key, values in self._of_batch(f"batch {number}", batch, progress):
                sums[key] = sums.get(key, 0.0) + np.asarray(values)
        traces = self._traces(self.batches[0])
        self.cache.write()
        return {key: self._sensitivity(key, values, traces) for key, values in sums.items()}

    def _sensitivity(self, key, values, traces):
        noise, divergence, loss = values / len(self.batches)
        return Sensitivity(float(noise), float(divergence), float(loss), self._hessian(*key, traces))

    def _of_batch(self, section, batch, progress):
        """The figures of each unit and policy on one batch."""
        inputs, labels, weights = batch
        values, structure = None, self.graph.outputs
        for unit in self.units:
            for policy in self.options[unit]:
                name = f"{unit.path} {key_of(policy)}"
                figures = self.cache.get(section, name, 3)
                if figures is None:
                    values = values or self.graph.run(list(map(ops.convert_to_tensor, inputs)), self._in_float)
                    exact = tree.map_structure(values.get, structure)
                    outputs = tree.map_structure(self._values_with(unit, policy, values).get, structure)
                    figures = self._figures(outputs, exact, labels, weights)
                    self.cache.put(section, name, figures)
                if progress is not None:
                    progress.add(1)
                yield (unit, policy), figures

    def _figures(self, outputs, exact, labels, weights):
        pairs = list(zip(tree.flatten(outputs), tree.flatten(exact)))
        noise = [ops.sum((y - wanted) ** 2) / ops.maximum(ops.sum(wanted**2), 1e-12) for y, wanted in pairs]
        away = [distance(y, wanted) for y, wanted in pairs]
        rise = self.objective.rise(outputs, exact, labels, weights)
        return [float(sum(noise)) / len(pairs), float(sum(away)) / len(pairs), rise]

    def _values_with(self, unit, policy, values):
        """All values of the graph with one unit in a policy: what does not depend on it is taken as it was."""
        changed, ids, loops = {}, {id(node) for node in unit.places}, {id(node) for node in unit.loops}
        look = lambda x: changed.get(x, values.get(x)) if isinstance(x, Value) else x
        for node in self.graph.nodes:
            own, is_loop = id(node) in ids, id(node) in loops
            if own or is_loop or any(value in changed for value in node.inputs):
                args, kwargs = tree.map_structure(look, (node.args, node.kwargs))
                if is_loop:
                    outputs = self._loop_in_policy(node, args, policy)
                else:
                    outputs = self._in_policy(node, args, policy, values) if own else self._in_float(node, args, kwargs)
                changed.update(zip(tree.flatten(node.outputs), tree.flatten(outputs)))
        return {**values, **changed}

    def _in_policy(self, node, args, policy, values):
        """A layer's output with its weights, inputs and output rounded as a policy has them; the arithmetic is float."""
        policy = _of_part(node.operation, policy)
        if policy.weights == "float16":
            args = tree.map_structure(_to_half, args)
        elif policy.storage == "int8" or policy.activations == "dynamic":
            args = tree.map_structure(lambda v, x: x if v.note is None else v.note.quantizer.fake_quant(x), node.args, args)
        with _weights(node.operation, policy):
            y = node.operation.float_call(*args)
        if policy.computes_in_float or policy.activations == "int16":
            return _to_half(y) if policy.weights == "float16" else y
        return self._grid(node, policy, values[node.output]).fake_quant(y)

    def _in_float(self, node, args, kwargs):
        if inner_graph(node) is None:
            return in_float(node, args, kwargs)
        return self._compiled(node, "", lambda *flat: in_float(node, [list(flat)], {}))(*tree.flatten(args))

    def _loop_in_policy(self, node, args, policy):
        """A loop's outputs with the weights and tensors of its steps rounded as a policy has them."""
        graph = inner_graph(node)

        def step(flat):
            values = graph.run(flat, lambda *call: self._inside_in_policy(*call, policy))
            return [values[value] for value in tree.flatten(graph.outputs)]

        with contextlib.ExitStack() as held:
            for inner in graph.nodes:
                if hasattr(inner.operation, "kernel_quantizer"):
                    held.enter_context(_weights(inner.operation, policy))
            run = self._compiled(node, key_of(policy), lambda *flat: node.operation.float_call(list(flat), step))
            return run(*tree.flatten(args))

    def _inside_in_policy(self, node, args, kwargs, policy):
        made, note = in_float(node, args, kwargs), tree.flatten(node.outputs)[0].note
        if policy.computes_in_float or policy.activations == "int16":
            return tree.map_structure(_to_half, made) if policy.weights == "float16" and _is_real(made) else made
        if note is None:
            return made
        weighted, key = hasattr(node.operation, "kernel_quantizer"), (id(node), policy.activations)
        if not weighted or policy.output_bits == 8:
            return note.quantizer.fake_quant(made)
        if key not in self.grids:
            self.grids[key] = policy.new_output_quantizer()
            self.grids[key].set_range(*(float(v) for v in note.quantizer.range()))
        return self.grids[key].fake_quant(made)

    def _compiled(self, node, key, function):
        """A function of the batch that a loop is run by, as a graph; the same for all batches."""
        return self._loops.setdefault((id(node), key), backend.compiled_for_batches(function))

    def _grid(self, node, policy, y):
        """The quantizer of a layer's output in a policy, its range found on the first batch."""
        key = id(node), policy.activations, str(policy.output_quantizer)
        if key not in self.grids:
            grid = self.grids[key] = policy.new_output_quantizer()
            grid.bounds, seen = node.operation.output_quantizer.bounds, Distribution()
            y = np.ravel(y)
            seen.add(y[:: max(1, y.size // SAMPLES)], y.min(), y.max())
            grid.set_range(*ranges.get("mse").range_of(seen.within(*grid.bounds), grid))
        return self.grids[key]

    def _traces(self, batch):
        """Trace of the loss's second derivative by the mean weight of each place, by its path."""
        inputs, labels, weights = batch
        places = [node for unit in self.units for node in unit.places]
        known = {node.path: self.cache.get("traces", node.path, 1) for node in places}
        if None in known.values():
            inputs = list(map(ops.convert_to_tensor, inputs))
            exact = self._outputs(inputs)
            loss = lambda: self.objective(self._outputs(inputs), exact, labels, weights)
            try:
                traces = backend.hessian_traces(loss, [node.operation.kernel for node in places], PROBES, self.seed)
            except LookupError as error:
                warnings.warn(f"No second derivative ({error}); the measure 'hessian' is zero throughout.", stacklevel=2)
                traces = [0.0] * len(places)
            for node, trace in zip(places, traces):
                known[node.path] = [max(trace, 0.0) / math.prod(node.operation.kernel.shape)]
                self.cache.put("traces", node.path, known[node.path])
        return {path: value for path, (value,) in known.items()}

    def _outputs(self, inputs):
        return tree.map_structure(self.graph.run(inputs, in_float).get, self.graph.outputs)

    def _hessian(self, unit, policy, traces):
        total = 0.0
        for node in unit.places:
            exact = backend.read(node.operation.kernel)
            with _weights(node.operation, _of_part(node.operation, policy)):
                error = backend.read(node.operation.kernel) - exact
            total += 0.5 * traces[node.path] * float(ops.sum(error**2))
        return total


def _of_part(layer, policy):
    """The policy of a part of a unit: the depthwise one of a separable convolution is float where the other is dynamic."""
    depthwise = isinstance(layer, QuantDepthwiseConvolution)
    return policies.get("float32") if depthwise and policy.activations == "dynamic" else policy


@contextlib.contextmanager
def _weights(layer, policy):
    """Let a layer have its kernel rounded as a policy has it, for a while."""
    kernel = backend.read(layer.kernel)
    if policy.weights == "float16":
        kernel = _to_half(kernel)
    elif policy.weights != "float32":
        kernel = rounded(policy.new_kernel_quantizer(), kernel, layer.kernel_axes)
    with with_value(layer.kernel, kernel):
        yield


def _is_real(made):
    return all(keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)) for x in tree.flatten(made))


def _to_half(x):
    return ops.cast(ops.cast(x, "float16"), "float32")
