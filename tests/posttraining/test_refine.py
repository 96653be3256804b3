"""The verb: what it reports, what it leaves behind, what it refuses."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant import posttraining
from tests.helpers import functional, images, shake
from tests.posttraining.test_methods import QUICK, X, float_outputs, kernels, quantized
from tests.quantizers.test_shipping import Y

L = keras.layers


def output_sqnr(qmodel, exact):
    noise = np.float64(qmodel.predict(X, verbose=0)) - exact
    return 10 * np.log10(np.sum(np.float64(exact) ** 2) / np.sum(noise**2))


@pytest.mark.slow
def test_the_report_has_the_ratio_before_and_after_each_method():
    qmodel = quantized()
    exact = float_outputs(qmodel)
    before = output_sqnr(qmodel, exact)
    report = kq.refine(qmodel, X, ["gptq", QUICK, "bias_correction"], verbose=0)
    first, *_, last = report.methods
    assert first.before["logits"] == pytest.approx(before, abs=0.01)
    assert last.after["logits"] == pytest.approx(output_sqnr(qmodel, exact), abs=0.01)
    assert last.after["logits"] > before + 3
    for one, other in zip(report.methods, report.methods[1:]):
        assert one.after == other.before
    assert report.samples == len(X)
    text = str(report)
    assert all(part in text for part in ("gptq", "adaround", "bias_correction", f"{before:.1f}"))
    frame = report.to_pandas()
    assert list(frame.columns) == ["method", "path", "before", "after", "note"]
    assert set(frame[frame.method == "adaround"].path) == set(kernels(qmodel))


@pytest.mark.slow
def test_a_layer_that_one_method_has_rounded_is_left_alone_by_the_other():
    qmodel = quantized()
    report = kq.refine(qmodel, X, ["gptq", QUICK], verbose=0)
    by_gptq, by_adaround = ({p for p, c in m.layers.items() if not c.note} for m in report.methods)
    assert by_gptq and by_adaround and not by_gptq & by_adaround
    assert "depthwise" in by_adaround


def test_training_goes_on_from_there():
    qmodel = quantized()
    kq.refine(qmodel, X, ["gptq"], verbose=0)
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = qmodel.fit(X[:48], Y, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_layer_that_is_called_twice_and_several_inputs():
    a, b = keras.Input((8, 8, 4), name="a"), keras.Input((8, 8, 4), name="b")
    shared = L.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    outputs = [L.Conv2D(2, 1, name="y")(L.Add()([shared(a), shared(b)])), L.Conv2D(2, 1, name="z")(b)]
    model = shake(keras.Model([a, b], outputs))
    data = {"a": images(24, (8, 8, 4)), "b": images(24, (8, 8, 4), seed=5)}
    qmodel = kq.quantize(model, "int4", data)
    report = kq.refine(qmodel, data, ["equalization", "gptq", QUICK, "bias_correction"], verbose=0)
    assert {"shared", "y", "z"} <= set(report.methods[1].layers)
    assert set(report.methods[0].before) == set(qmodel.output_names)


def test_names_configs_and_objects_mean_the_same():
    for name in ("equalization", "gptq", "adaround", "bias_correction", "batch_norm"):
        method = posttraining.get(name)
        again = posttraining.get(keras.saving.serialize_keras_object(method))
        assert type(again) is type(method) and again.get_config() == method.get_config()
    with pytest.raises(kq.QuantizationError, match="adaround.*Received: 'ada'"):
        kq.refine(quantized(), X, ["ada"])


def test_a_model_without_ranges_or_quantized_layers_is_refused():
    model = functional(lambda x: L.Conv2D(4, 1, name="conv")(x))
    with pytest.raises(kq.CalibrationError, match="layer 'input.*' was never set"):
        kq.refine(kq.quantize(model, "int4"), X)
    with pytest.raises(kq.CalibrationError, match="no quantized layer"):
        kq.refine(model, X)


@pytest.mark.parametrize(
    "arguments", [{"iterations": 0}, {"batch_size": 0}, {"places": 0}, {"learning_rate": 0.0}, {"regularization": -1.0}]
)
def test_adaround_refuses_what_makes_no_sense(arguments):
    with pytest.raises(kq.QuantizationError, match=next(iter(arguments))):
        posttraining.AdaRound(**arguments)


@pytest.mark.parametrize("call", [lambda: posttraining.GPTQ(damping=0), lambda: posttraining.CrossLayerEqualization(())])
def test_other_methods_refuse_what_makes_no_sense(call):
    with pytest.raises(kq.QuantizationError, match="Received"):
        call()


def test_an_error_on_the_way_gives_the_weights_back():
    class Breaks(posttraining.Method):
        name = "breaks"

        def apply(self, task):
            raise RuntimeError("half way")

    qmodel = quantized()
    before = qmodel.get_weights()
    with pytest.raises(RuntimeError, match="half way"):
        kq.refine(qmodel, X, ["gptq", Breaks()], verbose=0)
    for one, other in zip(before, qmodel.get_weights()):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(kq.CalibrationError):
        kq.refine(qmodel, X[..., :3], ["gptq"], verbose=0)


def test_weights_on_a_codebook_are_left_and_the_report_says_why():
    qmodel = quantized(policy=kq.Policy("int4", "int8", kernel_quantizer="kmeans"))
    report = kq.refine(qmodel, X, ["gptq", "bias_correction"], verbose=0)
    assert all("codebook" in change.note for change in report.methods[0].layers.values())
    assert report.methods[1].changed
