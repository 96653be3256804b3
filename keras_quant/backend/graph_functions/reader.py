"""Tensors of a TensorFlow graph → symbolic Keras tensors, Keras variables and arrays."""

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from keras.src import backend
from keras.src.backend.common import KerasVariable
from tensorflow.python.eager import context, execute

from keras_quant.backend.graph_functions.operator import Operator, ReadingError, is_symbolic, moved_variable, plan
from keras_quant.backend.samples import OTHER_SAMPLES, SAMPLES

# An open batch has the first; a caller's symbolic tensors may have either.
_BATCHES = (SAMPLES, OTHER_SAMPLES)
_MOVEMENTS = ("ExpandDims", "Reshape", "Squeeze", "Transpose")
_ASSIGNMENTS = ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp")
# Which input says the sizes of what they make.
_SIZED_BY = {"BroadcastTo": 1, "Fill": 0, "Reshape": 1, "Tile": 1}
_RANDOM = ("Random", "StatelessRandom", "StatefulUniform", "StatefulStandard", "TruncatedNormal", "Multinomial")
# Why operators whose names begin so have no function in `keras.ops`.
_HINTS = {
    ("PyFunc", "EagerPyFunc"): ", as it runs Python code that TensorFlow does not see",
    ("If", "StatelessIf", "Case", "StatelessCase"): ", as it is control flow on values",
    ("While", "StatelessWhile", "TensorList"): ", as it is a loop, such as `tf.map_fn` or `tf.while_loop`",
}
_NOT_ON_DEVICES = ("PyFunc", "EagerPyFunc", "FFT", "IFFT")


class Reader:
    """Reads a graph while it grows.

    Args:
        graph: `FuncGraph`.
        variables: dict from the `id` of a variable's handle to the Keras variable, or to a symbol of it.
    """

    def __init__(self, graph, variables):
        self._graph, self._variables = graph, variables
        self._batch = None  # the size that stands for the batch, once a tensor has one
        self._opens = False  # whether symbolic tensors have `None` for it
        self._values = {}  # by the tensor's name

    def owns(self, x):
        """Whether `x` is a tensor of the graph."""
        return tf.is_tensor(x) and getattr(x, "graph", None) is self._graph

    def tensor(self, x, shape=None):
        """A tensor of the graph that stands for a symbolic one, of its shape or a given one; anything else as it is."""
        if not is_symbolic(x):
            return x
        shape = x.shape if shape is None else shape
        shape = self._with_batch(shape)
        tensor = tf.compat.v1.placeholder(x.dtype, shape)
        self._values[tensor.name] = x
        return tensor

    def _with_batch(self, shape):
        """A shape in which the batch has a size."""
        first, rest = shape[:1], shape[1:]
        if tuple(first) == (None,):
            self._batch, self._opens, first = _BATCHES[0], True, _BATCHES[:1]
        elif self._batch is None:
            self._batch = next((b for size in first for b in _BATCHES if size and size % b == 0), None)
        return [*first, *rest]

    def value(self, x):
        """What a tensor of the graph is; anything else as it is. Constants come as tensors."""
        if not self.owns(x):
            return x
        value = self._read(x)
        return value if is_symbolic(value) else keras.ops.convert_to_tensor(value)

    def call(self, layer, call, args, kwargs):
        """The outputs of a layer as tensors of the graph, each standing for the symbolic one that `call` makes of it."""
        with tf.init_scope():
            symbols = tree.map_structure(self.value, (args, kwargs))
            outputs = call(layer, *symbols[0], **symbols[1])
            shapes = self._closed_shapes(layer, call, args, kwargs, outputs)
        return tree.map_structure(self.tensor, outputs, shapes)

    def check_effects(self):
        """Raise for an operator that changes a variable, which nothing in the outputs shows."""
        for operation in self._graph.get_operations():
            if operation.type in _ASSIGNMENTS:
                why = "changes a variable in each call; a file for the device keeps no state."
                Operator(operation, self._open).refuse(why, runs_in_float=False)

    def _closed_shapes(self, layer, call, args, kwargs, outputs):
        """Shapes of a layer's outputs, without open sizes: found anew from those of its inputs where Keras leaves some."""
        shape_of = lambda x: tf.TensorShape(x.shape) if is_symbolic(x) else None
        shapes = tree.map_structure(shape_of, outputs)
        batches = {x.shape[0] for x in tree.flatten((args, kwargs)) if self.owns(x) and x.shape.rank}
        made = [x.shape for x in tree.flatten(outputs) if is_symbolic(x)]
        merged = batches != {self._batch} and any(shape[:1] == (None,) for shape in made)
        if not merged and not any(None in shape[1:] for shape in made):
            return shapes
        spec = lambda x: keras.KerasTensor(x.shape, x.dtype.name) if self.owns(x) and is_symbolic(self._read(x)) else x
        known = tree.map_structure(spec, (args, kwargs))
        outputs = call(layer, *known[0], **known[1])
        if any(None in x.shape[1:] for x in tree.flatten(outputs) if is_symbolic(x)):
            # As EinsumDense's `compute_output_shape` leaves them.
            outputs = backend.compute_output_spec(layer.call, *known[0], **known[1])
        return tree.map_structure(shape_of, outputs)

    def _open(self, shape):
        """A static shape with `None` for the batch, and for its multiples."""
        return tuple(None if size is None or (self._opens and self._is_batch(size)) else size for size in shape)

    def _is_batch(self, size):
        return self._batch is not None and size > 0 and size % self._batch == 0

    def _read(self, tensor):
        """The value of a tensor, and of all that it depends on; deep chains take no recursion."""
        stack = [] if tensor.name in self._values else [tensor.op]
        while stack:
            step = plan(stack[-1])
            missing = [x.op for x in step.inputs if x.name not in self._values]
            if missing:
                stack.extend(missing)
                continue
            operation = stack.pop()
            if operation.outputs[0].name not in self._values:
                with tf.init_scope():
                    results = self._compute(operation, step)
                self._values.update(zip((x.name for x in operation.outputs), results))
        return self._values[tensor.name]

    def _compute(self, operation, step):
        """The values of an operation's outputs."""
        operands = [self._values[x.name] for x in step.inputs]
        if not operands:
            return self._source(operation)
        if operation.type == "ReadVariableOp":
            return [_read_variable(x, operation) for x in operands]
        operator = Operator(operation, self._open)
        if not any(map(is_symbolic, operands)) and not step.is_group:
            return self._folded(operator, operands)
        if step.rule is None:
            self._refuse_unknown(operator)
        operands = [_read_variable(x, operation) for x in operands]
        operands = [self._for_each_sample(value, x) for value, x in zip(operands, step.inputs)]
        try:
            results = step.rule(operator, *operands)
        except ReadingError:
            raise
        except Exception as error:
            raise ReadingError(f"TensorFlow's operator {operator.type}: {error}", operation.traceback) from error
        results = results if isinstance(results, (list, tuple)) else [results]
        return [x if is_symbolic(x) else np.asarray(x) for x in results]

    def _source(self, operation):
        """What an operator without inputs gives: a constant, or something from outside the graph."""
        if operation.type == "Const":
            return [tf.make_ndarray(operation.get_attr("value"))]
        for outside, inside in self._graph.captures:
            if inside.name == operation.outputs[0].name:
                is_variable = outside.dtype == tf.resource
                return [self._variables.get(id(outside), outside) if is_variable else np.asarray(outside)]
        self._refuse_unknown(Operator(operation, self._open))

    def _folded(self, operator, operands):
        """What an operator makes of constants and weights alone; a variable that it only reads or moves stays one."""
        operation = operator.operation
        if isinstance(operands[0], KerasVariable) and _gives_back(operator, operands):
            return [operands[0]] * len(operation.outputs)
        if operation.type.startswith(_RANDOM):
            self._refuse_unknown(operator)
        if operation.type in _SIZED_BY:
            # What is repeated for each sample of the batch has one sample here, and is repeated beside the others.
            place = _SIZED_BY[operation.type]
            operands[place] = self._for_one_sample(operands[place])
        self._check_no_batch(operator, operands)
        results = _computed(operation, operands)
        if operation.type in _MOVEMENTS and isinstance(operands[0], KerasVariable):
            return [moved_variable(operands[0], np.asarray(results[0]))]
        return [x if x.dtype == tf.resource else np.asarray(x) for x in results]

    def _for_one_sample(self, sizes):
        array = np.asarray(sizes)
        one = [size // self._batch if self._is_batch(size) else size for size in array.reshape(-1).tolist()]
        return np.array(one, array.dtype).reshape(array.shape)

    def _for_each_sample(self, value, tensor):
        """A constant of one sample, seen as of many where the symbolic tensors beside it have a size for the batch."""
        shape = tensor.shape
        repeats = isinstance(value, np.ndarray) and not self._opens and value.ndim == shape.rank and value.ndim > 0
        if not repeats or value.shape[0] != 1 or not self._is_batch(shape[0] or 0):
            return value
        return np.broadcast_to(value, shape.as_list())

    def _check_no_batch(self, operator, operands):
        if operator.type == "Cast" and operator.output_dtype().startswith(("float", "bfloat")):
            array = np.asarray(keras.ops.convert_to_numpy(operands[0]))
            if array.size == 1 and self._is_batch(array.item()):
                operator.refuse("computes with the size of the batch, which the runtime sets.", runs_in_float=False)

    def _refuse_unknown(self, operator):
        if operator.type.startswith(_RANDOM):
            why = "draws random numbers in inference; draw them only where `training` is true."
            operator.refuse(why, runs_in_float=False)
        hint = next((hint for names, hint in _HINTS.items() if operator.type.startswith(names)), "")
        why = f"has no function of the same meaning in `keras.ops`{hint}."
        operator.refuse(why, runs_in_float=not operator.type.startswith(_NOT_ON_DEVICES))


def _read_variable(x, operation):
    """The values of a `tf.Variable`, by its handle: it is a constant, as no weight of Keras's and left alone by `fit`."""
    is_handle = tf.is_tensor(x) and x.dtype == tf.resource
    return np.asarray(tf.raw_ops.ReadVariableOp(resource=x, dtype=operation.get_attr("dtype"))) if is_handle else x


def _gives_back(operator, operands):
    """Whether an operator's result is its first operand as it is."""
    before, after = operator.operation.inputs[0], operator.operation.outputs[0]
    if operator.type in ("Identity", "StopGradient", "PreventGradient", "Snapshot", "EnsureShape"):
        return True
    if operator.type in ("Cast", "Reshape"):
        return before.dtype == after.dtype and before.shape == after.shape
    return operator.type == "Transpose" and np.array_equal(operands[1], np.arange(np.size(operands[1])))


def _computed(operation, operands):
    """The outputs of an operation on values, as tensors."""
    attributes = []
    for declared in operation.op_def.attr:
        value = operation.get_attr(declared.name)
        attributes += [declared.name, value.as_datatype_enum if isinstance(value, tf.DType) else value]
    inputs = [_input(x, tensor.dtype) for x, tensor in zip(operands, operation.inputs)]
    return execute.execute(operation.type, len(operation.outputs), inputs, tuple(attributes), context.context())


def _input(operand, dtype):
    value = operand.value if isinstance(operand, KerasVariable) else operand
    if dtype == tf.resource:
        return getattr(value, "handle", value)
    return tf.convert_to_tensor(value, dtype)
