"""An operator of a TensorFlow graph as its rule sees it, and the registries of rules."""

import dataclasses
from typing import Any

import keras
import numpy as np

_RULES, _PATTERNS = {}, {}


class ReadingError(Exception):
    """An operator that cannot be read.

    Attributes:
        frames: where Python made the operator, outermost frame first.
        runs_in_float: whether a file may hold the layer in float, as far as can be told.
    """

    def __init__(self, message, frames=(), runs_in_float=True):
        super().__init__(message)
        self.frames, self.runs_in_float = list(frames), runs_in_float


def reads(*types):
    """Decorator: the function `(operator, *operands)` returns what operators of these types compute.

    Operands are symbolic Keras tensors, Keras variables and NumPy arrays, at least one of them symbolic. It returns one
    symbolic tensor, or a list with one for each output.
    """

    def decorate(rule):
        _RULES.update(dict.fromkeys(types, rule))
        return rule

    return decorate


def recognizes(*types):
    """Decorator: the function tells, of a TensorFlow operation of these types, whether it ends a known group of operators.

    It returns a `Plan`, or `None` for the plain rule.
    """

    def decorate(pattern):
        for operator in types:
            _PATTERNS.setdefault(operator, []).append(pattern)
        return pattern

    return decorate


@dataclasses.dataclass
class Plan:
    """How an operator is read: the TensorFlow tensors that are read first, and the rule that gets their values."""

    inputs: list
    rule: Any
    is_group: bool = True


def plan(operation):
    """The `Plan` of a TensorFlow operation; its rule is `None` where the type is unknown."""
    for pattern in _PATTERNS.get(operation.type, ()):
        group = pattern(operation)
        if group is not None:
            return group
    return Plan(list(operation.inputs), _RULES.get(operation.type), is_group=False)


class Operator:
    """A TensorFlow operation; shapes have `None` for the batch.

    Args:
        operation: `tf.Operation`.
        open_shape: function from a static shape to one with `None`.
    """

    def __init__(self, operation, open_shape):
        self.operation, self._open_shape = operation, open_shape
        self.type = operation.type

    def attribute(self, name):
        value = self.operation.get_attr(name)
        return value.decode() if isinstance(value, bytes) else value

    @property
    def output_shape(self):
        return self._open_shape(self.operation.outputs[0].shape)

    def input_shape(self, index=0):
        return self._open_shape(self.operation.inputs[index].shape)

    def output_dtype(self, index=0):
        return self.operation.outputs[index].dtype.name

    def constant(self, operand, what):
        """An operand as a NumPy array, which it has to be."""
        if isinstance(operand, np.ndarray):
            return operand
        self.refuse(f"takes {what} that is computed from the input; only a constant can be read there.")

    def integer(self, operand, what):
        return int(self.constant(operand, what))

    def integers(self, operand, what):
        return [int(size) for size in self.constant(operand, what).reshape(-1)]

    def refuse(self, why, runs_in_float=True):
        """Raise the error that names the operator and its place."""
        raise ReadingError(f"TensorFlow's operator {self.type} {why}", self.operation.traceback, runs_in_float)


def is_symbolic(operand):
    return isinstance(operand, keras.KerasTensor)


def made_by(symbol, *classes):
    """The input of the Keras operation that made a symbolic tensor and the operation, if it is one of `classes`."""
    history = getattr(symbol, "_keras_history", None)
    if history is None or not isinstance(history.operation, classes):
        return None
    node = history.operation._inbound_nodes[history.node_index]
    return node.input_tensors[0], history.operation


def moved_variable(variable, array):
    """A variable with the values of another in other places, which trains as that one does.

    Of an initializer, and never read before: while a layer is traced no variable may be made of an array.
    """
    return keras.Variable(
        lambda shape, dtype=None: keras.ops.convert_to_tensor(array),
        shape=array.shape,
        dtype=variable.dtype,
        trainable=variable.trainable,
        name=variable.name,
    )
