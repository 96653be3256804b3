"""What every quantized layer class owes to Keras."""

import gc
import inspect
import weakref

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant import layers
from keras_quant.backend import shared
from keras_quant.graph.recurrent import LAYERS
from keras_quant.layers.registry import _QUANTIZED
from tests.helpers import images, sequential, shake, ship

L = keras.layers

ARGUMENTS = {
    "QuantConv2D": {"filters": 4, "kernel_size": 3, "activation": "relu"},
    "QuantDepthwiseConv2D": {"kernel_size": 3, "depth_multiplier": 2},
    "QuantSeparableConv2D": {"filters": 4, "kernel_size": 3, "activation": "silu"},
    "QuantConv2DTranspose": {"filters": 4, "kernel_size": 3, "strides": 2},
    "QuantConv1D": {"filters": 4, "kernel_size": 3, "padding": "causal"},
    "QuantDepthwiseConv1D": {"kernel_size": 3},
    "QuantSeparableConv1D": {"filters": 4, "kernel_size": 3, "activation": "silu"},
    "QuantConv1DTranspose": {"filters": 4, "kernel_size": 3, "strides": 2},
    "QuantDense": {"units": 3, "activation": "softmax"},
    "QuantAveragePooling2D": {"pool_size": 2},
    "QuantAveragePooling1D": {"pool_size": 2},
    "QuantRegroup": {"target_shape": (12, 6)},
    "QuantReshape": {"target_shape": (-1,)},
    "QuantPermute": {"dims": (3, 1, 2)},
    "QuantRepeatVector": {"n": 3},
    "QuantSlice": {"slices": [(1, -1), (None, None, -2)], "target_shape": (10, 36)},
    "QuantTake": {"indices": [[3, -1], [4, 5]]},
    "QuantFlip": {"axis": [1, -1]},
    "QuantRoll": {"shift": [2, -1], "axis": [1, 2]},
    "QuantRepeat": {"repeats": [1, 2, 0, 3, 1, 1], "axis": 3},
    "QuantTile": {"repeats": (1, 2, 3)},
    "QuantPad": {"pad_width": [(1, 2), (0, 3), (0, 0)], "mode": "reflect"},
    "QuantRescaling": {"scale": 0.5, "offset": [1.0, 2, 3, 4, 5, 6]},
    "QuantNormalization": {"mean": 1.0, "variance": [1.0, 2, 3, 4, 5, 6]},
    "QuantActivation": {"activation": "sigmoid"},
    "QuantDropout": {"rate": 0.5},
    "QuantAlphaDropout": {"rate": 0.5},
    "QuantGaussianDropout": {"rate": 0.5},
    "QuantGaussianNoise": {"stddev": 0.5},
    "QuantSpatialDropout1D": {"rate": 0.5},
    "QuantSpatialDropout2D": {"rate": 0.5},
    "QuantAddConstant": {"constant_shape": (1, 12, 1, 6)},
    "QuantMultiplyConstant": {"constant_shape": (1, 1, 12, 6), "constant_scale": 0.25},
    "QuantConstant": {"constant_shape": (1, 4, 6)},
    "QuantRandomCrop": {"height": 8, "width": 8},
    "QuantClip": {"low": -0.5, "high": 1.0},
    "QuantEinsum": {"subscripts": "abcd,abed->abce"},
    "QuantEinsumDense": {"equation": "abcd,de->abce", "output_shape": (None, None, 3)},
    "QuantGroupNormalization": {"groups": 2},
    "QuantPower": {"exponent": 3.0},
    "QuantStandardize": {"axis": [3]},
    "QuantExactStandardize": {"axis": [3], "groups": 2, "use_scale": True},
    "QuantStochasticDepth": {"drop_path_rate": 0.5},
    "QuantTable": {"function": "softplus", "offset": 0.5},
    "QuantTopK": {"k": 3},
    "QuantResize": {"height": 8, "width": 18, "interpolation": "nearest"},
    "QuantResizing": {"height": 7, "width": 20, "crop_to_aspect_ratio": True},
    "QuantCenterCrop": {"height": 7, "width": 12},
    "QuantDepthToSpace": {"block_size": 2},
    "QuantSpaceToDepth": {"block_size": 3},
    "QuantUpSampling2D": {"size": 2, "interpolation": "bilinear"},
}
SEVERAL_INPUTS = (
    "QuantAdd",
    "QuantConcatenate",
    "QuantDivide",
    "QuantEinsum",
    "QuantMaximum",
    "QuantMinimum",
    "QuantMultiply",
    "QuantSubtract",
)
# Bases, and layers that take other shapes than images; `test_shipping` has these.
UNFIT = ("QuantLayer", "QuantComposite", "Quantize", "QuantMatmul", "QuantDotProductAttention")
UNFIT += ("QuantMaskedMean", "QuantWhere", "QuantEmbedding", "QuantOneHot", "QuantBooleans")  # They take masks or ids.
UNFIT += tuple(name for name in vars(layers) if "3D" in name)
UNFIT += tuple(f"Quant{name}" for name in LAYERS) + (
    "QuantBidirectional",
)  # They take sequences: `test_recurrent` has these.
if not hasattr(keras.layers, "RMSNormalization"):
    UNFIT += ("QuantRMSNormalization",)
if keras.layers.RandomCrop(8, 8)(np.zeros((1, 12, 12, 3)), training=False).shape[1] == 8:
    UNFIT += ("QuantRandomCrop",)  # This Keras cuts in inference, too.
CLASSES = {
    name: cls
    for name, cls in vars(layers).items()
    if inspect.isclass(cls) and name.startswith("Quant") and name not in UNFIT
}


def make(kind, **extra):
    return CLASSES[kind](**ARGUMENTS.get(kind, {}), **extra)


def model_of(layer, name):
    shapes = {"QuantRepeatVector": (6,), "QuantDepthToSpace": (12, 12, 8)}
    shape = shapes.get(name, (12, 6) if "1D" in name else (12, 12, 6))
    inputs = [keras.Input(shape) for _ in range(2 if name in SEVERAL_INPUTS else 1)]
    return keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))


@pytest.mark.slow
@pytest.mark.lowest
@pytest.mark.parametrize("name", CLASSES)
def test_built_by_hand_calibrated_and_shipped(name, tmp_path):
    model = model_of(make(name), name)
    x = [images(shape=i.shape[1:], seed=s) for s, i in enumerate(model.inputs)]
    kq.calibrate(model, x, verbose=0)
    ship(model, tmp_path, x)
    model.save(tmp_path / "model.keras")
    kq.export(keras.models.load_model(tmp_path / "model.keras"), tmp_path / "loaded.tflite")
    assert (tmp_path / "loaded.tflite").read_bytes() == (tmp_path / "model.tflite").read_bytes()


@pytest.mark.parametrize("name", CLASSES)
def test_config_round_trip(name):
    layer = make(name, name="layer")
    again = CLASSES[name].from_config(layer.get_config())
    strip = lambda config: {k: v for k, v in config.items() if "quantizer" not in k}
    assert strip(again.get_config()) == strip(layer.get_config())
    model_of(again, name)


@pytest.mark.parametrize("float_class, cls", _QUANTIZED.items(), ids=lambda c: c.__name__)
def test_constructor_takes_what_the_keras_class_takes(float_class, cls):
    exceptions = {"QuantNormalization": {"axis"}}
    wanted = set(inspect.signature(float_class.__init__).parameters) - {"self", "kwargs", "data_format"}
    taken = set()
    for base in cls.__mro__:
        if "__init__" in vars(base):
            taken |= set(inspect.signature(base.__init__).parameters)
    assert wanted - exceptions.get(cls.__name__, set()) <= taken


def test_unknown_activation_is_refused_by_name():
    with pytest.raises(kq.UnsupportedLayerError, match=r"'sparsemax' of layer 'odd' .*sigmoid"):
        layers.QuantDense(3, activation="sparsemax", name="odd")


def test_relu_with_a_jump_is_refused():
    with pytest.raises(kq.UnsupportedLayerError, match="threshold"):
        layers.QuantReLU(threshold=1.0)


def test_output_lies_on_the_grid_in_training_and_inference():
    model = model_of(layers.QuantConv2D(4, 3), "QuantConv2D")
    x = images()
    kq.calibrate(model, x, verbose=0)
    layer = model.layers[-1]
    layer.output_quantizer.trainable = False
    scale = float(layer.output_quantizer.params().scale)
    for training in (True, False):
        steps = np.asarray(model(x, training=training)) / scale
        np.testing.assert_allclose(steps, np.rint(steps), atol=2e-3)


def test_training_and_inference_agree_up_to_one_step():
    """Fake quantization rounds real sums, the kernel integer ones with an int32 bias: at most one step apart."""
    model = model_of(layers.QuantConv2D(4, 3, activation="relu"), "QuantConv2D")
    x = images()
    kq.calibrate(model, x, verbose=0)
    model.layers[-1].trainable = False
    scale = float(model.layers[-1].output_quantizer.params().scale)
    difference = np.abs(np.asarray(model(x, training=True)) - np.asarray(model(x, training=False))) / scale
    assert difference.max() < 1.01
    assert (difference > 0.5).mean() < 0.02


def test_layers_of_a_kind_share_a_graph_that_keeps_none_of_them():
    before = dict(shared._GRAPHS)
    model = sequential(*(L.Dense(6) for _ in range(4)), L.Dense(6, activation="relu"), shape=(5, 6))
    qmodel = kq.quantize(shake(model), "int8", images(shape=(5, 6)))
    got, wanted = qmodel.predict(images(shape=(5, 6)), verbose=0), qmodel(images(shape=(5, 6)))
    np.testing.assert_array_equal(got, wanted)
    made = [key for key in shared._GRAPHS if key not in before]
    dense = [key for key in made if "QuantDense" in str(key)]
    assert 0 < len(dense) <= 2 and all(shared._GRAPHS[key] is not None for key in dense)
    kept = weakref.ref(qmodel.layers[1])
    del model, qmodel
    keras.backend.clear_session()
    gc.collect()
    assert kept() is None


def test_layers_that_differ_in_one_thing_do_not_share_a_graph():
    x = images(shape=(5, 6))
    first = kq.quantize(sequential(L.ReLU(), shape=(5, 6)), "int8", x)
    second = kq.quantize(sequential(L.LeakyReLU(0.1), L.LeakyReLU(0.2), shape=(5, 6)), "int8", x)
    for qmodel in (first, second):
        np.testing.assert_array_equal(qmodel.predict(x, verbose=0), qmodel(x))
