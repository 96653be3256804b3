"""Goes through a quantized model layer by layer, in float and in integers; a method may change each layer on the way."""

import contextlib
import dataclasses

from keras import ops, tree

from keras_quant import backend
from keras_quant.graph.graph import in_float, in_integers
from keras_quant.layers import QuantBatchNormalization
from keras_quant.layers.derived import is_derived
from keras_quant.quantizers.weight import on_grid


def is_weighted(layer):
    """Whether a layer multiplies by a kernel of its own that has a quantizer."""
    has_kernel = hasattr(layer, "linear_call") and getattr(layer, "kernel_quantizer", None) is not None
    return has_kernel and not is_derived(layer.kernel)


def is_visited(layer):
    """Whether there is anything in a layer that a method may change."""
    return is_weighted(layer) or isinstance(layer, QuantBatchNormalization)


class Reference:
    """The weights of a quantized model's layers as they are now: what methods want to come close to.

    Args:
        graph: `Graph` of the quantized model.
    """

    def __init__(self, graph):
        layers = {id(node.operation): node.operation for node in graph.nodes if is_visited(node.operation)}
        self._values = {key: [backend.read(v) for v in linear_variables(layer)] for key, layer in layers.items()}

    @contextlib.contextmanager
    def weights_of(self, layer):
        """Let a layer have its weights back for a while."""
        variables, wanted = linear_variables(layer), self._values[id(layer)]
        present = [backend.read(v) for v in variables]
        assign(variables, wanted)
        try:
            yield
        finally:
            assign(variables, present)


def linear_variables(layer):
    """The variables that a layer's float arithmetic depends on; of a weighted one the kernel first."""
    if not is_weighted(layer):
        return layer.variables
    norm = getattr(layer, "batch_norm", None)
    return [v for v in (layer.kernel, layer.bias, *(norm.variables if norm is not None else ())) if v is not None]


def assign(variables, values):
    """Assign each value to its variable."""
    for variable, value in zip(variables, values):
        variable.assign(value)


@dataclasses.dataclass(frozen=True)
class Place:
    """A layer, as `walk` comes to it.

    Attributes:
        node: `Node`; a layer that is called twice comes by at its first call only.
        inputs: list of batches of its input, as the layers before it make it in inference.
        targets: list of batches of what it makes in float, before the activation, all layers with the weights of the
            reference.
    """

    node: object
    inputs: list
    targets: list

    @property
    def layer(self):
        return self.node.operation

    @property
    def path(self):
        return self.node.path

    def outputs(self):
        """What the layer makes of its inputs with the kernel that its integers stand for, before the activation."""
        if not is_weighted(self.layer):
            return [self.layer.float_call(x) for x in self.inputs]
        kernel = on_grid(self.layer.kernel_quantizer, self.layer.kernel, self.layer.kernel_axes)
        return [self.layer.linear_call(x, kernel) for x in self.inputs]

    def noise(self):
        """Share of the noise in the power of the layer's output."""
        noise = power = 0.0
        for target, made in zip(self.targets, self.outputs()):
            target, made = (self.layer.activate(z) for z in (target, made))
            noise += float(ops.sum((made - target) ** 2))
            power += float(ops.sum(target**2))
        return noise / max(power, 1e-30)


@dataclasses.dataclass(frozen=True)
class _Ways:
    """A tensor in float and exact, a list of batches each."""

    real: list
    exact: list


def walk(graph, batches, reference, visit, exact=True):
    """Compute a graph; each layer that methods may change is visited once, before its own integers are computed.

    Args:
        graph: `Graph` of a quantized model with its ranges set.
        batches: list of lists of input arrays.
        reference: `Reference`.
        visit: function of a `Place`, which may assign to the layer's variables.
        exact: whether to compute the integers; otherwise the places' inputs are those of float.
    """
    visited = set()

    def compute(node, args, kwargs):
        real_calls = _calls(args, kwargs, "real", len(batches))
        exact_calls = _calls(args, kwargs, "exact", len(batches)) if exact else real_calls
        layer = node.operation
        if is_visited(layer):
            with reference.weights_of(layer):
                targets = [_before_activation(layer, *a) for a, _ in real_calls]
            real = list(map(layer.activate, targets))
            if id(layer) not in visited:
                visited.add(id(layer))
                visit(Place(node, [a[0] for a, _ in exact_calls], targets))
        else:
            real = [in_float(node, a, k) for a, k in real_calls]
        made = [in_integers(node, a, k) for a, k in exact_calls] if exact else real
        return _transposed(real, made)

    columns = [[ops.convert_to_tensor(batch[i]) for batch in batches] for i in range(len(graph.inputs))]
    graph.run([_Ways(column, column) for column in columns], compute, release=True)


def _before_activation(layer, x):
    return layer.linear_call(x, layer.kernel) if is_weighted(layer) else layer.float_call(x)


def _calls(args, kwargs, way, count):
    """The arguments of each batch's call."""
    pick = lambda i: tree.map_structure(lambda x: getattr(x, way)[i] if isinstance(x, _Ways) else x, (args, kwargs))
    return [pick(i) for i in range(count)]


def _transposed(real, exact):
    """Batches of structures as a structure of `_Ways`."""
    flat = [list(map(list, zip(*map(tree.flatten, way)))) for way in (real, exact)]
    return tree.pack_sequence_as(real[0], [_Ways(*pair) for pair in zip(*flat)])


def largest_share(graph):
    """How many values of one sample `walk` holds at a time, at most."""
    # The targets and what the layer makes of them, beside both ways.
    return graph.most_held(ways=2, making=4)
