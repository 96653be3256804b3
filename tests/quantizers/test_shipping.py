"""Every quantizer, trained for a step or two: what Keras predicts is what LiteRT computes."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant import quantizers
from tests.helpers import few, functional, images, shake, ship, slow

L = keras.layers
X = images(48)
Y = np.arange(48) % 3


def network(x):
    """Kernels of every kind, an output of each sort: clamped, signed, shared, averaged."""
    a = L.BatchNormalization()(L.Conv2D(6, 3, padding="same", use_bias=False, name="conv")(x))
    b = L.DepthwiseConv2D(3, padding="same", name="depthwise")(L.ReLU()(a))
    x = L.Concatenate(name="join")([L.Conv2D(4, 1, activation="relu6", name="pointwise")(b), L.Add(name="sum")([a, b])])
    x = L.Activation("silu")(L.Conv2DTranspose(4, 2, strides=2, name="up")(L.MaxPooling2D(2)(x)))
    return L.Dense(3, name="logits")(L.Flatten()(L.AveragePooling2D(3)(x)))


def trained(policy, steps=2, calibrate=True, jit_compile=False, **options):
    qmodel = kq.quantize(shake(functional(network)), policy, X if calibrate else None, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit_compile)
    qmodel.fit(X, Y, batch_size=24, epochs=steps, verbose=0)
    return qmodel


KERNELS = {
    "abs_max": "abs_max",
    "lsq": "lsq",
    "learned_clipping": "learned_clipping",
    "mse": "mse",
    "percentile": "percentile",
    "mean_std": "mean_std",
    "fixed": quantizers.ClippedAbsMax(quantizers.Truncation(0.2)),
    "tensor": quantizers.AbsMax(granularity="tensor"),
    "lsq tensor": quantizers.KernelLSQ(granularity="tensor"),
    "power of two": quantizers.AbsMax(power_of_two=True),
    "lsq power of two": quantizers.KernelLSQ(power_of_two=True),
    "stochastic": quantizers.AbsMax(rounding="stochastic", seed=1),
    "soft": quantizers.KernelLSQ(rounding="soft"),
}
OUTPUTS = {
    "moving_average": "moving_average",
    "lsq": "lsq",
    "lsq+": "lsq+",
    "pact": quantizers.PACT(regularizer=keras.regularizers.L2(1e-3)),
    "fixed_range": quantizers.FixedRange(-3.0, 4.0),
    "symmetric": quantizers.MovingAverage(symmetric=True),
    "narrow": quantizers.LSQ(narrow=True),
    "lsq symmetric": quantizers.LSQ(symmetric=True),
    "power of two": quantizers.MovingAverage(power_of_two=True),
    "lsq power of two": quantizers.LSQ(power_of_two=True),
    "stochastic": quantizers.LSQPlus(rounding="stochastic", seed=1),
}


@pytest.mark.parametrize("weights", ["int4", slow("int8"), slow("int2")])
@pytest.mark.parametrize("name", few(KERNELS, "lsq"))
def test_kernels_ship(name, weights, tmp_path):
    qmodel = trained(kq.Policy(weights, "int8", kernel_quantizer=KERNELS[name]))
    assert qmodel.get_layer("conv").kernel_quantizer.bits == int(weights[3:])
    ship(qmodel, tmp_path, X)


@pytest.mark.parametrize("activations", ["int8", slow("int4")])
@pytest.mark.parametrize("name", few(OUTPUTS, "lsq"))
def test_outputs_ship(name, activations, tmp_path):
    qmodel = trained(kq.Policy("int8", activations, output_quantizer=OUTPUTS[name]))
    assert qmodel.get_layer("conv").output_quantizer.bits == int(activations[3:])
    ship(qmodel, tmp_path, X)


@pytest.mark.parametrize("name", [slow("lsq"), slow("pact"), "lsq+"])
@pytest.mark.slow
def test_without_calibration_the_first_batch_sets_the_ranges(name, tmp_path):
    qmodel = trained(kq.Policy("int4", "int8", kernel_quantizer="lsq", output_quantizer=name), calibrate=False)
    ship(qmodel, tmp_path, X)


@pytest.mark.parametrize("name", ["lsq", slow("pact")])
def test_learned_ranges_of_int16_ship(name, tmp_path):
    def plain(x):
        x = L.Conv2D(6, 3, activation="relu", name="conv")(x)
        return L.Dense(3)(L.Flatten()(L.Add()([x, L.Conv2D(6, 1)(x)])))

    qmodel = kq.quantize(shake(functional(plain)), kq.Policy("int8", "int16", output_quantizer=name), X)
    assert qmodel.get_layer("conv").output_quantizer.bits == 16
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    qmodel.fit(X, Y, verbose=0)
    ship(qmodel, tmp_path, X)


def test_a_saved_model_keeps_what_it_learned(tmp_path):
    policy = kq.Policy("int4", "int8", kernel_quantizer="lsq", output_quantizer=quantizers.LSQPlus())
    qmodel = trained(policy)
    qmodel.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(X), qmodel(X))
    conv = loaded.get_layer("conv")
    assert type(conv.kernel_quantizer) is quantizers.KernelLSQ and conv.policy == policy
    np.testing.assert_array_equal(conv.kernel_quantizer.reach, qmodel.get_layer("conv").kernel_quantizer.reach)
    loaded.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    loaded.fit(X, Y, verbose=0)
    ship(loaded, tmp_path, X)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lsq", slow("lsq+"), slow("pact")])
def test_xla_trains_learned_ranges(name, tmp_path):
    policy = kq.Policy("int4", "int8", kernel_quantizer="lsq", output_quantizer=name)
    qmodel = trained(policy, jit_compile=True)
    with_xla = qmodel.predict(X, verbose=0)
    qmodel.compile(jit_compile=False)
    np.testing.assert_array_equal(with_xla, qmodel.predict(X, verbose=0))
    ship(qmodel, tmp_path, X)


@pytest.mark.parametrize("options", [{"symmetric": True}, {"power_of_two": True}])
def test_a_relu_alone_clamps_where_its_quantizer_would_not(options, tmp_path):
    def alone(x):
        return L.Flatten()(L.ReLU(2.5, name="relu")(L.Activation("tanh")(L.Conv2D(4, 1)(x) * 5.0) * 3.0))

    model = shake(functional(alone))
    qmodel = kq.quantize(model, kq.Policy(output_quantizer=quantizers.LSQ(**options)), X)
    ship(qmodel, tmp_path, X)
    for training in (False, True):
        outputs = np.asarray(qmodel(X, training=training))
        assert outputs.min() == 0 and outputs.max() <= 2.51
    with pytest.raises(kq.UnsupportedLayerError, match="'relu': .*Symmetric is symmetric. Give the layer another"):
        kq.quantize(model, kq.Policy(output_quantizer="symmetric"))


@pytest.mark.lowest
@pytest.mark.parametrize("kernels, outputs", [("lsq", "lsq"), slow("kmeans", "pact"), slow("mse", "lsq+")])
@pytest.mark.slow
def test_quantizers_ship_on_the_lowest_versions(kernels, outputs, tmp_path):
    ship(trained(kq.Policy("int4", "int8", kernel_quantizer=kernels, output_quantizer=outputs)), tmp_path, X)


def test_layers_take_quantizers_by_name_object_and_config(tmp_path):
    config = quantizers.serialize(quantizers.LSQ(bits=5))
    model = keras.Sequential(
        [
            keras.Input((12, 12, 6)),
            kq.layers.QuantConv2D(4, 3, activation="relu", kernel_quantizer="lsq", output_quantizer=config),
            kq.layers.QuantSeparableConv2D(4, 3, kernel_quantizer=quantizers.KernelLSQ(bits=4), output_quantizer="lsq+"),
            kq.layers.QuantFlatten(),
            kq.layers.QuantDense(10, kernel_quantizer="lsq", output_quantizer=quantizers.PACT(bits=4), policy="int4"),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    model.fit(X, Y, verbose=0)
    conv, separable, _, dense = model.layers
    assert (conv.kernel_quantizer.bits, conv.output_quantizer.bits) == (8, 5)
    assert separable.depthwise.kernel_quantizer.bits == separable.pointwise.kernel_quantizer.bits == 4
    assert separable.depthwise.kernel_quantizer is not separable.pointwise.kernel_quantizer
    assert (dense.kernel_quantizer.bits, dense.output_quantizer.bits) == (4, 4)
    ship(model, tmp_path, X)


def test_a_policy_with_quantizers_goes_to_json_and_back():
    policy = kq.Policy("int4", "int8", kernel_quantizer="lsq", output_quantizer=quantizers.LSQ(scale_gradient=False))
    policies = kq.PolicyMap({"conv": policy}, default=kq.Policy("int8", "int8", output_quantizer="pact"))
    again = kq.PolicyMap.from_json(policies.to_json())
    assert again == policies and again["conv"] == policy != kq.policy.get("int4")
    assert again["conv"].new_output_quantizer().scales_gradient is False
    assert str(policy) == "int4 (kernel_quantizer=lsq, output_quantizer=LSQ)"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: quantizers.LSQ(bits=9), r"LSQ: `bits` must be one of \[2, .*16\]. Received: bits=9"),
        (lambda: quantizers.KernelLSQ(bits=16), r"KernelLSQ: `bits` must be one of \[2, .*8\]. Received: bits=16"),
        (lambda: quantizers.AbsMax(granularity="row"), "'group'.*Received: granularity='row'"),
        (lambda: quantizers.AbsMax(rounding="up"), "Received: rounding='up'"),
        (lambda: quantizers.ClippedAbsMax("entropy"), "Entropy chooses ranges of activations only"),
        (lambda: quantizers.FixedRange(1.0, 2.0), "holds zero and has a width. Received: low=1.0, high=2.0"),
        (lambda: quantizers.FixedRange(-1.0, float("inf")), "A fixed range is finite"),
        (lambda: quantizers.MovingAverage(bits=16, narrow=True), "no narrow form"),
        (lambda: kq.layers.QuantDense(3, kernel_quantizer="nope"), "'abs_max'.*Received: 'nope'"),
        (lambda: kq.layers.QuantDense(3, kernel_quantizer="pact"), "A quantizer of kernels is one of"),
        (lambda: kq.quantizers.get("lsq_plus"), r"Did you mean 'lsq\+'\? Received: 'lsq_plus'"),
        (lambda: kq.quantizers.get("MovingAvg"), "Did you mean 'moving_average'"),
        (lambda: kq.quantizers.ranges.get("minmax"), "Did you mean 'min_max'"),
        (lambda: kq.posttraining.method.get("gtpq"), "Did you mean 'gptq'"),
        (lambda: kq.layers.QuantDense(3, output_quantizer=quantizers.KernelLSQ()), "KernelLSQ is a `kernel_quantizer`"),
        (lambda: kq.layers.QuantDense(3, output_quantizer=quantizers.LSQ(bits=16)), "computes on int8.* makes int16"),
        (lambda: kq.Policy("int8", "int8", output_quantizer="nope"), "Received: 'nope'"),
        (lambda: kq.Policy("float32", "float32", kernel_quantizer="lsq"), "A policy of floats takes no `kernel_quantizer`"),
    ],
)
def test_bad_arguments_are_one_clear_error(make, message):
    with pytest.raises(kq.QuantizationError, match=message):
        make()
