"""Goes through a quantized model layer by layer, in float and in integers; a method may change each layer on the way.

The layers inside of a loop are gone through with all steps of all sequences as samples, at the states that the steps have
before a method changes anything in the loop.
"""

import contextlib
import dataclasses

from keras import ops, tree

from keras_quant import backend
from keras_quant.graph.graph import in_float, in_integers
from keras_quant.graph.loops import everywhere, inner_graph, inner_path
from keras_quant.layers import QuantBatchNormalization, annotate
from keras_quant.layers.derived import is_derived
from keras_quant.quantizers.weight import on_grid


def is_weighted(layer):
    """Whether a layer multiplies by a kernel of its own that has a quantizer."""
    has_kernel = hasattr(layer, "linear_call") and getattr(layer, "kernel_quantizer", None) is not None
    return has_kernel and not is_derived(layer.kernel)


def is_visited(layer):
    """Whether there is anything in a layer that a method may change."""
    return is_weighted(layer) or isinstance(layer, QuantBatchNormalization)


def visited_layers(graph):
    """The layers of a graph, and of loops in it, in which there is anything that a method may change, each once."""
    layers = [place.node.operation for place in everywhere(graph)]
    return list({id(layer): layer for layer in layers if is_visited(layer)}.values())


class Reference:
    """The weights of a quantized model's layers as they are now: what methods want to come close to.

    Args:
        graph: `Graph` of the quantized model.
    """

    def __init__(self, graph):
        layers = {id(layer): layer for layer in visited_layers(graph)}
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
        path: of the layer; inside of a loop behind the loop's.
        inputs: list of batches of its input, as the layers before it make it in inference.
        targets: list of batches of what it makes in float, before the activation, all layers with the weights of the
            reference.
    """

    node: object
    path: str
    inputs: list
    targets: list

    @property
    def layer(self):
        return self.node.operation

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
    columns = [[ops.convert_to_tensor(batch[i]) for batch in batches] for i in range(len(graph.inputs))]
    _Walk(reference, visit, exact, len(batches)).through(graph, [_Ways(column, column) for column in columns])


class _Walk:
    def __init__(self, reference, visit, exact, count):
        self.reference, self.visit, self.exact, self.count = reference, visit, exact, count
        self.visited = set()

    def through(self, graph, inputs, path_of=lambda path: path):
        """Compute a graph whose inputs are `_Ways`; `path_of` makes the path of a layer of a node's."""
        graph.run(inputs, lambda node, args, kwargs: self._computed(node, args, kwargs, path_of), release=True)

    def _computed(self, node, args, kwargs, path_of):
        real_calls = _calls(args, kwargs, "real", self.count)
        exact_calls = _calls(args, kwargs, "exact", self.count) if self.exact else real_calls
        layer, reference, exact = node.operation, self.reference, self.exact
        if inner_graph(node) is not None:
            return self._loop(node, real_calls, exact_calls, path_of)
        if is_visited(layer):
            with reference.weights_of(layer):
                targets = [_before_activation(layer, *a) for a, _ in real_calls]
            real = list(map(layer.activate, targets))
            if id(layer) not in self.visited:
                self.visited.add(id(layer))
                self.visit(Place(node, path_of(node.path), [a[0] for a, _ in exact_calls], targets))
        else:
            real = [in_float(node, a, k) for a, k in real_calls]
        made = [in_integers(node, a, k) for a, k in exact_calls] if exact else real
        return _transposed(real, made)

    def _loop(self, node, real_calls, exact_calls, path_of):
        """What a loop makes, after its layers were visited."""
        layer, inside = node.operation, inner_graph(node)
        with contextlib.ExitStack() as held:
            for inner in visited_layers(inside):
                held.enter_context(self.reference.weights_of(inner))
            in_float = backend.compiled_for_batches(lambda *x: (layer.float_steps(list(x)), layer.float_call(list(x))))
            real_steps, real = zip(*(in_float(*tree.flatten(args)) for args, _ in real_calls))
        steps = real_steps
        if self.exact:
            in_integers = backend.compiled_for_batches(lambda *x: layer.integer_steps(list(x)))
            steps = [in_integers(*tree.flatten(args)) for args, _ in exact_calls]
        columns = [_Ways(list(own), list(other)) for own, other in zip(zip(*real_steps), zip(*steps))]
        self.through(inside, columns, lambda path: inner_path(path_of(node.path), path, layer.name))
        made = real
        if self.exact:
            in_integers = backend.compiled_for_batches(lambda *x: layer.main_call(list(x), training=False))
            made = [in_integers(*tree.flatten(args)) for args, _ in exact_calls]
            made = [tree.map_structure(_on_its_grid, node.outputs, outputs) for outputs in made]
        return _transposed(list(real), list(made))


def _on_its_grid(value, x):
    """What a graph has made, which bears no notes, with the grid that it lies on."""
    return x if value.note is None else annotate(x, value.note.quantizer)


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
