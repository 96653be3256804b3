"""The types of a file's inputs and outputs, where they are not those of the tensors inside."""

import warnings

from keras_quant.errors import ExportError
from keras_quant.tflite.writer import TensorType

END_TYPES = {
    "int8": TensorType.INT8,
    "uint8": TensorType.UINT8,
    "int16": TensorType.INT16,
    "float32": TensorType.FLOAT32,
}
_NAMES = {kind: name for name, kind in END_TYPES.items()}


def check_end_types(**types):
    """Refuse what is no type of an input or output."""
    for argument, name in types.items():
        if name is not None and name not in END_TYPES:
            raise ExportError(f"`{argument}` is one of {list(END_TYPES)}, or None. Received: {argument}={name!r}")


def input_tensor(lowering, name, shape, scale, zero_point, kind):
    """A file's input, and the tensor that layers read: behind a QUANTIZE where the input is uint8.

    Args:
        lowering: `Lowering`.
        name, shape: of the input; shape without the batch.
        scale, zero_point: of the grid that layers read.
        kind: `TensorType` of the integers that layers read.
    """
    wanted = lowering.input_type
    if wanted == "uint8" and kind == TensorType.INT8:
        warn_of_bytes(name, float(scale), int(zero_point) + 128)
        given = lowering.writer.activation(name, shape, scale, zero_point + 128, TensorType.UINT8)
        return given, lowering.quantized(given, lowering.writer.activation(f"{name}/int8", shape, scale, zero_point))
    _check(wanted, kind, f"Input '{name}'", "input")
    tensor = lowering.writer.activation(name, shape, scale, zero_point, kind)
    return tensor, tensor


def warn_of_bytes(name, scale, zero_point):
    """Warn where the bytes of an input stand for other numbers than themselves."""
    if (scale, zero_point) != (1.0, 0):
        warnings.warn(
            f"Input '{name}': its bytes 0 to 255 stand for the real numbers {-zero_point * scale:.4g} to "
            f"{(255 - zero_point) * scale:.4g}. For bytes that go in as they are, as of a camera, let the model take "
            "0 to 255, with a Rescaling layer behind the input, and calibrate on data in which 0 and 255 occur.",
            stacklevel=2,
        )


def output_tensor(lowering, name, x, wanted):
    """The tensor that stands at a model's output: behind a DEQUANTIZE or QUANTIZE where another type is wanted."""
    lowering.path = name
    if wanted == "float32":
        return lowering.real(x)
    if wanted == "uint8" and x.kind == TensorType.INT8:
        grid = x.scale, x.zero_point + 128, TensorType.UINT8
        y = lowering.writer.activation(f"{x.name}/uint8", x.shape[1:], *grid, lowering.rows_of(x))
        return lowering.quantized(x, y)
    _check(wanted, x.kind, f"Output '{name}'", "output")
    return x


def _check(wanted, kind, where, end):
    if wanted is not None and END_TYPES[wanted] != kind:
        fitting = [_NAMES[kind], "float32"] + (["uint8"] if kind == TensorType.INT8 else [])
        raise ExportError(
            f"{where} is {_NAMES[kind]} in the model; another integer type would round twice, otherwise than `predict`. "
            f'Export with `{end}_type="{fitting[0]}"`, or give the layer there a policy of that type. '
            f"Received: {end}_type={wanted!r}"
        )
