"""A file whose inputs the runtime may resize: what it holds must be right at every size.

The model is lowered at several sizes. Where the files differ in the shapes of computed tensors alone, each operator follows
its input. Two operands follow when they are written otherwise, and are:

    RESHAPE to [1, 64, 8], at another size to [1, 96, 8]                    ⟹   RESHAPE to [1, -1, 8]
    STRIDED_SLICE up to [1, 14, 8] of 16 places, up to [1, 22, 8] of 24     ⟹   STRIDED_SLICE up to [1, -2, 8]
"""

import numpy as np

from keras_quant.errors import ExportError
from keras_quant.tflite.flatbuffer import operator_name


def follow_sizes(parts):
    """Open the sizes of a lowered model that differ between several lowerings of it.

    Args:
        parts: list of `(lowering, outputs)` of one model at different sizes, with the outputs as `Writer.finish` takes them.
            The first is changed, and is the file's.

    Raises:
        ExportError: for the first operator that does not follow its input.
    """
    for lowering, outputs in parts:
        lowering.writer.drop_unread_operators(outputs)
    files = [_Lowered(lowering) for lowering, _ in parts]
    first = files[0]
    for place in range(len(first.operators)):
        calls = [file.call(place) for file in files]
        if any(call is None or call.kind != calls[0].kind for call in calls) or not _follows(calls):
            raise first.fixed(place)
        for tensors in zip(*(call.outputs for call in calls)):
            _open(tensors)
    for tensors in zip(*(file.inputs for file in files)):
        _open(tensors)


class _Lowered:
    """What a lowering wrote."""

    def __init__(self, lowering):
        self.lowering, self.writer = lowering, lowering.writer
        self.tensors, self.operators = self.writer.graph.tensors, self.writer.graph.operators
        self.inputs = [self.tensors[tensor.index] for tensor in lowering.inputs.values()]
        self.codes = {index: key for key, index in self.writer.codes.items()}

    def call(self, place):
        return _Call(self, self.operators[place]) if place < len(self.operators) else None

    def fixed(self, place):
        call = self.call(place)
        made = call.outputs[0]
        return ExportError(
            f"Layer '{self.lowering.layers.get(made.name, made.name)}' holds a size: its {call.name} to {list(made.shape)} "
            "would not follow when the runtime resizes the input. Give `input_shape` without `None`, or write a signature "
            "for each size, `signatures={name: shape, ...}`."
        )


class _Call:
    """An operator of a lowering."""

    def __init__(self, file, operator):
        self.file, self.operator = file, operator
        self.name = operator_name(file.codes[operator.opcodeIndex][0])
        self.operands = [None if index < 0 else file.tensors[index] for index in operator.inputs]
        self.outputs = [file.tensors[index] for index in operator.outputs]

    @property
    def kind(self):
        """All that must be the same at every size."""
        options = vars(self.operator.builtinOptions) if self.operator.builtinOptions is not None else {}
        options = {key: str(value) for key, value in options.items() if key != "newShape"}
        movable = {"RESHAPE": 1, "STRIDED_SLICE": 2}.get(self.name)
        read = [self._known(x) for slot, x in enumerate(self.operands) if slot != movable and x is not None]
        return self.file.codes[self.operator.opcodeIndex], options, read, [(t.name, _grid(t)) for t in self.outputs]

    def _known(self, tensor):
        return (self.file.writer.buffers[tensor.buffer].data.tobytes() if tensor.buffer else tensor.name), _grid(tensor)

    def values(self, slot):
        """A constant int32 operand."""
        return self.file.writer.buffers[self.operands[slot].buffer].data.view(np.int32)

    def replace(self, slot, values):
        name = f"{self.outputs[0].name}/open"
        self.operator.inputs[slot] = self.file.writer.constant(name, np.asarray(values, np.int32))


def _grid(tensor):
    q = tensor.quantization
    scales = () if q is None or q.scale is None else (q.scale.tobytes(), q.zeroPoint.tobytes())
    return tensor.type, *scales


def _follows(calls):
    """Whether an operator with what it reads follows at every size, once it is rewritten if need be."""
    rewrite = {"RESHAPE": _follow_reshape, "STRIDED_SLICE": _follow_slice}.get(calls[0].name)
    return rewrite is None or rewrite(calls)


def _follow_reshape(calls):
    shapes = [call.values(1) for call in calls]
    if len({len(shape) for shape in shapes}) > 1:
        return False
    shape, varies = shapes[0].copy(), np.any(np.stack(shapes) != shapes[0], axis=0)
    if not varies.any():
        return True
    shape[varies] = -1
    calls[0].operator.builtinOptions.newShape = shape.tolist()
    calls[0].replace(1, shape)
    return np.count_nonzero(shape == -1) == 1


def _follow_slice(calls):
    ends, sizes = ([np.array(x) for x in xs] for xs in zip(*((call.values(2), call.operands[0].shape) for call in calls)))
    end, options = ends[0].copy(), calls[0].operator.builtinOptions
    for axis in np.flatnonzero(np.any(np.stack(ends) != end, axis=0)):
        left = {int(size[axis] - end[axis]) for end, size in zip(ends, sizes)}
        if len(left) > 1:
            return False
        end[axis] = -left.pop()
        if end[axis] == 0:
            options.endMask |= 1 << int(axis)
    calls[0].replace(2, end)
    return True


def _open(tensors):
    """Mark the sizes in which a tensor differs."""
    first = tensors[0]
    shapes = np.stack([tensor.shape for tensor in tensors])
    signature = np.where(np.any(shapes != shapes[0], axis=0), -1, first.shape)
    if first.shapeSignature is not None:
        signature = np.where(np.array(first.shapeSignature) == -1, -1, signature)
    if -1 in signature:
        first.shapeSignature = signature.tolist()
