"""Layer, group, root mean square and unit normalization: exact float32 operators, or integers only."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_quant as kq
from keras_quant import layers, quantizers
from tests.helpers import few, functional, images, sequential, ship, signal_to_noise, slow

L = keras.layers
# Shape without batch, arguments of `QuantExactStandardize`.
FORMS = {
    "channels": ((5, 7), {"axis": [2], "use_scale": True, "use_offset": True}),
    "uncentered": ((5, 7), {"axis": [2], "center": False, "use_scale": True}),
    "to_length_one": ((3, 4, 6), {"axis": [1, 3], "center": False, "statistic": "sum", "epsilon": 1e-12}),
    "everything": ((5, 6, 7), {"axis": [1, 2, 3], "use_scale": True, "use_offset": True, "epsilon": 1e-6}),
    "inner_axes": ((4, 5, 3, 6), {"axis": [2, 3], "use_scale": True}),
    "groups": ((6, 6, 8), {"axis": [3], "groups": 4, "use_scale": True, "use_offset": True}),
    "one_group": ((6, 6, 8), {"axis": [3], "groups": 1, "use_scale": True, "use_offset": True}),
    "one_row": ((1, 8), {"axis": [2], "use_scale": True}),
    "instances": ((6, 6, 3), {"axis": [3], "groups": 3}),
    "of_one_value": ((5, 1), {"axis": [2], "use_offset": True}),
    "groups_of_many": ((21, 31, 8), {"axis": [3], "groups": 2, "use_scale": True}),
    "wide": ((3, 768), {"axis": [2], "use_scale": True, "use_offset": True}),
    "prime": ((2, 1031), {"axis": [2], "use_offset": True}),
    "long_way": ((1100, 2), {"axis": [1], "center": False}),
    "beyond_exact_sums": ((300, 231), {"axis": [1, 2]}),
}


def layer_on_grids(name, grid, output, seed=0):
    shape, arguments = FORMS[name]
    x = keras.Input(shape)
    y = layers.Quantize(output_quantizer=quantizers.FixedGrid(*grid))(x)
    layer = layers.QuantExactStandardize(output_quantizer=quantizers.FixedGrid(*output), **arguments)
    model, rng = keras.Model(x, layer(y)), np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(0.5, 0.7, weight.shape))
    return model


def rows(shape, grid, seed):
    """Numbers on a grid, whose rows are spread little, much, and clipped at both ends; some are all alike."""
    rng = np.random.default_rng(seed)
    spread, mean = rng.choice([0, 1, 20, 500], (8, *shape[:-1], 1)), rng.integers(-128, 128, (8, *shape[:-1], 1))
    spread[::4], mean[::4] = spread[:1, :1].flat[0], mean[:1, :1].flat[0]
    q = np.clip(rng.normal(mean, spread, (8, *shape)).round(), -128, 127)
    q[0] = rng.choice([-128, 127])
    return ((q - grid[1]) * grid[0]).astype("float32")


@pytest.mark.lowest
@pytest.mark.parametrize("batch_size", [1, slow(3), None])
@pytest.mark.parametrize("name", few(FORMS, "channels", "to_length_one", "groups", "wide", "prime"))
def test_every_form_is_exact_for_every_kind_of_row(name, batch_size, tmp_path):
    for seed, grid in enumerate([(0.05, -13), (1 / 250, -128), (30.0, 127), (1e-4, 0)]):
        model = layer_on_grids(name, grid, (6 / 255, -5), seed)
        report, _ = ship(model, tmp_path, rows(FORMS[name][0], grid, seed), batch_size=batch_size)
        assert report.off_xnnpack == () and report.partitions == 1


@pytest.mark.slow
@settings(max_examples=150)
@given(
    st.sampled_from(list(FORMS)),
    st.floats(1e-5, 100.0),
    st.integers(-128, 127),
    st.floats(1e-3, 0.2),
    st.integers(-128, 127),
    st.integers(0, 10**6),
)
def test_any_grids(tmp_path_factory, name, scale, zero_point, output_scale, output_zero, seed):
    model = layer_on_grids(name, (scale, zero_point), (output_scale, output_zero), seed)
    ship(model, tmp_path_factory.mktemp("file"), rows(FORMS[name][0], (scale, zero_point), seed))


NORMALIZATIONS = {
    "layer": lambda: L.LayerNormalization(epsilon=1e-6),
    "group": lambda: L.GroupNormalization(4),
    "unit": lambda: L.UnitNormalization(),
}
if hasattr(L, "RMSNormalization"):
    NORMALIZATIONS["rms"] = lambda: L.RMSNormalization()


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_it_is_finer_than_integers_only_which_stays_as_it_was(name, tmp_path):
    x = images(16, (16, 32))
    model, noise = sequential(NORMALIZATIONS[name](), shape=(16, 32)), {}
    for integer_only in (False, True):
        qmodel = kq.quantize(model, "int8", x, integer_only=integer_only)
        report, _ = ship(qmodel, tmp_path, x)
        read = np.array(qmodel.layers[1](x))
        noise[integer_only] = signal_to_noise(model(read, training=False), qmodel(x, training=False))
        if integer_only:
            assert report.float_operators == ()
            assert report.partitions == 1 and report.off_xnnpack == ()
    # Without a mean to subtract, the rounding of the output is all that is left to hear in either.
    assert noise[False] > noise[True] + (2 if name in ("layer", "group") else 0)


def test_scale_and_offset_train(tmp_path):
    x = images(32, (6, 8))
    qmodel = kq.quantize(functional(lambda x: L.LayerNormalization(name="norm")(L.Dense(8)(x)), (6, 8)), "int8", x)
    before = [np.array(w) for w in qmodel.get_layer("norm").trainable_weights]
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, x[:, ::-1], epochs=1, verbose=0)
    assert len(before) == 2
    assert all(np.any(np.array(w) != b) for w, b in zip(qmodel.get_layer("norm").trainable_weights, before))
    ship(qmodel, tmp_path, x)


@pytest.mark.parametrize("integer_only", [False, slow(True)])
def test_built_by_hand_saved_and_loaded(integer_only, tmp_path):
    x, policy = images(8, (6, 8)), kq.Policy(integer_only=integer_only)
    inputs = keras.Input((6, 8))
    y = layers.QuantLayerNormalization(policy=policy)(layers.QuantGroupNormalization(2, policy=policy)(inputs))
    model = kq.calibrate(keras.Model(inputs, y), x, verbose=0)
    model.save(tmp_path / "model.keras")
    report, _ = ship(keras.models.load_model(tmp_path / "model.keras"), tmp_path, x)
    assert np.array_equal(
        keras.models.load_model(tmp_path / "model.keras").predict(x, verbose=0), model.predict(x, verbose=0)
    )
    assert bool(report.float_operators) != integer_only


def test_narrow_activations(tmp_path):
    x = images(16, (6, 8))
    model = functional(lambda x: L.Dense(4)(L.LayerNormalization()(L.Dense(8)(x))), (6, 8))
    ship(kq.quantize(model, "w4a4", x), tmp_path, x)


def test_under_xla_it_is_what_the_device_computes():
    x = images(64, (6, 8))
    qmodel = kq.quantize(sequential(L.LayerNormalization(), shape=(6, 8)), "int8", x)
    plain = qmodel.predict(x, verbose=0)
    qmodel.compile(jit_compile=True)
    assert np.array_equal(qmodel.predict(x, verbose=0), plain)


def test_a_file_that_may_be_resized_holds_no_sizes(tmp_path):
    inputs = keras.Input((None, None, 6))
    model = keras.Model(inputs, L.Conv2D(4, 1)(L.LayerNormalization()(inputs)))
    qmodel = kq.quantize(model, "int8", images())
    kq.export(qmodel, tmp_path / "open.tflite", input_shape=(None, None, 6))
    for shape in ((12, 12, 6), (5, 9, 6)):
        assert kq.verify(qmodel, tmp_path / "open.tflite", images(4, shape), verbose=0).equal


REGULATED = {
    "exact": (L.LayerNormalization, {}, False),
    "group": (L.GroupNormalization, {"groups": 2}, False),
    "integers": (L.LayerNormalization, {}, True),
    "integers_over_axes": (L.LayerNormalization, {"axis": [1, 2]}, True),
}


@pytest.mark.parametrize("name", few(REGULATED, "exact", "integers_over_axes"))
def test_initializers_regularizers_and_constraints_of_the_float_layer_hold(name, tmp_path):
    cls, arguments, integer_only = REGULATED[name]
    rules = {
        "gamma_initializer": keras.initializers.Constant(2.0),
        "beta_initializer": keras.initializers.Constant(-1.0),
        "gamma_regularizer": keras.regularizers.L2(0.5),
        "beta_regularizer": keras.regularizers.L1(0.25),
        "gamma_constraint": keras.constraints.MaxNorm(0.1, axis=0),
        "beta_constraint": keras.constraints.NonNeg(),
    }
    x, inputs = images(16, (6, 8)), keras.Input((6, 8))
    float_layer = cls(**arguments, **rules)
    model = keras.Model(inputs, float_layer(inputs))
    policy, quant_cls = kq.Policy(integer_only=integer_only), getattr(layers, f"Quant{cls.__name__}")
    by_hand = quant_cls(**float_layer.get_config(), policy=policy)
    qmodel = kq.quantize(model, "int8", x, integer_only=integer_only)
    keras.Model(inputs, by_hand(inputs))
    for layer in (by_hand, qmodel.layers[-1]):
        assert np.isclose(sum(layer.losses), sum(float_layer.losses)) and sum(layer.losses) > 0
        assert all(layer.get_config()[rule] == float_layer.get_config()[rule] for rule in rules)
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, x, epochs=1, verbose=0)
    gamma, beta = (np.array(w) for w in qmodel.layers[-1].trainable_weights)
    gamma = gamma.reshape(float_layer.gamma.shape)
    assert np.all(np.linalg.norm(gamma, axis=0) < 0.101) and np.all(beta >= 0)
    ship(qmodel, tmp_path, x)


@pytest.mark.slow
def test_more_values_than_float32_sums_up_exactly_take_integer_kernels(tmp_path):
    x = np.abs(images(2, (1100, 1000)))
    model = sequential(L.LayerNormalization(axis=[1, 2], center=False, scale=False, name="norm"), shape=(1100, 1000))
    report, _ = ship(kq.quantize(model, "int8", x), tmp_path, x)
    assert report.float_operators == ()


@pytest.mark.slow
def test_files_that_may_be_resized_take_no_axis_apart(tmp_path):
    inputs = keras.Input((None, 5000))
    model = keras.Model(inputs, L.Dense(2)(L.LayerNormalization(name="norm")(inputs)))
    x, path, sizes = images(2, (4, 5000)), tmp_path / "m.tflite", {"input_shape": (None, 5000)}
    with pytest.raises(kq.ExportError, match=r"'norm.*' takes means of 5000 values.*resized.*`integer_only`"):
        kq.export(kq.quantize(model, "int8", x), path, **sizes)
    qmodel = kq.quantize(model, "int8", x, integer_only=True)
    kq.export(qmodel, path, **sizes)
    assert kq.verify(qmodel, path, images(2, (7, 5000)), verbose=0).equal
