"""64-bit Arm: the networks of `layers/test_shipping`, which together emit every operator, in one emulator each processor."""

import ast
import pathlib

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator

import keras_quant as kq
from keras_quant.tflite import Emulator, Runtime, aarch64, read_model
from keras_quant.tflite.runtime import quantize_array
from keras_quant.tflite.writer import repack
from tests.helpers import images, sequential, shake
from tests.layers import test_shipping

SAMPLES = 12
CPUS = {"cortex-a72": "without dot product", "cortex-a76": "with dot product"}
L = test_shipping.L


def emulator(cpu=None):
    try:
        return Emulator(cpu)
    except kq.EmulatorError as error:
        pytest.skip(str(error))


def shipping_networks():
    """Every network of every table in `test_shipping`, by name: there each is compared between Keras and this machine."""
    tables = [table for name, table in vars(test_shipping).items() if name.isupper() and isinstance(table, dict)]
    return {name: entry[0] if isinstance(entry, tuple) else entry for table in tables for name, entry in table.items()}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """For each network: the quantized model, its file, its inputs."""
    folder, made = tmp_path_factory.mktemp("arm"), {}
    for name, build in shipping_networks().items():
        model = shake(build())
        x = {v.name: images(SAMPLES, v.shape[1:]) for v in model.inputs}
        x = x if len(x) > 1 else next(iter(x.values()))
        qmodel = kq.quantize(model, "int8", x)
        kq.export(qmodel, folder / f"{name}.tflite")
        made[name] = qmodel, folder / f"{name}.tflite", x
    return made


def operators_that_rules_name():
    """Names of operators that appear in the lowering's source."""
    folder, names = pathlib.Path(aarch64.__file__).parent, set()
    for path in folder.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        names |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {name for name in names if name.isupper() and hasattr(BuiltinOperator, name)}


def operators_in(path):
    names = {number: name for name, number in vars(BuiltinOperator).items() if isinstance(number, int)}
    _, model = read_model(path)
    return {names[code.builtinCode] for code in model.operatorCodes}


def test_the_networks_hold_every_operator_that_is_lowered_to(shipped):
    held = set().union(*(operators_in(path) for _, path, _ in shipped.values()))
    missing = operators_that_rules_name() - held
    assert not missing, f"Add a network with {sorted(missing)} to a table in tests/layers/test_shipping.py"
    assert len(held) > 15


@pytest.mark.parametrize("cpu", CPUS)
def test_keras_and_this_machine_and_arm_are_equal(cpu, shipped):
    """Every output, and every tensor inside."""
    with emulator(cpu) as arm:
        for name, (qmodel, path, x) in shipped.items():
            report = kq.verify(qmodel, path, x, verbose=0, target=arm)
            assert report.elements and report.equal, f"{name}: {report}"
            here, there = (run(content_with_insides(path), x) for run in (host_run, arm_run(arm)))
            assert len(here) == len(there)
            for ours, theirs in zip(here, there):
                np.testing.assert_array_equal(ours, theirs, err_msg=name)


def content_with_insides(path):
    _, model = read_model(path)
    graph = model.subgraphs[0]
    computed = [graph.tensors[index].name.decode() for operator in graph.operators for index in operator.outputs]
    return repack(model, extra_outputs=computed)


def host_run(content, x):
    return run_on(Runtime(content), x)


def arm_run(arm):
    return lambda content, x: run_on(arm.runtime(content), x)


def run_on(runtime, x):
    by_name = x if isinstance(x, dict) else {runtime.inputs[0]["name"]: x}
    return runtime.run([quantize_array(by_name[detail["name"]], detail) for detail in runtime.inputs])
