"""What post-training methods have in common."""

import dataclasses
from typing import Any

from keras_quant.errors import QuantizationError
from keras_quant.posttraining import windows
from keras_quant.posttraining.rounding import Grid
from keras_quant.posttraining.walk import Reference, is_weighted, walk
from keras_quant.quantizers.weight import UniformWeightQuantizer
from keras_quant.registry import Registry

METHODS = Registry("A post-training method", lambda made: isinstance(made, Method))
register, get = METHODS.register, METHODS.get


@dataclasses.dataclass
class Task:
    """What a method works on.

    Attributes:
        graph: `Graph` of the quantized model.
        batches: list of lists of input arrays.
        calibrate: function without arguments that sets the model's ranges anew.
        reference: `Reference`: the weights that methods want to come close to.
        progress: function that is called with each layer's path when it is done.
    """

    graph: Any
    batches: list
    calibrate: Any
    reference: Reference
    progress: Any = lambda path: None


@dataclasses.dataclass(frozen=True)
class Change:
    """What a method did to a layer.

    Attributes:
        before, after: share of the noise in the power of the layer's output, on the inputs that it has in inference.
        note: why nothing was changed, or empty.
    """

    before: float
    after: float
    note: str = ""


class Method:
    """A post-training method."""

    # Whether the float model computes the same afterwards with other weights, which are what later methods want.
    keeps_function = False

    @property
    def name(self):
        """What it is called in reports."""
        return METHODS.name_of(type(self))

    def apply(self, task):
        """Change the model.

        Args:
            task: `Task`.

        Returns:
            Dict from paths of layers to `Change`.
        """
        raise NotImplementedError

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class LayerMethod(Method):
    """A method that changes layers one after the other, each on what those before it make. A subclass gives `change`."""

    def takes(self, layer):
        """Whether the method is for such a layer."""
        return is_weighted(layer)

    def change(self, place):
        """Assign to the layer's variables.

        Args:
            place: `Place`.

        Returns:
            Why nothing can be done, or an empty string.
        """
        raise NotImplementedError

    def apply(self, task):
        changes = {}

        def visit(place):
            if not self.takes(place.layer):
                return
            before = place.noise()
            note = self.change(place)
            changes[place.path] = Change(before, before if note else place.noise(), note)
            task.progress(place.path)

        walk(task.graph, task.batches, task.reference, visit)
        return changes


class RoundingMethod(LayerMethod):
    """A layer method that chooses each integer of the kernel. A subclass gives `round`.

    The result is kept where the layer's output comes nearer to float's than by rounding to nearest.

    Args:
        places: how many places of a layer's output are looked at.
        seed: of their choice.
    """

    def __init__(self, places=8192, seed=0):
        if places < 1:
            raise QuantizationError(f"`places` is at least 1. Received: places={places}")
        self.places, self.seed = places, seed

    def round(self, layer, grid, sample):
        """The integers.

        Args:
            layer: weighted layer.
            grid: `Grid` of its kernel.
            sample: `Windows` of it.

        Returns:
            Array of the kernel's shape.
        """
        raise NotImplementedError

    def change(self, place):
        layer, before = place.layer, place.noise()
        if not isinstance(layer.kernel_quantizer, UniformWeightQuantizer):
            return "weights on a codebook are not rounded"
        grid = Grid(layer)
        if before == 0 or grid.holds_kernel:
            return "the weights lie on the grid already"
        grid.set(self.round(layer, grid, windows.sample(layer, place.inputs, place.targets, self.places, self.seed)))
        if place.noise() < before:
            return ""
        layer.kernel.assign(grid.kernel)
        return "rounding to nearest is as good"

    def get_config(self):
        return {"places": self.places, "seed": self.seed}
