"""Any Keras model → the flat graph of its leaves, without a change to the model."""

import collections
import inspect

import keras
import numpy as np
from keras import tree
from keras.src.layers.merging.base_merge import Merge
from keras.src.models.functional import Functional
from keras.src.ops.numpy import Reshape

from keras_quant.errors import QuantizationError, UnsupportedLayerError
from keras_quant.graph import batch
from keras_quant.graph.activations import foreign_activation, without_activation
from keras_quant.graph.call import counts_anew, operations_numbered_by
from keras_quant.graph.choices import is_choice
from keras_quant.graph.constants import is_arithmetic
from keras_quant.graph.expand import is_expanded
from keras_quant.graph.explain import WAYS_OUT, call_site, explained, untraceable
from keras_quant.graph.expressions import (
    Weights,
    is_expression,
    is_weight,
    nodes_between,
    numbers_of,
    of_one_sample,
    settled,
)
from keras_quant.graph.graph import Graph, Node, TracedStep, Value, without_repeats, without_unread
from keras_quant.graph.kinds import is_real
from keras_quant.graph.mask_flow import Masks, computed_masks, mask_of, takes_masks
from keras_quant.graph.operations import has_quantized_form
from keras_quant.graph.sizes import Sized
from keras_quant.graph.spelling import independent, is_nothing, symbolic_spelling, symbols_for_constants, without_flag
from keras_quant.graph.weights import takes_weights
from keras_quant.layers import ExactSum, annotate, annotation, is_quantized, reason_against
from keras_quant.layers.base import GridInputs, KernelCall
from keras_quant.layers.dynamic import DynamicComposite, DynamicWeighted
from keras_quant.layers.loop import Loop
from keras_quant.layers.state import StateUpdate
from keras_quant.layers.with_mask import WithMask


def trace(model, keep_float=False, follow_weights=False):
    """Trace a model into its leaf graph.

    Functional and Sequential models are followed along their own graph; everything else that is no leaf (a subclassed
    model, a layer made of layers, a quantized layer made of several operators) by calling its `call` on symbolic tensors.

    A leaf is a layer or operation that has a quantized form, or, in a quantized model, one kernel of a quantized layer.

    Args:
        model: a built `keras.Model`, or one that is `Sized`.
        keep_float: whether a layer that cannot be looked into becomes a leaf that computes in float, instead of an error;
            or a function that says so of a path.
        follow_weights: whether what layers compute from weights alone stays an expression among the nodes' arguments, see
            `graph.expressions`, instead of an array.

    Returns:
        `Graph`.

    Raises:
        UnsupportedLayerError: where a layer cannot be traced, with its path and line.
        QuantizationError: if the model has no built input, or a dimension other than the batch is dynamic, or it cannot take
            inputs of the given size.
    """
    model, shapes = (model.model, model.shapes) if isinstance(model, Sized) else (model, None)
    inputs, structure = _model_inputs(model, shapes)
    weights = None if is_quantized(model) else Weights()
    tracer = _Tracer(keep_float, batch.fixed(inputs), None if shapes is None else inputs, weights)
    outputs = tracer.open(model, (tree.pack_sequence_as(structure, inputs),), {}, prefix="")
    if not all(isinstance(x, Value) for x in tree.flatten(outputs)):
        raise QuantizationError(f"Model '{model.name}' has an output that does not depend on its input. Leave it out.")
    masks = [tracer.masks.of.get(x) for x in tree.flatten(outputs)]
    names = _output_names(model, outputs)
    graph = Graph(inputs, outputs, names, tracer.nodes, structure, output_masks=masks)
    graph = graph if weights is None else settled(graph, weights.symbols, follow_weights)
    exact = lambda node: not any(map(is_real, tree.flatten(node.outputs)))
    return without_repeats(without_unread(graph, exact), exact).with_paths(tracer.outputs)


def _model_inputs(model, shapes=None):
    if not isinstance(model, keras.Model):
        raise QuantizationError(f"A `keras.Model` is needed. Received: {type(model).__name__}")
    # Its inputs are known where a model follows its graph, and where a `call` of its own stands before that.
    functional = model if isinstance(model, Functional) else _as_functional(model)
    if functional is not None:
        structure = functional._inputs_struct
        # The InputLayer's name: that of the tensor is numbered anew in each process.
        inputs = [Value(tuple(x.shape), _kind(x), x._keras_history.operation.name) for x in functional.inputs]
    else:
        structure, inputs = _built_inputs(model, shapes)
    for place, value in enumerate(inputs):
        _check_kind(value)
        if isinstance(shapes, list) and len(shapes) == len(inputs):
            value.shape = (value.shape[0], *shapes[place])
        if any(size is None for size in value.shape[1:]):
            raise QuantizationError(
                f"Input '{value.name}' has a dynamic dimension besides the batch, and a quantized model has one size. Pass "
                "`calibration_data` of that size to `quantize`, or the size itself as `input_shape`, such as "
                f"{tuple(32 if size is None else size for size in value.shape[1:])}. Received: shape {value.shape}"
            )
    return inputs, tree.map_structure(lambda _: 0, structure)


def _kind(tensor):
    special = [kind for kind in ("sparse", "ragged") if getattr(tensor, kind, False)]
    return special[0] if special else tensor.dtype


def _check_kind(value):
    if value.dtype in ("string", "sparse", "ragged") or value.dtype.startswith("complex"):
        raise QuantizationError(
            f"Input '{value.name}' holds {value.dtype} values; the device takes dense tensors of numbers. Do what turns it "
            f"into one in the data pipeline, and begin the model behind it. Received: {value.dtype}"
        )


def _built_inputs(model, given):
    """Inputs of a subclassed model, from the shapes that it was built with, or those `given`."""
    shapes = (model.get_build_config() or {}) if model.built else {}
    shapes = shapes.get("input_shape") or shapes.get("shapes_dict")
    if not shapes and model.built and given is not None:
        batched = lambda shape: (None, *shape)
        if isinstance(given, dict):
            shapes = {name: batched(shape) for name, shape in given.items()}
        else:
            shapes = [batched(s) for s in given] if isinstance(given[0], (list, tuple)) else batched(given)
    if not shapes and model.built:
        raise QuantizationError(
            f"Keras noted no input shape of model '{model.name}', which has a `build` of its own. Pass `calibration_data` "
            "to `quantize`, or the shape without batch as `input_shape`."
        )
    if not shapes:
        raise QuantizationError(
            f"Model '{model.name}' has no built input. Call it once on a batch, or `build` it, before quantizing."
        )
    if isinstance(shapes, dict):
        structure = {name: 0 for name in shapes}
        named = sorted(shapes.items())
    else:
        several = isinstance(shapes[0], (list, tuple))
        named = [(f"input_{i}", s) for i, s in enumerate(shapes)] if several else [("input", shapes)]
        structure = [0] * len(named) if several else 0
    return structure, [Value((None, *shape[1:]), "float32", name) for name, shape in named]


def _as_functional(operation):
    if isinstance(operation, keras.Sequential):
        operation = operation._functional
    follows_graph = isinstance(operation, Functional) and type(operation).call is Functional.call
    return operation if follows_graph else None


def _output_names(model, outputs):
    if isinstance(outputs, dict):
        return sorted(outputs)
    functional = _as_functional(model)
    names = functional.output_names if functional is not None else [v.name for v in tree.flatten(outputs)]
    unique = []
    for name in names:
        unique.append(name if name not in unique else f"{name}_{names[: len(unique)].count(name)}")
    return unique


class _Tracer:
    def __init__(self, keep_float, size=None, sized_inputs=None, weights=None):
        self.keeps_float = keep_float if callable(keep_float) else lambda path: keep_float
        self.size = size  # of the batch, where the model's own is fixed
        self.sized_inputs, self.weights = sized_inputs, weights
        self.nodes = []
        self.outputs, self.bare = {}, {}
        self.counts = collections.defaultdict(counts_anew)  # of operations by name, for each layer that is looked into
        self.source = None
        self.masks = Masks()

    def visit(self, operation, args, kwargs, prefix, training=None):
        """The output `Value`s of one call, after recording the leaves that it amounts to.

        `training` is the flag that the layers around this one were called with.
        """
        given = tree.flatten((args, kwargs))
        if not any(isinstance(x, Value) for x in given) and not isinstance(operation, KernelCall):
            followed = any(map(is_expression, given))
            return self._of_weights(operation, args, kwargs, prefix) if followed else independent(operation, args, kwargs)
        if type(operation) is keras.layers.Identity and tree.is_nested(args[0]):
            return args[0]
        if isinstance(operation, WithMask):
            return args[0][0]
        training, kwargs = _training_flag(operation, kwargs, training), without_flag(operation, kwargs)
        outputs = self._visit_with_masks(operation, args, kwargs, prefix, training)
        if isinstance(outputs, Value):
            self.outputs.setdefault(prefix + operation.name, outputs)
        return outputs

    def _of_weights(self, operation, args, kwargs, prefix):
        """What is computed from weights alone: an expression, or, where Keras has no symbols for it, its numbers."""
        try:
            if isinstance(operation, keras.layers.Layer):
                return self.open(operation, args, kwargs, f"{prefix}{operation.name}/", False)
            with symbolic_spelling():
                return operation(*args, **kwargs)
        except Exception:
            numbers = lambda x: numbers_of(of_one_sample(x)) if is_expression(x) else x
            return independent(operation, *tree.map_structure(numbers, (args, kwargs)))

    def _visit_with_masks(self, operation, args, kwargs, prefix, training):
        if not takes_masks(operation):
            return self._visit(operation, args, kwargs, prefix, training)
        kwargs = self.masks.arguments(operation, args, kwargs)
        previous = self.masks.previous(args, kwargs)
        outputs = self._visit(operation, args, kwargs, prefix, training)
        self._pass_masks(operation, args, kwargs, outputs, previous, prefix)
        return outputs

    def _pass_masks(self, layer, args, kwargs, outputs, previous, prefix):
        """Give a layer's outputs the masks that its `compute_mask` makes, unless its `call` gave them others."""
        flat = [x for x in tree.flatten(outputs) if isinstance(x, Value)]
        makes = previous is not None or not getattr(layer.compute_mask, "_is_default", False)
        if isinstance(layer, keras.Model) or not makes or all(x in self.masks.of for x in flat):
            return
        values = [x for x in tree.flatten((args, kwargs, previous)) if isinstance(x, Value)]
        symbols = {x: _symbol(x) for x in values}
        fill = lambda x: symbols[x] if isinstance(x, Value) else x
        try:
            made = computed_masks(layer, *tree.map_structure(fill, (args, kwargs, previous)))
        except Exception as error:
            raise untraceable(layer, prefix + layer.name, error) from error
        masks = self._follow(list(symbols.values()), tree.flatten(made), list(symbols), f"{prefix}{layer.name}/", None)
        for value, mask in zip(flat, masks):
            if isinstance(mask, Value):
                self.masks.of.setdefault(value, mask)

    def _visit(self, operation, args, kwargs, prefix, training):
        if isinstance(operation, (ExactSum, KernelCall, DynamicWeighted, Loop, StateUpdate)) or not isinstance(
            operation, keras.layers.Layer
        ):
            return self._leaf(operation, args, kwargs, prefix, training)
        if not isinstance(operation, GridInputs) and (has_quantized_form(operation) or is_expanded(operation)):
            return self._whole(operation, args, kwargs, prefix, training)
        path, reason = f"{prefix}{operation.name}", reason_against(operation)
        keep_float = self.keeps_float(path)
        if reason is not None and not keep_float:
            raise UnsupportedLayerError(
                f"Layer '{path}' ({type(operation).__name__}) has no quantized form. {reason} {WAYS_OUT}"
            )
        if reason is not None:
            return self._leaf(operation, args, kwargs, prefix, training)
        # The parts of a quantized layer carry its name in theirs.
        inside = prefix if isinstance(operation, (GridInputs, DynamicComposite)) else f"{prefix}{operation.name}/"
        count = len(self.nodes)
        try:
            outputs = self.open(operation, args, kwargs, inside, training)
            if not _is_whole(operation, self.nodes[count:], keep_float):
                return outputs
            del self.nodes[count:]
            return self._leaf(operation, args, kwargs, prefix, training)
        except UnsupportedLayerError:
            if not keep_float or isinstance(operation, GridInputs):
                raise
            del self.nodes[count:]
            return self._leaf(operation, args, kwargs, prefix, training)

    def _whole(self, operation, args, kwargs, prefix, training):
        """A leaf, and behind it what its activation amounts to where no layer computes that."""
        function = foreign_activation(operation)
        if function is None:
            return self._leaf(operation, args, kwargs, prefix, training)
        if isinstance(operation, keras.layers.Activation):
            values = args
        else:
            bare = self.bare.setdefault(id(operation), without_activation(operation))
            values = (self._leaf(bare, args, kwargs, prefix, training),)
        name = f"{operation.name}_activation"
        calls = keras.layers.Lambda(function, name=name)
        return self.open(calls, values, {}, f"{prefix}{name}/", training)

    def open(self, operation, args, kwargs, prefix, training=None):
        """Look inside: follow the keras nodes between symbolic inputs and outputs."""
        functional = _as_functional(operation)
        if functional is not None:
            values = _flat_inputs(functional, args[0] if args else kwargs["inputs"])
            self.masks.give(values, kwargs.get("mask"))
            return self._follow(functional.inputs, functional._outputs_struct, values, prefix, training)
        # A value may be there twice: a tensor joined with itself.
        symbols = {x: _symbol(x) for x in tree.flatten((args, kwargs)) if isinstance(x, Value)}
        fill = lambda x: symbols[x] if isinstance(x, Value) else x
        self.masks.attach(symbols)
        layers = [operation, *operation._flatten_layers(include_self=False)]
        before = [(layer, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]
        source, self.source = self.source, call_site(operation) or self.source
        try:
            symbolic_args, symbolic_kwargs = tree.map_structure(fill, (args, kwargs))
            if "training" in inspect.signature(operation.call).parameters:
                # As in inference, whatever the default is; `None` lets the layers inside know their own caller's flag.
                symbolic_kwargs["training"] = training
            counts = self.counts[prefix]
            counts.update({layer.name: counts.get(layer.name, 1) for layer in operation._layers})
            with operations_numbered_by(counts):
                outputs = batch.called(operation, symbolic_args, symbolic_kwargs, self.weights)
            _check_outputs(outputs)
            masks = [mask_of(x) for x in tree.flatten(outputs)]
            expressions = [x for x in tree.flatten((args, kwargs)) if is_expression(x)]
            expressions += [] if self.weights is None else self.weights.symbols.values()
            known = [*symbols.values(), *expressions], [*symbols, *expressions]
            made, masks = self._follow(known[0], (outputs, masks), known[1], prefix, training)
            self.masks.of.update((x, m) for x, m in zip(tree.flatten(made), masks) if isinstance(m, Value))
            return made
        except QuantizationError:
            raise
        except Exception as error:
            raise untraceable(operation, prefix.rstrip("/") or operation.name, error) from error
        finally:
            self.source = source
            for layer, inbound, outbound in before:
                del layer._inbound_nodes[inbound:], layer._outbound_nodes[outbound:]

    def _follow(self, symbols, outputs, values, prefix, training):
        """Visit the keras nodes that lead from `symbols` to `outputs`."""
        known = {id(symbol): value for symbol, value in zip(symbols, values)}
        fill = lambda x: known[id(x)] if isinstance(x, keras.KerasTensor) else x
        for node in nodes_between(known, [x for x in tree.flatten(outputs) if isinstance(x, keras.KerasTensor)]):
            args, kwargs = tree.map_structure(fill, (node.arguments.args, node.arguments.kwargs))
            results = self.visit(node.operation, args, kwargs, prefix, training)
            results = [x for x in tree.flatten(results) if not is_nothing(x)]
            for symbol, value in zip(node.outputs, results):
                known[id(symbol)] = value
        return tree.map_structure(fill, outputs)

    def _leaf(self, operation, args, kwargs, prefix, training):
        path = prefix + operation.name
        if isinstance(operation, Reshape):
            operation = batch.sized(operation, args[0])
        try:
            spec = _output_spec(operation, args, kwargs)
        except QuantizationError:
            raise
        except Exception as error:
            if self.sized_inputs is not None:
                sizes = {value.name: value.shape for value in self.sized_inputs}
                raise QuantizationError(
                    f"The model cannot take inputs of this size: {explained(error)} in layer '{path}'. Pass another "
                    f"`input_shape`, or data of another size. Received: {sizes}"
                ) from error
            raise untraceable(operation, path, error) from error
        outputs = tree.map_structure(lambda x: batch.value(x, path, annotation(x), self.size), spec)
        operation = operation.layer if isinstance(operation, KernelCall) else operation
        if isinstance(operation, Loop):
            operation.traced = TracedStep(trace(operation.step, keep_float=True))
        args, kwargs = batch.constants((args, kwargs), path, self.source)
        if not isinstance(operation, keras.layers.Layer):
            operation = batch.relative(operation, spec)
        self.nodes.append(Node(operation, path, args, kwargs, outputs, training=training, source=self.source))
        return outputs


def _is_whole(operation, nodes, keep_float):
    """Whether a layer is better known by its own name than by the operations without quantized form inside it.

    So is a layer of Keras's, and, where it is to be kept, one whose weights such an operation reads.
    """
    if isinstance(operation, (GridInputs, DynamicComposite, keras.Model)):
        return False
    odd = [n for n in nodes if not isinstance(n.operation, keras.layers.Layer) and not has_quantized_form(n.operation)]
    odd = [n for n in odd if not (is_arithmetic(n.operation) or takes_weights(n.operation) or is_choice(n.operation))]
    odd = [n for n in odd if any(map(is_real, tree.flatten(n.outputs)))]
    of_keras = type(operation).__module__.startswith("keras.") and not operation._layers
    holds_weights = keep_float and any(is_weight(x) for n in odd for x in tree.flatten((n.args, n.kwargs)))
    unknown = any(not is_expanded(n.operation) for n in odd)  # such as `ops.split` is not, in cells of recurrent layers
    return holds_weights or (unknown and of_keras and not isinstance(operation, keras.layers.Lambda))


def _training_flag(operation, kwargs, outer):
    """What a call says about `training`; Keras also writes down a default of `True`, which says nothing."""
    flag = kwargs.get("training")
    if flag is None:
        return outer
    default = inspect.signature(operation.call).parameters.get("training")
    return outer if flag is True and default is not None and default.default is True else flag


def _flat_inputs(functional, inputs):
    """What a nested functional model is called with, in the order of its inputs; by name where it is called so."""
    if isinstance(inputs, dict) and not isinstance(functional._inputs_struct, dict):
        return [inputs[x.name] for x in functional.inputs]
    return tree.flatten(inputs)


def _check_outputs(outputs):
    """A tensor that was made here and now, such as positions, is a constant for the layers behind."""
    is_tensor = lambda x: is_weight(x) or isinstance(x, np.ndarray) or keras.ops.is_tensor(x)
    strange = [x for x in tree.flatten(outputs) if not is_tensor(x)]
    if len(strange) == len(tree.flatten(outputs)):
        raise TypeError(f"`call` returns something that does not depend on its input. Received: {type(strange[0]).__name__}")


def _output_spec(operation, args, kwargs):
    fill = lambda x: _symbol(x, keras.KerasTensor) if isinstance(x, Value) else x
    args, kwargs = tree.map_structure(fill, (batch.repeated(operation, args), kwargs))
    args = symbols_for_constants(args) if isinstance(operation, Merge) else args
    if isinstance(operation, keras.layers.RandomCrop):
        return args[0]  # its shape is that of training
    spec = operation.compute_output_spec(*args, **kwargs)
    if isinstance(operation, keras.layers.EinsumDense) and None in spec.shape[1:] and "..." not in operation.equation:
        # Keras leaves open what follows from the input's shape.
        operands, _, outputs = operation.equation.replace(" ", "").partition("->")
        sizes = dict(zip(operands.replace(",", ""), (*args[0].shape, *operation.kernel.shape)))
        spec = keras.KerasTensor([sizes[label] for label in outputs], dtype=spec.dtype)
    return spec


def _symbol(value, make=lambda shape, dtype: keras.Input(batch_shape=shape, dtype=dtype, name="traced")):
    symbol = make(batch.symbolic_shape(value), value.dtype)
    return symbol if value.note is None else annotate(symbol, value.note.quantizer)
