"""The networks of `layers/test_shipping` as files, and each of their operators as a file of its own."""

import dataclasses

import keras
import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator

import keras_quant as kq
from keras_quant.tflite import Runtime, read_model
from keras_quant.tflite.flatbuffer import repack
from keras_quant.tflite.runtime import quantize_array
from tests.helpers import images, shake
from tests.layers import test_shipping

NAMES = {number: name for name, number in vars(BuiltinOperator).items() if isinstance(number, int)}
SAMPLES = 12


@dataclasses.dataclass
class File:
    """A `.tflite` and what this machine computes with it: `inputs` and `outputs` are lists of int8 arrays."""

    name: str
    content: bytes
    inputs: list
    outputs: list


def networks():
    """Builders of every network in the tables of `test_shipping`, by name."""
    off_xnnpack = {name: build for name, (build, _) in test_shipping.OFF_XNNPACK.items()}
    return {**test_shipping.ON_XNNPACK, **off_xnnpack}


def ship_all(folder):
    """For each network: the quantized model, its file, its inputs."""
    made = {}
    for name, build in networks().items():
        keras.utils.set_random_seed(0)
        model = shake(build())
        x = {v.name: images(SAMPLES, v.shape[1:]) for v in model.inputs}
        x = x if len(x) > 1 else next(iter(x.values()))
        qmodel = kq.quantize(model, "int8", x)
        kq.export(qmodel, folder / f"{name}.tflite")
        made[name] = qmodel, folder / f"{name}.tflite", x
    return made


def operators_in(model):
    """Names of a parsed model's operators, in order."""
    return [NAMES[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in model.subgraphs[0].operators]


def whole(name, path, x):
    """The `File` of a network, with every tensor inside as an output."""
    _, model = read_model(path)
    graph = model.subgraphs[0]
    computed = [graph.tensors[index].name.decode() for operator in graph.operators for index in operator.outputs]
    content = repack(model, extra_outputs=computed)
    runtime = Runtime(content)
    by_name = x if isinstance(x, dict) else {runtime.inputs[0]["name"]: x}
    fed = [quantize_array(by_name[detail["name"]], detail) for detail in runtime.inputs]
    return File(name, content, fed, runtime.run(fed))


def single_operators(name, path, x):
    """A `File` for each operator of a network, fed with what reaches it there."""
    file = whole(name, path, x)
    runtime = Runtime(file.content)
    values = dict(zip((d["name"] for d in runtime.inputs), file.inputs))
    values |= dict(zip((d["name"] for d in runtime.outputs), file.outputs))
    for index, operator in enumerate(operators_in(read_model(path)[1])):
        _, model = read_model(path)
        graph = model.subgraphs[0]
        only = graph.operators[index]
        text = {i: tensor.name.decode() for i, tensor in enumerate(graph.tensors)}
        graph.operators = [only]
        graph.inputs = list(dict.fromkeys(int(i) for i in only.inputs if text.get(int(i)) in values))
        graph.outputs = [int(i) for i in only.outputs]
        model.signatureDefs = []
        fed, made = ([values[text[i]] for i in ends] for ends in (graph.inputs, graph.outputs))
        yield operator, File(name, repack(model), fed, made)


def differences(ours, theirs):
    """How many elements differ, of how many, by how many steps at most; real numbers that differ at all by one."""
    apart = lambda a, b: a != b if a.dtype == np.float32 else np.abs(a.astype(int) - b.astype(int))
    steps = [apart(a, b) for a, b in zip(ours, theirs, strict=True)]
    return sum(map(np.count_nonzero, steps)), sum(s.size for s in steps), max(int(s.max(initial=0)) for s in steps)
