"""The judges: tools of others that make an int8 file out of the same float model and the same ranges.

Neither gets anything that this package computed but the real-valued range of each activation: scales, zero points,
integer weights and biases are the judge's own.
"""

import keras
import numpy as np
import tensorflow as tf

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.graph.fuse import fuse_activations, fuse_batch_norms
from keras_quant.tflite.runtime import Runtime, quantize_array
from tests.helpers import images, shake
from tests.judges.reading import operators

# The axes of a kernel that one output channel spans.
AXES = {keras.layers.Conv2D: (0, 1, 2), keras.layers.DepthwiseConv2D: (0, 1), keras.layers.Dense: (0,)}


class Case:
    """A float model and our file of it.

    Args:
        model: float `keras.Model` with one input.
        folder: for the file.

    Attributes:
        graph: its fused `Graph`: one node for each of our quantized layers.
        ranges: dict from the path of a layer (or the name of the input) to the real range of its output.
        values: dict from the path of each variable to its array.
        content: bytes of our file.
    """

    def __init__(self, model, folder):
        self.x = images(shape=model.input_shape[1:])
        self.model = shake(model)
        self.values = {v.path: v.numpy() for v in model.variables}
        qmodel = kq.quantize(model, "int8", self.x)
        path = folder / "model.tflite"
        kq.export(qmodel, path)
        self.content = path.read_bytes()
        self.graph = fuse_activations(fuse_batch_norms(trace(model)))
        self.ranges = {}
        for node in trace(qmodel).nodes:
            quantizer = getattr(node.operation, "output_quantizer", None)
            if quantizer is not None and node.output.note.quantizer is quantizer:
                low, high = (float(v) for v in quantizer._shared_range())
                self.ranges[node.path.removesuffix("_quantize")] = (low, high)

    @property
    def ours(self):
        return operators(self.content)

    def inputs(self):
        """Images on our file's input grid, int8."""
        return quantize_array(self.x, Runtime(self.content).inputs[0])

    def outputs(self, content):
        """Integers that LiteRT computes with a file for `inputs`."""
        return Runtime(content).run([self.inputs()])[0].astype(int)

    def parting(self, content):
        """By how many steps our file's outputs and another's part at most, and how many of them do."""
        gap = np.abs(self.outputs(self.content) - self.outputs(content))
        return int(gap.max()), int(np.count_nonzero(gap))


def converter(case, dense="per_tensor"):
    """The bytes that `TFLiteConverter` makes of the model with fake-quantization operations at our ranges.

    Args:
        case: `Case`.
        dense: how the kernel of a Dense layer is fake-quantized: "per_tensor", or "as_convolution": the layer written as a
            1×1 convolution with one scale a channel.
    """

    def on_range(x, path):
        bounds = case.ranges.get(path)
        return x if bounds is None else tf.quantization.fake_quant_with_min_max_vars(x, *bounds)

    def compute(node, args, kwargs):
        layer = node.operation
        as_convolution = isinstance(layer, keras.layers.Dense) and dense == "as_convolution"
        y = _pointwise(layer, case.values, *args) if as_convolution else layer(*args)
        for follower in (node.batch_norm, node.activation):
            y = y if follower is None else follower(y)
        return on_range(y, node.path)

    def network(x):
        layers = [node.operation for node in case.graph.nodes if type(node.operation) in AXES]
        kernels = [(layer.kernel, _fake_quantized(layer, case.values[layer.kernel.path])) for layer in layers]
        with keras.StatelessScope(state_mapping=[*_constants(case), *kernels]):
            x = on_range(x, case.graph.inputs[0].name)
            (output,) = keras.tree.flatten(case.graph.outputs)
            return case.graph.run([x], compute)[output]

    made = _converter(network, case.model)
    made.optimizations = [tf.lite.Optimize.DEFAULT]
    made.inference_input_type = made.inference_output_type = tf.int8
    return made.convert()


def _converter(network, model):
    """A converter of a function of one image."""
    signature = [tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)]
    function = tf.function(network, input_signature=signature, autograph=False)
    return tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], model)


def _constants(case):
    """The model's variables as constants, which the converter folds into each other."""
    return [(v, tf.constant(case.values[v.path])) for v in case.model.variables]


def _fake_quantized(layer, kernel):
    """A kernel behind the operation that the converter reads its scales from: the largest weight becomes 127."""
    if isinstance(layer, keras.layers.Dense):
        largest = np.abs(kernel).max()
        return tf.quantization.fake_quant_with_min_max_vars(kernel, -largest, largest, narrow_range=True)
    return _per_channel(kernel, AXES[type(layer)])


def _per_channel(kernel, axes):
    # The operation knows channels on the last axis only: a depthwise kernel (h, w, c, m) goes through (h, w, 1, c·m).
    largest = np.abs(kernel).max(axis=axes).ravel()
    flat = kernel if axes == (0, 1, 2) else kernel.reshape(*kernel.shape[:2], 1, -1)
    flat = tf.quantization.fake_quant_with_min_max_vars_per_channel(flat, -largest, largest, narrow_range=True)
    return flat if flat.shape == kernel.shape else tf.reshape(flat, kernel.shape)


def _pointwise(layer, values, x):
    """Dense as a 1×1 convolution with one scale a channel."""
    kernel, bias = (values[variable.path] for variable in (layer.kernel, layer.bias))
    y = tf.nn.conv2d(tf.reshape(x, (1, 1, 1, -1)), _per_channel(kernel[None, None], (0, 1, 2)), 1, "VALID") + bias
    return tf.reshape(layer.activation(y), (1, -1))


def ai_edge_quantizer(case):
    """The bytes that `ai-edge-quantizer` makes of the float file, with our ranges for its calibration's."""
    from ai_edge_quantizer import quantizer, recipe

    def network(x):
        with keras.StatelessScope(state_mapping=_constants(case)):
            return case.model(x, training=False)

    content = _converter(network, case.model).convert()
    tool = quantizer.Quantizer(bytearray(content), recipe.static_wi8_ai8())
    return bytes(tool.quantize(_calibration(case, content), enable_progress_report=False).quantized_model)


def _calibration(case, content):
    """Range of each activation of the float file, by its name there: operators come in the order of our file's."""
    theirs = operators(content)
    assert len(theirs) == len(case.ours)
    found = {theirs[0].roles["input"].name: case.ranges[case.graph.inputs[0].name]}
    for their, our in zip(theirs, case.ours):
        # An operator that keeps its input's grid has no range of its own.
        bounds = case.ranges.get(our.roles["output"].name, found[their.roles["input"].name])
        found[their.roles["output"].name] = bounds
    return {
        name: {key: np.array(value, np.float32).reshape(1, 1) for key, value in zip(("min", "max"), bounds)}
        for name, bounds in found.items()
    }
