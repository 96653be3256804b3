"""The callback that says where a NaN in training comes from."""

import inspect

import keras
import numpy as np
from keras import ops, tree

from keras_quant import backend
from keras_quant.callbacks.parts import check_built, twin
from keras_quant.data import input_batches
from keras_quant.errors import QuantizationError
from keras_quant.graph import trace
from keras_quant.graph.graph import in_float
from keras_quant.graph.loops import inner_graph, inner_path
from keras_quant.layers import QuantLayer


class LocateNaN(keras.callbacks.Callback):
    """End training at the first step that makes the loss or a weight NaN or infinite, and name the layer where it began.

    `keras.callbacks.TerminateOnNaN` sees the loss. By then the optimizer has taken NaN into every weight, and callbacks see
    neither the batch nor the weights that were. So this one, on request and as an aid in looking for errors, puts itself
    around the training step: it draws the batch, copies the weights (and the state of random layers), takes the step as
    `fit` would have, and checks the loss and all weights. If one is not finite, it puts the weights back and goes through
    the same step by itself: the batch; each layer's output in order of execution, in training, with the noise that the step
    had; the loss; the outputs again, before their ranges clip them; the gradients, from the last layer to the first; what
    is left is the optimizer. What it names is the cause, since all before it was finite. The model keeps the weights from
    before that step.

    The step itself computes what it would without. It costs one copy of the weights in memory and time, and waits for each
    step's result.

    Raises:
        QuantizationError: in `fit`, at that step; before the first one if weights are not finite already (the first such is
            named); for a model that is not built, or trains on several devices.
    """

    def on_train_begin(self, logs=None):
        check_built(self.model, self)
        if self.model.distribute_strategy.num_replicas_in_sync > 1:
            raise QuantizationError(
                "LocateNaN follows one device. Train without a distribution strategy to look for the NaN."
            )
        self._variables = list(self.model.variables)
        self._check_weights("before the first step")
        self._copies = [twin(variable) for variable in self._variables]
        self._keep, self._restore = backend.compiled(self._copy), backend.compiled(self._copy_back)
        self._is_finite = backend.compiled(lambda loss: _finite([loss, *self._variables]))
        self._place = [0, 0]
        # Found by `fit`, and by other callbacks that have the step traced again.
        object.__setattr__(self.model, "make_train_function", self._make)
        self._make(force=True)

    def on_epoch_begin(self, epoch, logs=None):
        self._place = [epoch, 0]

    def on_train_end(self, logs=None):
        if "make_train_function" in self.model.__dict__:
            object.__delattr__(self.model, "make_train_function")
            self.model.train_function = None
        self._copies = self._keep = self._restore = self._is_finite = None

    def _make(self, force=False):
        if self.model.train_function is None or force:
            self.model.train_function = self._watched(backend.step_on_data(self.model))

    def _watched(self, step):
        def steps(iterator):
            logs = None
            for _ in range(self.model.steps_per_execution):
                try:
                    data = next(iterator)
                except StopIteration:
                    if logs is None:
                        raise
                    break
                logs = self._step(step, data)
            return logs

        return steps

    def _step(self, step, data):
        self._keep()
        logs = step(data)
        if not bool(self._is_finite(logs.get("loss", 0.0))):
            self._restore()
            model, place = self.model, "step {1} of epoch {0}".format(*self._place)
            try:
                explain(model, backend.without_optionals(data), place, self._restore)
            finally:
                self._restore()
                self.on_train_end()
        self._place[1] += 1
        return logs

    def _copy(self):
        for copy, variable in zip(self._copies, self._variables):
            copy.assign(backend.read(variable))

    def _copy_back(self):
        for copy, variable in zip(self._copies, self._variables):
            variable.assign(backend.read(copy))

    def _check_weights(self, place):
        check_weights(self.model, place)


def check_weights(model, place):
    """Name the first layer with weights that are not finite.

    Args:
        model: `keras.Model`.
        place: when, for the message.
    """
    for variable in model.weights:
        if not bool(_finite([variable])):
            raise QuantizationError(
                f"Weight '{variable.path}' of model '{model.name}' is NaN or infinite {place}. Load or set the weights anew."
            )


def explain(model, data, place, restore):
    """Go through a training step whose result is not finite, and raise an error that names the cause.

    Args:
        model: compiled `keras.Model`, with the weights from before the step.
        data: the batch, as `fit` unpacks it.
        place: when, for the message.
        restore: function that undoes what running the model changes.
    """
    check_weights(model, f"before {place}")
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    for name, values in (("labels", y), ("sample weights", sample_weight)):
        if not bool(_finite(tree.flatten(values))):
            raise QuantizationError(f"The {name} of {place} hold NaN or infinite values. Remove them first.")
    graph = _graph_of(model, x, place)
    restore()
    _check_layers(graph, x, place)
    restore()

    def loss():
        outputs = model(x, training=True) if model._call_has_training_arg else model(x)
        return model._compute_loss(x, y, outputs, sample_weight, training=True)

    variables = model.trainable_variables
    if not bool(_finite([loss()])):
        raise QuantizationError(
            f"The loss of {place} is NaN or infinite, while the outputs of all layers are finite. Check the loss function "
            "and the labels: a logarithm or a quotient of zero is the usual cause."
        )
    restore()
    _check_layers(graph, x, place, clipped=True)
    restore()
    for variable, gradient in reversed(list(zip(variables, backend.gradients_of(loss, variables)))):
        if gradient is not None and not bool(_finite([gradient])):
            raise QuantizationError(
                f"The gradient of '{variable.path}' is NaN or infinite in {place}, while the loss and all outputs are "
                "finite. Clip gradients (`clipnorm` of the optimizer), or lower the learning rate."
            )
    raise QuantizationError(
        f"The optimizer made weights NaN or infinite in {place}, while the loss and all gradients are finite. Lower the "
        "learning rate."
    )


def _graph_of(model, x, place):
    """The model's layers in order; `None` for one that cannot be traced and whose outputs are finite."""
    try:
        return trace(model, keep_float=True)
    except QuantizationError as error:
        outputs = model(x, training=True) if model._call_has_training_arg else model(x)
        if not bool(_finite(tree.flatten(outputs))):
            raise QuantizationError(
                f"The output of model '{model.name}' is NaN or infinite in {place}, from finite weights. In which layer "
                f"it begins cannot be seen, as the model cannot be traced: {error}"
            ) from error
        return None


def _check_layers(graph, x, place, clipped=False):
    """Run the model layer by layer, in training, and name the first whose output is not finite.

    A range clips infinite values, but the gradient of what made them is none; so `clipped` looks before the rounding.
    """
    if graph is None:
        return
    # Names an input that is not finite.
    (arrays,) = input_batches([(x,)], graph.inputs)
    values = dict(zip(graph.inputs, map(ops.convert_to_tensor, arrays)))

    def compute(node, args, kwargs):
        if clipped and isinstance(node.operation, QuantLayer):
            if not bool(_finite(tree.flatten(node.operation.train_arithmetic(*args)))):
                raise QuantizationError(
                    f"Layer '{node.path}' makes NaN or infinite values in {place}. Its range clips them, but gradients "
                    "through them are not finite. Keep its input away from where the function has no value."
                )
        outputs = _in_training(node, args, kwargs)
        if not bool(_finite(tree.flatten(outputs))):
            path, node = _inside(node, args)
            raise QuantizationError(
                f"The output of layer '{path}' is NaN or infinite in {place}, {_reason(node)}. Lower the learning "
                "rate, or clip gradients (`clipnorm` of the optimizer)."
            )
        return outputs

    graph.run(list(values.values()), compute)


def _inside(node, args):
    """The path and node of the layer that it began with: in a loop the first that only takes finite values.

    Args:
        node: `Node` whose output is not finite.
        args: what it is called with.
    """
    graph, found = inner_graph(node), [(node.path, node)]
    if graph is None:
        return found[0]
    steps = node.operation.float_steps(*args)
    finite_steps = [ops.all(ops.isfinite(ops.reshape(ops.cast(x, "float32"), (x.shape[0], -1))), axis=1) for x in steps]
    places = np.flatnonzero(np.all([ops.convert_to_numpy(x) for x in finite_steps], axis=0))

    def compute(inner, args, kwargs):
        outputs = in_float(inner, args, kwargs)
        if len(found) == 1 and not bool(_finite(tree.flatten(outputs))):
            found.append((inner_path(node.path, inner.path, node.operation.name), inner))
        return outputs

    graph.run([ops.take(x, places, axis=0) for x in steps], compute)
    return found[-1]


def _in_training(node, args, kwargs):
    layer = node.operation
    if isinstance(layer, QuantLayer):
        return layer.main_call(*args, training=_trains(node))
    takes_flag = isinstance(layer, keras.layers.Layer) and layer._call_has_training_arg
    return layer(*args, **{**kwargs, "training": _trains(node)} if takes_flag else kwargs)


def _trains(node):
    """Whether a node is in training where the model is: Keras writes down a default of `False`, which says nothing."""
    default = inspect.signature(node.operation.call).parameters.get("training")
    return node.training is not False or (default is not None and default.default is False)


def _reason(node):
    quantizer = getattr(node.operation, "output_quantizer", None)
    if quantizer is not None:
        params = quantizer.params()
        if not bool(_finite([params.scale, params.zero_point])):
            return "because its range is"
    own = node.operation.weights if isinstance(node.operation, keras.layers.Layer) else []
    return "while its input" + (", weights and range are finite" if quantizer is not None and own else " is finite")


def _finite(values):
    """Whether all tensors and variables of floats are finite, a bool tensor."""
    tensors = [backend.read(value) for value in values if value is not None]
    floats = [x for x in tensors if keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))]
    return ops.all(ops.stack([ops.all(ops.isfinite(x)) for x in floats])) if floats else ops.convert_to_tensor(True)
