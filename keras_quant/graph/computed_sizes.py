"""Which operations of a float model work with numbers that may have been computed from the size of its inputs.

    ops.sum(x, (1, 2)) / (height * width)      in a layer's `call`: 1/384 at this size, another number at others

A quantized model is called on inputs of another size as it is only where there are none.
"""

import keras
from keras import tree

from keras_quant.graph.expand import EXPANSIONS
from keras_quant.graph.graph import Value

# Their expansions make the same layers at any size, or layers whose weights tell one from another.
_SAME_AT_ANY_SIZE = {
    *("Average", "Clip", "Concatenate", "EinsumDense", "Fabs", "GaussianBlur", "Glu", "Mish", "Multiply", "ReLU"),
    *("LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
    *("RGBToGrayscale", "Resizing", "Select", "SobelEdges", "Softmax", "Stack", "StopGradient", "UpSampling2D"),
}
_NO_SIZES = {"name", "axis", "axes", "axis1", "axis2", "source", "destination", "strides", "dilation_rate"}


def paths_with_sizes(graph):
    """The paths of nodes whose numbers may follow from sizes.

    Args:
        graph: `Graph` of a float model, as traced.
    """
    return [node.path for node in graph.nodes if _may_hold_sizes(node)]


def _may_hold_sizes(node):
    operation = node.operation
    name = type(operation).__name__
    if type(operation) in EXPANSIONS and name not in _SAME_AT_ANY_SIZE:
        return True
    if isinstance(operation, keras.layers.Layer) or (node.source is None and "/" not in node.path):
        return False  # Numbers that were there before any size was.
    if any(map(_is_number, tree.flatten((node.args, node.kwargs)))):
        return True
    try:
        config = operation.get_config()
    except NotImplementedError:  # it was made with what Keras cannot write down
        return True
    return any(map(_is_size, tree.flatten({key: value for key, value in config.items() if key not in _NO_SIZES})))


def _is_number(x):
    return _is_size(x) or isinstance(x, float) or (hasattr(x, "shape") and not isinstance(x, (Value, keras.Variable)))


def _is_size(x):
    return isinstance(x, int) and not isinstance(x, bool)
