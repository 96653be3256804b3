"""The operators of a file, those inside of its loops among them."""

import dataclasses
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_quant.tflite.flatbuffer import operator_name, text


@dataclasses.dataclass(frozen=True, eq=False)
class Located:
    """An operator of a file.

    Attributes:
        operator: `schema.OperatorT`.
        name: of it, "CONV_2D".
        place, index: of its subgraph in the file, and its own in there.
        times: how often one run of the file runs it.
        loop: the `Located` WHILE around it, or `None`.
    """

    operator: Any
    name: str
    place: int
    index: int
    times: int = 1
    loop: Any = None


def located_operators(model, place=0, times=1, loop=None):
    """The operators of a subgraph in order of execution, those inside of a loop before its WHILE.

    Args:
        model: `schema.ModelT`.
        place: of the subgraph.
        times, loop: of the operators in it.

    Yields:
        `Located`s.
    """
    for index, operator in enumerate(model.subgraphs[place].operators):
        here = Located(operator, _name(operator, model), place, index, times, loop)
        if here.name == "WHILE":
            yield from located_operators(model, _body(operator), times * _rounds(model, here), here)
        yield here


def named_by(one, model):
    """The name of the tensor that an operator makes, or else keeps; of a loop, that which all it carries begins with."""
    tensors = [*one.operator.outputs, *one.operator.inputs]
    name = text(model.subgraphs[one.place].tensors[tensors[0]].name) if tensors else ""
    return name.rpartition("/carried_")[0] or name if one.name == "WHILE" else name


def _body(operator):
    return operator.builtinOptions.bodySubgraphIndex


def _rounds(model, one):
    """How often a loop goes round: up to the constant that its test compares with; 1 where that is none."""
    test = model.subgraphs[one.operator.builtinOptions.condSubgraphIndex]
    for operator in test.operators:
        if _name(operator, model) == "LESS":
            most = test.tensors[int(operator.inputs[1])]
            data = model.buffers[most.buffer].data
            if data is not None and most.type == schema.TensorType.INT32:
                return max(1, int(np.frombuffer(bytes(data), np.int32)[0]))
    return 1


def _name(operator, model):
    code = model.operatorCodes[operator.opcodeIndex]
    return operator_name(max(code.builtinCode, code.deprecatedBuiltinCode))
