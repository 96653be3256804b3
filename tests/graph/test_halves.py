"""Ranges move off the halves that 64-bit Arm rounds otherwise; that it does is in `tests/runtimes/test_aarch64.py`."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant import integer
from keras_quant.graph import trace
from tests.helpers import functional, images, sequential
from tests.integer.one_op import OneOp, grid, integers, quantized
from tests.layers.test_shipping import L, squeeze_and_excite

MODELS = {
    "gate": lambda: functional(squeeze_and_excite),
    "padded_average": lambda: sequential(L.AveragePooling2D(3, strides=1, padding="same")),
    "square_and_means": lambda: sequential(L.Conv2D(8, 3), L.LayerNormalization(), L.GlobalAveragePooling2D()),
    "silu": lambda: sequential(L.Conv2D(8, 3, activation="silu")),
}


def nodes_that_round(qmodel):
    return [node for node in trace(qmodel).nodes if hasattr(node.operation, "parts_elsewhere")]


def products(qmodel):
    return [node for node in nodes_that_round(qmodel) if len(node.inputs) == 2]


def parts(node):
    params = [value.note.quantizer.params() for value in (*node.inputs, node.output)]
    return node.operation.parts_elsewhere(params[:-1], params[-1])


def set_to_halves(node):
    """A range under which the product of the scales is a power of two times the output's: halves everywhere."""
    *inputs, _ = (value.note.quantizer.params() for value in (*node.inputs, node.output))
    scale = 4.0 * float(np.prod([np.float64(x.scale) for x in inputs]))
    node.output.note.quantizer.set_range(-128 * scale, 127 * scale)


@pytest.mark.parametrize("name", MODELS)
def test_no_integer_lies_half_way_after_calibration(name):
    nodes = nodes_that_round(kq.quantize(MODELS[name](), "int8", images()))
    assert nodes and not any(map(parts, nodes))


def test_export_moves_ranges_by_millionths(tmp_path):
    qmodel = kq.quantize(sequential(L.Conv2D(8, 3, activation="silu")), "int8", images())
    (node,) = products(qmodel)
    set_to_halves(node)
    assert parts(node)
    before = float(node.output.note.quantizer.high)
    kq.export(qmodel, tmp_path / "m.tflite")
    assert not parts(node)
    after = float(node.output.note.quantizer.high)
    assert 0 < before - after < 25e-6 * before
    assert kq.verify(qmodel, tmp_path / "m.tflite", images(), verbose=0).equal


@pytest.mark.parametrize(
    "name, inverse", [("tanh", np.arctanh), ("sigmoid", lambda v: -np.log(1 / v - 1)), ("elu", np.log1p)]
)
def test_tables_move_off_what_hangs_on_the_c_library(name, inverse, tmp_path):
    """An input at which the function lies half way between two integers, for all that float32 says."""
    x = images()
    qmodel = kq.quantize(sequential(L.Conv2D(4, 3), L.Activation(name)), "int8", x)
    node = next(node for node in nodes_that_round(qmodel) if len(node.inputs) == 1)
    given, made = (value.note.quantizer for value in (node.inputs[0], node.output))
    half = {"tanh": 62.5 / 128, "sigmoid": 200.5 / 256}.get(name) or -20.5 * float(made.params().scale)
    steps = 50 if half > 0 else -50
    scale = float(inverse(half)) / steps
    given.set_range(-128 * scale, 127 * scale)
    assert parts(node)
    kq.export(qmodel, tmp_path / "m.tflite")
    assert not parts(node)
    assert kq.verify(qmodel, tmp_path / "m.tflite", x, verbose=0).equal


def test_a_model_saved_before_its_export_is_verified(tmp_path):
    qmodel = kq.quantize(sequential(L.Conv2D(8, 3, activation="silu")), "int8", images())
    set_to_halves(products(qmodel)[0])
    qmodel.save(tmp_path / "m.keras")
    kq.export(qmodel, tmp_path / "m.tflite")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert kq.verify(loaded, tmp_path / "m.tflite", images(), verbose=0).equal


def test_a_mean_on_its_inputs_grid_stays_as_it_is(tmp_path):
    joined = lambda x: L.Concatenate(axis=1)([x, L.GlobalAveragePooling2D(keepdims=True)(x)])
    qmodel = kq.quantize(functional(lambda x: joined(L.Conv2D(4, 1)(x)[:, :1, :1])), "int8", images())
    ranges = lambda: [float(v) for v in qmodel.variables if v.name in ("low", "high")]
    before = ranges()
    kq.export(qmodel, tmp_path / "m.tflite")
    kq.verify(qmodel, tmp_path / "m.tflite", images(), verbose=0)
    assert ranges() == before


def test_export_twice_gives_the_same_ranges(tmp_path):
    qmodel = kq.quantize(MODELS["gate"](), "int8", images())
    for node in nodes_that_round(qmodel):
        set_to_halves(node)
    kq.export(qmodel, tmp_path / "a.tflite")
    kq.export(qmodel, tmp_path / "b.tflite")
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()


def test_squares_move_off_what_a_table_rounds_otherwise():
    """A product of a tensor with itself is a table in newer XNNPACKs, which adds the zero point before it rounds."""
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)
    x, y = (np.float32(0.024499010294675827), 12), (np.float32(0.04705573618412018), -128)
    twice = lambda writer, fed: fed * 2
    theirs = OneOp("MUL", [(every, *x)], (16, 16, 1), y, 2, "MulOptions", twice).run()
    held = quantized(every, *x)
    ours = integers(integer.multiply(held, held, grid(*y)), grid(*y))
    layer = kq.layers.QuantSquare()
    assert layer.parts_elsewhere([grid(*x)], grid(*y)) == (np.any(theirs != ours))
    assert layer.parts_elsewhere([grid(*x)], grid(*y))
    assert not layer.parts_elsewhere([grid(*x)], grid(np.float32(0.0471), -128))
