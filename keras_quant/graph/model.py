"""What `quantize` returns: a Functional model that still knows its layers by the float model's names."""

import types
import warnings

import keras
from keras import ops, tree
from keras.src.models.functional import Functional

from keras_quant import backend
from keras_quant.layers.derived import sharing_objects
from keras_quant.layers.loop import Loop


class TracedOnce:
    """Mixin of a `keras.Model` that makes the variables of optimizer and metrics before the first step is traced.

    Keras makes them in that trace, and TensorFlow then traces the step once more, now without. Where Keras makes them
    before, as under a strategy, nothing is left to do.
    """

    def make_train_function(self, force=False):
        before = self.train_function
        super().make_train_function(force)
        if self.train_function is not before:
            self.train_function = self._once_built(self.train_function, trains=True)

    def make_test_function(self, force=False):
        before = self.test_function
        super().make_test_function(force)
        if self.test_function is not before:
            self.test_function = self._once_built(self.test_function)

    def _once_built(self, step, trains=False):
        def call(batches):
            if trains and self.optimizer is not None and not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
            if self._compile_metrics is not None and not self._compile_metrics.built:
                self._build_metrics(backend.labels_to_come(batches))
            return step(batches)

        return call

    def _build_metrics(self, labels):
        if labels is not None and None not in tree.flatten(labels):
            self._compile_metrics.build(labels, self.outputs_of_step)

    @property
    def outputs_of_step(self):
        """Symbolic outputs, in the structure that metrics take them in."""
        return self._outputs_struct


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantizedModel(TracedOnce, Functional):
    """A Functional model of quantized layers, some of which several layers of the float model joined.

    Attributes:
        joined: dict from paths of the float model to `(name, whole)`: the layer that computes what stood there, and whether
            its output is that layer's, rather than what an activation behind it makes of it. A clone has none.
        origin: JSON text that says how `quantize` made it of the float model; empty where something else did.
    """

    joined = types.MappingProxyType({})
    origin = ""

    def get_layer(self, name=None, index=None):
        """As `keras.Model.get_layer`, by a path such as "encoder/relu", too, and by that of a layer which joined another.

        Layers inside of a recurrent one have its name before theirs: "lstm/gates".
        """
        names, dotted = {layer.name for layer in self.layers}, str(name).replace("/", ".")
        own = next((n for n in (name, dotted) if n in names), None)
        for loop in self.layers if own is None else ():
            if isinstance(loop, Loop) and dotted in {layer.name for layer in loop.step.layers}:
                return loop.step.get_layer(dotted)
        target, whole = self.joined.get(name, (name, True)) if own is None else (own, True)
        if not whole:
            warnings.warn(
                f"'{name}' joined layer '{target}' with what follows it, an activation for instance, which the kernel does "
                "as well: `output` is what they make together. Name the last of them.",
                stacklevel=2,
            )
        return super().get_layer(target, index)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras reduces a whole batch at a time, which only strategies of one process can.
        if iterator is not None and backend.is_multi_worker(self):
            iterator, data_batch = None, backend.share_of_batch(self, iterator)
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def train_step(self, data):
        return self._to_be_reduced(super().train_step(data))

    def test_step(self, data):
        return self._to_be_reduced(super().test_step(data))

    def _to_be_reduced(self, logs):
        """Scalars with an axis, along which Keras takes the mean of several workers."""
        return tree.map_structure(lambda x: ops.reshape(x, (1,)), logs) if backend.is_multi_worker(self) else logs

    def get_config(self):
        joined = {path: list(entry) for path, entry in self.joined.items()}
        with sharing_objects():
            config = super().get_config()
        return {**config, "joined": joined, "origin": self.origin}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        joined, origin = config.pop("joined", {}), config.pop("origin", "")
        with sharing_objects():
            model = super().from_config(config, custom_objects=custom_objects)
        model.joined, model.origin = {path: tuple(entry) for path, entry in joined.items()}, origin
        return model


def joined_layers(graph, tensors):
    """`QuantizedModel.joined`.

    Args:
        graph: fused `Graph` of the float model.
        tensors: dict from its `Value`s to tensors of the quantized model.
    """
    joined = {}
    for path, values in graph.paths.items():
        made = next((value for value in values if value in tensors), None)
        if made is None:
            continue
        name, whole = tensors[made]._keras_history.operation.name, made is values[0]
        if name != path:
            joined[path] = (name, whole or name == path.replace("/", "."))
    return joined
