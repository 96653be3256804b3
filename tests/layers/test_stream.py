"""Sums that residual blocks hand on, in float32 and exact all the same."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.layers import ExactSum, QuantAdd
from tests.helpers import few, functional, images, ship, signal_to_noise

L = keras.layers
SHAPE = (9, 12)


def block(x, join=lambda x, y: L.Add()([x, y]), norm=L.LayerNormalization):
    return join(x, L.Dense(x.shape[-1])(L.Dense(20, "relu")(norm()(x))))


def behind(x, count=3, **options):
    for _ in range(count):
        x = block(x, **options)
    return L.Dense(5)(L.LayerNormalization()(x))


def shared_scale(x):
    """Both terms of a sum lie on one grid, which TensorFlow's optimizer would multiply by once."""
    x, join = block(L.Dense(12)(x)), L.Dense(12)
    a, b = join(L.LayerNormalization()(x)), join(L.Dense(12, "tanh")(L.LayerNormalization()(x)))
    return L.Dense(4)(L.LayerNormalization()(L.Add()([x, L.Add()([a, b])])))


def parallel(x):
    """Attention and feed-forward side by side: what one sum makes only the next one reads."""
    for _ in range(3):
        y = L.LayerNormalization()(x)
        x = L.Add()([L.Add()([x, L.Dense(12)(y)]), L.Dense(12, "relu")(y)])
    return L.Dense(5)(L.LayerNormalization()(x))


def moved(x):
    """The sums pass a Dropout and a change of shape."""
    x = L.Reshape((3, 3, 12))(L.Dropout(0.1)(block(block(x))))
    x = L.Add()([x, L.DepthwiseConv2D(3, padding="same")(L.LayerNormalization()(x))])
    return L.Dense(4)(L.GlobalAveragePooling2D()(x))


def convolutional(x):
    """As in ConvNeXt: a convolution reads the sum, not a normalization."""
    x = L.Conv2D(12, 1)(L.Reshape((3, 3, 12))(x))
    for _ in range(3):
        y = L.LayerNormalization()(L.DepthwiseConv2D(3, padding="same")(x))
        x = x + L.Dense(12)(L.Dense(24, "relu")(y))
    return L.Dense(4)(L.GlobalAveragePooling2D()(x))


IN_FLOAT = {
    "layers": (behind, 3),
    "functions": (lambda x: behind(x, join=lambda x, y: x + y), 3),
    "three_terms": (lambda x: behind(x, join=lambda x, y: L.Add()([y, x, L.ReLU()(x)])), 3),
    "groups": (lambda x: behind(x, norm=lambda: L.GroupNormalization(3)), 3),
    "shared_scale": (shared_scale, 2),
    "parallel": (parallel, 6),
    "moved": (moved, 3),
    "convolutional": (convolutional, 3),
    "two_of_three": (lambda x: [behind(x), L.Dense(3)(x)], 3),
}


def post_norm(x):
    for _ in range(3):
        x = L.LayerNormalization()(L.Add()([x, L.Dense(12)(x)]))
    return x


def residual(x):
    for _ in range(3):
        x = L.Add()([x, L.Dense(12, "relu")(x)])
    return x


ON_GRIDS = {
    "one_sum": lambda x: L.Dense(3)(L.LayerNormalization()(block(L.Dense(12)(x)))),
    "post_norm": post_norm,
    "without_normalization": residual,
    "with_activation": lambda x: behind(x, join=lambda x, y: L.ReLU()(L.Add()([x, y]))),
    "leaves_the_model": lambda x: L.Dropout(0.2)(block(block(x))),
}


def sums(qmodel):
    kinds = [type(layer) for layer in qmodel._flatten_layers()]
    return kinds.count(ExactSum), kinds.count(QuantAdd)


def quantized(build, policy="int8"):
    keras.utils.set_random_seed(0)
    model, x = functional(build, SHAPE), images(64, SHAPE)
    return model, kq.quantize(model, policy, x), 3 * images(300, SHAPE, seed=7)


@pytest.mark.lowest
@pytest.mark.parametrize("name", few(IN_FLOAT, "shared_scale", "convolutional"))
def test_sums_of_blocks_with_normalizations_are_exact_in_float32(name, tmp_path):
    build, count = IN_FLOAT[name]
    _, qmodel, x = quantized(build)
    assert sums(qmodel)[0] == count
    report, parity = ship(qmodel, tmp_path, x)
    assert report.partitions == 1
    assert not any(t.tolerance for t in (*parity.outputs, *parity.intermediates))


@pytest.mark.parametrize("name", ON_GRIDS)
def test_other_sums_stay_on_grids(name):
    in_float, on_grids = sums(kq.quantize(functional(ON_GRIDS[name], SHAPE)))
    assert in_float == 0 and on_grids > 0


@pytest.mark.parametrize(
    "policy", [{"add.*": "int8"}, kq.Policy(integer_only=True), kq.Policy(output_quantizer="lsq"), "w8a6"], ids=str
)
def test_a_policy_keeps_sums_on_grids(policy):
    policy = kq.PolicyMap(policy) if isinstance(policy, dict) else policy
    assert sums(kq.quantize(functional(behind, SHAPE), policy))[0] == 0


def test_a_map_that_names_sums_in_float_says_the_same():
    named = kq.PolicyMap({"add.*": "float32"})
    assert sums(kq.quantize(functional(behind, SHAPE), named)) == sums(kq.quantize(functional(behind, SHAPE))) == (3, 0)


@pytest.mark.slow
def test_sums_lose_less_than_on_grids():
    deep = lambda x: behind(x, 12)
    model, qmodel, x = quantized(deep)
    _, on_grids, _ = quantized(deep, kq.PolicyMap({"add.*": "int8"}))
    wanted = model.predict(x, verbose=0)
    gains = [signal_to_noise(wanted, q.predict(x, verbose=0)) for q in (qmodel, on_grids)]
    assert gains[0] > gains[1]


@pytest.mark.slow
def test_a_float_sum_of_inexact_terms_is_compared_within_a_tolerance(tmp_path):
    """Where a term comes from a float layer, so does what is quantized behind the sum."""
    build = lambda x: behind(x, join=lambda x, y: x + L.Dense(12, name=f"last_{id(y)}")(y))
    _, qmodel, x = quantized(build, kq.PolicyMap({"last_.*": "float32"}))
    assert sums(qmodel)[0] == 3
    ship(qmodel, tmp_path, x)


@pytest.mark.slow
def test_training_saving_and_onnx(tmp_path):
    _, qmodel, x = quantized(behind)
    qmodel.compile("adam", "mse")
    qmodel.fit(x, np.zeros((len(x), *qmodel.output_shape[1:])), verbose=0)
    qmodel.save(tmp_path / "q.keras")
    loaded = keras.models.load_model(tmp_path / "q.keras")
    assert sums(loaded) == (3, 0)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), qmodel.predict(x, verbose=0))
    ship(loaded, tmp_path, x)
    kq.export(loaded, tmp_path / "q.onnx")
    assert kq.verify(loaded, tmp_path / "q.onnx", x, verbose=0).mismatches == 0


@pytest.mark.slow
def test_open_sizes_and_batches(tmp_path):
    qmodel = kq.quantize(functional(behind, (None, 12)), "int8", images(64, SHAPE))
    ship(qmodel, tmp_path, images(20, SHAPE), batch_size=None)
    ship(qmodel, tmp_path, images(20, SHAPE), batch_size=4)
