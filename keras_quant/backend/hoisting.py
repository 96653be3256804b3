"""What does not change from step to step is computed before a loop.

Kernels make integer weights, multipliers and tables of weights and ranges, some eighty operations on scalars each. Inside of
a loop's body TensorFlow would run them in every step.
"""

import contextlib

import tensorflow as tf
from tensorflow.python.ops.control_flow_v2_func_graphs import WhileBodyFuncGraph

_HOISTING = []


@contextlib.contextmanager
def hoisting():
    """A context, in the body of a loop of a graph, in which operations on what is known outside are made outside."""
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    if not isinstance(graph, WhileBodyFuncGraph):
        yield
        return
    _HOISTING.append(graph)
    graph._create_op_internal = _Hoist(graph)
    try:
        yield
    finally:
        del graph._create_op_internal
        _HOISTING.pop()


def is_hoisting():
    """Whether what is traced is the body of such a loop."""
    return bool(_HOISTING) and _HOISTING[-1] is tf.compat.v1.get_default_graph()


class _Hoist:
    """Makes an operation in a loop's body, or before the loop."""

    def __init__(self, body):
        self.body, self.make = body, body._create_op_internal
        # Constants of the body and what it has captured, as they are outside, by the name of the tensor inside.
        self.outside = {}

    def __call__(self, kind, inputs, dtypes=None, input_types=None, name=None, attrs=None, op_def=None, **options):
        # Nobody assigns to a variable in the loop.
        may_leave = kind == "ReadVariableOp" or not (op_def is None or op_def.is_stateful)
        outside = [self._outside(x) for x in inputs] if may_leave else []
        if not inputs or not may_leave or any(x is None or x.dtype == tf.variant for x in outside):
            return self.make(kind, inputs, dtypes, input_types, name, attrs, op_def, **options)
        name = name and name.rstrip("/")
        return self.body.outer_graph._create_op_internal(kind, outside, dtypes, input_types, name, attrs, op_def, **options)

    def _outside(self, x):
        """A tensor as it is outside of the loop; `None` for one that a step makes."""
        if getattr(x, "graph", None) is not self.body:
            return x
        if x.name not in self.outside and x.op.type == "Const":
            attrs = {name: x.op.node_def.attr[name] for name in ("value", "dtype")}
            made = self.body.outer_graph._create_op_internal("Const", [], [x.dtype], attrs=attrs, name="const")
            self.outside[x.name] = made.outputs[0]
        elif x.name not in self.outside and x.op.type == "Placeholder":
            self.outside.update((inner.name, outer) for outer, inner in self.body.captures)
        return self.outside.get(x.name)
