"""A `call` written with TensorFlow's functions, as Keras nodes of the same meaning."""

from keras_quant.backend.graph_functions import convolution, elementwise, fourier, functions, movement, reduction, shapes
from keras_quant.backend.graph_functions.call import symbolic_outputs
from keras_quant.backend.graph_functions.operator import ReadingError
