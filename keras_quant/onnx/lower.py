"""Leaf graph of a quantized model → ONNX nodes: the driver, and the registry of rules.

Every quantized tensor is a pair QuantizeLinear, DequantizeLinear; between pairs a rule writes plain float operators, which a
runtime fuses with the pairs around them into integer kernels. Integers are moved between layouts, never real numbers, so
that nothing comes between a pair and its operator.
"""

import keras
from keras import ops, tree

from keras_quant.errors import ExportError
from keras_quant.graph import trace
from keras_quant.graph.expand import EXPANSIONS, expand
from keras_quant.graph.graph import Value, in_inference
from keras_quant.graph.rules import Rules
from keras_quant.layers import Quantize, QuantLayer, is_quantized
from keras_quant.layers.loop import Loop
from keras_quant.onnx.builder import DTYPES
from keras_quant.onnx.file import LARGEST
from keras_quant.onnx.floats import Layers, convert
from keras_quant.onnx.large import beyond
from keras_quant.onnx.lowering import INT16_SINCE, Lowering, Made, Tensor
from keras_quant.tflite.ends import warn_of_bytes
from keras_quant.tflite.lower import Output, check

_RULES = Rules()


def register_lowering(*classes):
    """Decorator: the function is the rule by which `export` turns these quantized layers into ONNX operators.

    A rule takes `(lowering, layer, inputs, output)`: the `Lowering`, the layer, its input `Tensor`s (one, or a list as the
    layer takes them) and an `Output`, and returns a `Made`, or a `Tensor` that holds the result already.

        @keras_quant.onnx.register_lowering(QuantMyLayer)
        def my_layer(lowering, layer, x, output):
            return Made(lowering.node("Neg", [lowering.real(x)]), x.first)

    A quantized layer without a rule is converted by tf2onnx from its `float_call`.

    Args:
        *classes: subclasses of `keras_quant.layers.QuantLayer`; theirs are included.
    """

    return _RULES.register(*classes)


# What this package's own rules use.
lowers = register_lowering


def lowers_float(*classes):
    """Decorator: the function is the rule for float layers of exactly these classes; other float layers go to tf2onnx."""

    return _RULES.register_float(*classes)


def lower(qmodel, opset, batch_size=None, storage="uint8", input_type=None, largest=LARGEST):
    """Lower a quantized model.

    Args:
        qmodel: quantized `keras.Model` with its ranges set.
        opset: of the file.
        batch_size: of the file; `None` leaves it open.
        storage: "uint8" or "int8", what holds 8 bits.
        input_type: of the file, see `keras_quant.export`.
        largest: bytes that a protocol buffer takes.

    Returns:
        The `Lowering` and the `Graph` it was made from.

    Raises:
        ExportError: for what the opset cannot say.
        CalibrationError: for a layer whose range was never set.
    """
    graph = trace(qmodel, keep_float=True)
    graph = graph if is_quantized(qmodel) else expand(graph, _of_float())
    check(qmodel, graph)
    _check_opset(graph, opset)
    lowering = Lowering(opset, batch_size, storage, largest)
    for value in graph.inputs:
        lowering.tensors[value] = _input(value, graph, lowering, input_type)
    lower_nodes(lowering, graph)
    return lowering, graph


def lower_nodes(lowering, graph):
    """Write the nodes of a graph, whose inputs are in `lowering.tensors`.

    Args:
        lowering: `Lowering`.
        graph: `Graph` of a quantized model, or of one step of a loop.
    """
    for nodes in _runs(graph):
        lowering.path = nodes[0].path
        if isinstance(nodes[0].operation, QuantLayer):
            _lower_quantized(*nodes, lowering)
        elif isinstance(nodes[0].operation, Loop):
            _lower_loop(*nodes, lowering)
        elif _rule(nodes[0]) is not None:
            _lower_float(*nodes, lowering)
        else:
            _lower_island(nodes, graph, lowering)


def _of_float():
    """What operations of a float model become; recurrent layers stay whole, for tf2onnx."""
    return {cls: made for cls, made in EXPANSIONS.items() if not issubclass(cls, keras.layers.RNN)}


def _check_opset(graph, opset):
    """Refuse layers on int16 where QuantizeLinear has none."""
    if opset >= INT16_SINCE:
        return
    for node in graph.nodes:
        if isinstance(node.operation, Loop):
            _check_opset(node.operation.traced.graph, opset)
    quantized = [n for n in graph.nodes if isinstance(n.operation, QuantLayer) and not isinstance(n.operation, Quantize)]
    wide = [n.path for n in quantized if n.output.note.quantizer.params().type.storage == "int16"]
    if wide:
        raise ExportError(
            f"Layer '{wide[0]}' computes on int16, which QuantizeLinear has from opset {INT16_SINCE} on. Export with "
            f"`opset={INT16_SINCE}` or newer, or give the layer the policy 'int8'. Received: opset={opset}"
        )


def _runs(graph):
    """The nodes, one at a time, but neighbours that tf2onnx converts together."""
    runs = []
    for node in graph.nodes:
        foreign = not isinstance(node.operation, QuantLayer) and _rule(node) is None
        if foreign and runs and runs[-1][1]:
            runs[-1][0].append(node)
        else:
            runs.append(([node], foreign))
    return [nodes for nodes, _ in runs]


def _input(value, graph, lowering, input_type):
    """A model's input: real numbers of the Keras type, or integers on the grid of the layer that quantizes it."""
    builder, shape = lowering.builder, value.shape[1:]
    lowering.path = value.name
    if input_type in (None, "float32"):
        dtype = "float32" if input_type or value.dtype not in DTYPES else value.dtype
        builder.input(value.name, shape, dtype)
        real = value.name
        if dtype != "float32":
            real = lowering.node("Cast", [value.name], "float32", to=DTYPES["float32"])
        return Tensor(value.name, shape, None, False, {(False, False): real})
    readers = [n for n in graph.nodes if value in n.inputs]
    grids = [n.output.note.quantizer.params().kernel for n in readers if isinstance(n.operation, Quantize)]
    steps = {(float(g.scale), float(g.zero_point), g.type.storage) for g in grids}
    if len(grids) != len(readers) or len(steps) != 1 or (grids[0].type.storage == "int16") != (input_type == "int16"):
        raise ExportError(
            f"Input '{value.name}' cannot be {input_type}: that takes layers that all quantize it alike, to as many bits. "
            f'Export with `input_type="float32"`. Received: input_type={input_type!r}'
        )
    if input_type == "uint8":
        warn_of_bytes(value.name, float(grids[0].scale), int(grids[0].zero_point) + 128)
    integers = builder.input(value.name, shape, input_type)
    lowering.given[value.name] = given = Tensor(value.name, shape, grids[0], False, {(True, False): integers})
    if input_type in (lowering.storage, "int16"):
        return given
    grid = lowering.grid(f"{value.name}/given", grids[0], input_type)
    real = lowering.node("DequantizeLinear", [integers, *grid], "given/dequantized")
    return Tensor(value.name, shape, None, False, {(False, False): real})


def _lower_quantized(node, lowering):
    inputs = tree.map_structure(lambda v: lowering.tensors[v] if isinstance(v, Value) else v, node.args[0])
    params = node.output.note.quantizer.params()
    layer = node.operation
    output = Output(node.path, node.output.shape[1:], params.stored if layer.keeps_grid else params.kernel)
    rule = _rule(node) or _by_tf2onnx
    made = rule(lowering, layer, inputs, output)
    lowering.tensors[node.output] = _clamped(_on_grid(made, output, lowering), params, layer, lowering)


def _on_grid(made, output, lowering):
    if isinstance(made, Tensor):
        return made
    if not made.integers:
        return lowering.quantized(made.value, output.name, output.shape, output.params, made.first)
    first = made.first and len(output.shape) > 1
    return Tensor(output.name, output.shape, output.params, first, {(True, first): made.value})


def _clamped(x, params, layer, lowering):
    """A tensor narrower than 8 bits after its lower clamp as well, see `QuantParams.kernel`."""
    if params.is_full or layer.keeps_grid:
        return x
    # On integers: of two pairs that follow one another ONNX Runtime would make one, on a third grid.
    limits = [int(ops.convert_to_numpy(v)) for v in (params.low, params.high)]
    integers = lowering.clip(lowering.integers(x), params.kernel, limits)
    above = Tensor(x.path, x.shape, x.params, x.first, {(True, x.first): integers}, grid=x.grid)
    return lowering.quantized(lowering.real(above), f"{x.path}/clamped", x.shape, params.stored, x.first)


def _by_tf2onnx(lowering, layer, inputs, output):
    tensors = tree.flatten(inputs)
    arguments = lambda values: tree.pack_sequence_as(inputs, list(values))
    function = lambda *values: layer.float_call(arguments(values))
    return Made(lowering.function(function, [lowering.real(x, False) for x in tensors], [x.shape for x in tensors]))


def _lower_loop(node, lowering):
    """A rule for loops has an `Output` for each of several results, and returns as many `Tensor`s."""
    inputs, named = [lowering.tensors[v] for v in node.inputs], node.named_outputs()
    params = [None if v.note is None else v.note.quantizer.params().stored for v in named.values()]
    outputs = [Output(path, v.shape[1:], p, rows=v.rows) for (path, v), p in zip(named.items(), params)]
    made = _rule(node)(lowering, node.operation, inputs, outputs)
    lowering.tensors.update(zip(named.values(), made, strict=True))


def _lower_float(node, lowering):
    tensors = [lowering.tensors[v] for v in node.inputs]
    output = Output(node.path, node.output.shape[1:], None)
    made = _rule(node)(lowering, node.operation, tensors, output)
    first = made.first and len(output.shape) > 1
    lowering.tensors[node.output] = Tensor(node.path, output.shape, None, first, {(False, first): made.value})


def _lower_island(nodes, graph, lowering):
    """Float layers in a row, by tf2onnx."""
    for node in nodes:
        _check_dtype(node)
    made = {value for node in nodes for value in tree.flatten(node.outputs)}
    taken = list(dict.fromkeys(v for node in nodes for v in node.inputs if v not in made))
    readers, layers = graph.consumers(), Layers(nodes[0].path)
    inside = {id(node) for node in nodes}
    left = [v for v in made if any(n is None or id(n) not in inside for n in readers.get(v, []))]
    left.sort(key=lambda value: value.name)

    def function(*arrays):
        values = {v: ops.cast(x, v.dtype) for v, x in zip(taken, arrays)}
        fill = lambda x: values[x] if isinstance(x, Value) else x
        for node in nodes:
            args, kwargs = tree.map_structure(fill, (node.args, node.kwargs))
            with layers.scope(node.path):
                outputs = in_inference(node, args, kwargs)
            values.update(zip(tree.flatten(node.outputs), tree.flatten(outputs)))
        return [ops.cast(values[v], "float32") for v in left]

    real = [_apart(lowering.tensors[v], lowering) for v in taken]
    batch_size = lowering.builder.batch_size
    specs = [((batch_size and batch_size * v.rows, *v.shape[1:]), "float32") for v in taken]
    values = convert(function, real, specs, lowering.builder, layers, beyond(nodes, lowering.largest))
    for value, name in zip(left, values):
        lowering.tensors[value] = Tensor(value.name, value.shape[1:], None, False, {(False, False): name})


def _check_dtype(node):
    dtype = getattr(node.operation, "compute_dtype", None)
    if dtype == "bfloat16":
        raise ExportError(
            f"Layer '{node.path}' computes in bfloat16, which ONNX Runtime has no kernels for on processors. Give it "
            '`dtype="mixed_float16"` or `"float32"`.'
        )


def _apart(x, lowering):
    """The real numbers of a tensor behind a Clip without limits.

    ONNX Runtime quantizes the weights of a float layer that stands between pairs (`WeightBiasQuantization`).
    """
    real = lowering.real(x, False)
    return real if x.params is None else lowering.node("Clip", [real])


def _rule(node):
    return _RULES.of(node.operation)
