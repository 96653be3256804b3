"""What a layer computes from weights alone, such as `sigmoid(w)` or a transposed table: symbols beside those of the model.

While a layer is looked into, its trainable variables are symbols, too. What is made of them by operations of Keras is a
symbolic tensor, an *expression*, which stands where a constant would: among the arguments of the node at which it meets the
input. The pass that makes a layer of that node gives it the expression for a weight.
"""

import collections
import contextlib
import copy
import dataclasses

import keras
import numpy as np
from keras import ops, tree
from keras.src.ops import core
from keras.src.ops.node import KerasHistory
from keras.src.ops.numpy import BroadcastTo, Repeat, Reshape, Tile

from keras_quant.backend.samples import SAMPLES
from keras_quant.layers.derived import FollowsWeights, Source, derive, derived_weights, is_derived, is_variable


class Weight(keras.KerasTensor):
    """The symbol of a variable, and an expression itself.

    Args:
        variable: Keras variable.

    Attributes:
        source: `Source` that stands for the variable in the quantized model; all that is computed from it shares it.
    """

    def __init__(self, variable):
        super().__init__(tuple(variable.shape), keras.backend.standardize_dtype(variable.dtype), name=variable.name)
        self.variable, self._source = variable, None
        self._keras_history = KerasHistory(operation=None, node_index=0, tensor_index=0)

    @property
    def value(self):
        """As of a variable."""
        return self

    @property
    def source(self):
        if self._source is None:
            self._source = Source(self.shape, name=self.variable.path.replace("/", "."))
            self._source.value.assign(self.variable)
            self._source.trainable = self._source.value.trainable = self.variable.trainable
        return self._source


class Weights:
    """The symbols of the variables of a model, each made when a layer that has it is looked into."""

    def __init__(self):
        self.symbols, self._swapped = {}, []

    @contextlib.contextmanager
    def as_symbols(self, layer):
        """Let a layer, and those in it, have symbols in the place of their trainable variables."""
        self._swapped.append([swap for each in layer._flatten_layers() for swap in self._swaps(each)])
        self._put(1)
        try:
            yield
        finally:
            self._put(0)
            self._swapped.pop()

    @contextlib.contextmanager
    def as_variables(self):
        """Undo `as_symbols` for a while: Keras finds the shapes of some layers by calling them on tensors of its backend."""
        self._put(0)
        try:
            yield
        finally:
            self._put(1)

    def _put(self, which):
        for owner, name, *both in self._swapped[-1] if self._swapped else ():
            vars(owner)[name] = both[which]

    def _swaps(self, layer):
        """Triples of a layer, the name of an attribute, what it holds, and that with symbols."""
        for name, held in list(vars(layer).items()):
            if self.symbol(held) is not held:
                yield layer, name, held, self.symbol(held)
            elif isinstance(held, (list, tuple, dict)) and not name.startswith("_"):
                plain = dict(held) if isinstance(held, dict) else list(held)
                if any(map(is_variable, tree.flatten(plain))):
                    yield layer, name, held, tree.map_structure(self.symbol, plain)

    def symbol(self, variable):
        """The symbol of a variable that trains; anything else as it is."""
        if not is_variable(variable) or not variable.trainable or not keras.backend.is_float_dtype(variable.dtype):
            return variable
        if id(variable) not in self.symbols:
            self.symbols[id(variable)] = Weight(variable)
        return self.symbols[id(variable)]


def is_expression(x):
    """Whether an argument of a node is computed from weights."""
    return isinstance(x, keras.KerasTensor)


def is_weight(x):
    """Whether an argument of a node is a variable or computed from some."""
    return is_variable(x) or is_expression(x)


def trains(x):
    """Whether an argument of a node changes in training."""
    return (is_variable(x) and x.trainable) or is_expression(x)


def expression_of(x):
    """The expression that a constant, variable or derived weight is; arrays and frozen variables as they are."""
    if is_derived(x):
        return x.expression
    return Weight(x) if is_variable(x) and x.trainable else x


def movable(x):
    """An expression where there has to be one, so that what shares a variable goes on sharing it; else an array."""
    return expression_of(x) if is_expression(x) or is_derived(x) else array_of(x)


def weights_in(expression):
    """The `Weight`s that an expression is computed from, each once."""
    found, seen, pending = [], set(), [expression]
    while pending:
        tensor = pending.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if isinstance(tensor, Weight):
            found.append(tensor)
        else:
            pending.extend(reversed(_node_of(tensor).input_tensors))
    return found


def numbers_of(x):
    """What a constant, a variable or an expression is now, as an array."""
    if not is_expression(x):
        return np.asarray(ops.convert_to_numpy(x))
    weights, function = _function_of(x)
    values = [ops.convert_to_numpy(weight.variable) for weight in weights]
    array = values[0] if function is None else ops.convert_to_numpy(function([np.float64(value) for value in values]))
    return np.asarray(array, x.dtype)


def array_of(x):
    """A constant, a variable or an expression as a float32 array."""
    return np.asarray(numbers_of(x), "float32")


def mapped(x, of_array, of_expression=None):
    """What a function makes of a constant; an expression of what changes in training.

    Args:
        x: constant, variable or expression.
        of_array: function of a float32 array.
        of_expression: the same in `keras.ops`, by default `of_array`.
    """
    x = expression_of(x)
    return (of_expression or of_array)(x) if is_expression(x) else of_array(array_of(x))


def hold(layer, name, value):
    """Give a built layer a weight.

    Args:
        layer: Keras layer.
        name: of the weight, whose shape the value has but for dimensions of 1 in front.
        value: array, variable, expression, or derived weight of another layer; training follows the last two.
    """
    weight = getattr(layer, name)
    if is_derived(value):
        value = value.expression
    shape = tuple(weight.shape)
    fits = lambda size: (-1,) if len(shape) == 1 else size
    if not is_expression(value):
        array = array_of(value)
        weight.assign(np.broadcast_to(array.reshape(fits(array.shape)), shape))
        return
    if tuple(value.shape) != shape:
        value = ops.broadcast_to(ops.reshape(value, fits(tuple(value.shape))), shape)
    weights, function = _function_of(value)
    derive(layer, name, [weight.source for weight in weights], function).expression = value


def settled(graph, symbols, follow=True):
    """The graph in which a weight that one node alone reads, as it is, is its variable; `weights` has those of the others.

    Args:
        graph: `Graph` of a float model.
        symbols: `Weights.symbols`.
        follow: whether what is computed from weights stays an expression; otherwise it becomes an array.
    """
    readers = collections.Counter(
        id(weight.variable) if x is weight else weight
        for node in graph.nodes
        for x in tree.flatten((node.args, node.kwargs))
        if is_expression(x)
        for weight in weights_in(x)
    )
    layers = {id(n.operation): n.operation for n in graph.nodes if isinstance(n.operation, keras.layers.Layer)}
    readers.update(id(variable) for layer in layers.values() for variable in layer.variables)
    computed = {id(weight.variable) for weight in readers if isinstance(weight, Weight)}
    shared = {key: weight for key, weight in symbols.items() if key in computed or readers[key] > 1}

    def settle(x):
        if not is_expression(x) or (follow and not (isinstance(x, Weight) and id(x.variable) not in shared)):
            return x
        return x.variable if isinstance(x, Weight) else numbers_of(x)

    nodes = []
    for node in graph.nodes:
        args, kwargs = tree.map_structure(settle, (node.args, node.kwargs))
        nodes.append(dataclasses.replace(node, args=args, kwargs=kwargs))
    return dataclasses.replace(graph, nodes=nodes, weights=shared if follow else {})


def weights_to_follow(layer, weights):
    """Dict from names of weights of a layer of the graph to the `Source`s and the function that they are computed by.

    Args:
        layer: layer of a node.
        weights: `Graph.weights`.
    """
    found = {name: (weight.sources, weight.function) for name, weight in derived_weights(layer).items()}
    for name, variable in vars(layer).items():
        if is_variable(variable) and id(variable) in weights:
            found[name.removeprefix("_")] = [weights[id(variable)].source], None
    return found


def follow(layer, weights):
    """Let weights of a layer be computed from others, but for those that are a variable which only this layer reads.

    Args:
        layer: built layer that `FollowsWeights`, or one with parts, of which those that read such weights have seen to it.
        weights: as `weights_to_follow` gives them.
    """
    for name, (sources, function) in weights.items():
        alone = function is None and sources[0].readers == 1
        if not alone and isinstance(layer, FollowsWeights) and getattr(layer, name, None) is not None:
            derive(layer, name, sources, function)


def count_readers(graph):
    """Set `readers` of each `Source`: how many weights of the graph's layers are computed from it."""
    layers = {id(n.operation): n.operation for n in graph.nodes if isinstance(n.operation, keras.layers.Layer)}
    found = [pair for layer in layers.values() for pair in weights_to_follow(layer, graph.weights).values()]
    readers = collections.Counter(id(source) for sources, _ in found for source in sources)
    for source in (source for sources, _ in found for source in sources):
        source.readers = readers[id(source)]


def _function_of(expression):
    """Its `Weight`s, and a Keras model in float64 that computes it from their values; `None` for a weight itself."""
    weights = weights_in(expression)
    if expression is weights[0]:
        return weights, None
    inputs = [keras.Input(batch_shape=weight.shape, dtype="float64") for weight in weights]
    known = {id(weight): symbol for weight, symbol in zip(weights, inputs)}
    return weights, keras.Model(inputs, _computed_again(expression, known), name="weight")


def of_one_sample(expression):
    """An expression in which nothing is repeated for each of the samples of a trace; its first dimension may be 1 for it."""
    return _computed_again(expression, {id(weight): weight for weight in weights_in(expression)})


def _computed_again(expression, known):
    """An expression, computed from other tensors.

    Args:
        known: dict from the `id` of each symbol that it is computed from to another.
    """
    known = dict(known)
    fill = lambda x: known[id(x)] if is_expression(x) else _constant(x)
    for index, node in enumerate(nodes_between(known, [expression])):
        args, kwargs = tree.map_structure(fill, (node.arguments.args, node.arguments.kwargs))
        # A name may be there once in a model.
        operation = copy.copy(_of_one(node.operation))
        operation.name, operation._inbound_nodes, operation._outbound_nodes = f"{operation.name}_{index}", [], []
        rounds = isinstance(operation, core.Cast) and operation.dtype.startswith(("float", "bfloat"))
        made = args[0] if rounds else operation.symbolic_call(*args, **kwargs)
        known.update((id(symbol), x) for symbol, x in zip(node.outputs, tree.flatten(made)))
    return known[id(expression)]


def _constant(x):
    if not hasattr(x, "shape"):
        return x
    return ops.convert_to_numpy(x[:1] if len(x.shape) and _is_batch(x.shape[0]) else x)


def _of_one(operation):
    """The operation, with one sample wherever its arguments say a number of samples."""
    if isinstance(operation, BroadcastTo):
        return BroadcastTo(_one(operation.shape))
    if isinstance(operation, Reshape):
        return Reshape(_one(operation.newshape))
    if isinstance(operation, Tile):
        return Tile(_one(operation.repeats))
    return Repeat(_one(operation.repeats), operation.axis) if isinstance(operation, Repeat) else operation


def _one(sizes):
    return tree.map_structure(lambda size: 1 if _is_batch(size) else size, sizes)


def _is_batch(size):
    return isinstance(size, int) and size > 0 and size % SAMPLES == 0


def _node_of(tensor):
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def nodes_between(known, outputs):
    """The keras nodes behind `outputs`, each after those it depends on.

    Args:
        known: container of the `id`s of the tensors at which to stop.
        outputs: list of symbolic tensors.
    """
    ordered, done, stack = [], set(), [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, ready = stack.pop()
        if id(tensor) in known and not ready:
            continue
        node = _node_of(tensor)
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            ordered.append(node)
        else:
            stack.append((tensor, True))
            stack.extend((x, False) for x in reversed(node.input_tensors))
    return ordered
