"""Where a file keeps the integers of each layer and output: a note in its metadata, which `verify` reads."""

import dataclasses
import json

from keras import ops

KEY = "keras_quant.integers"


@dataclasses.dataclass(frozen=True)
class Place:
    """Attributes:
    value: name of the value.
    first: whether it has its channels first.
    scale, zero_point: of its grid, in terms of int8 or int16.
    """

    value: str
    first: bool
    scale: float
    zero_point: int


def note(model, layers, ends):
    """Write the places of integers into a model, of those that it still has.

    Args:
        model: `ModelProto`.
        layers: dict from layer paths to `Tensor`s.
        ends: dict from the names of inputs and outputs to `Tensor`s.
    """
    present = {name for node in model.graph.node for name in node.output}
    present |= {info.name for info in model.graph.input}
    text = json.dumps([_places(tensors, present) for tensors in (layers, ends)], separators=(",", ":"))
    model.metadata_props.add(key=KEY, value=text)


def _places(tensors, present):
    places = {name: _place(x) for name, x in tensors.items() if x.params is not None and (True, x.first) in x.values}
    return {name: place for name, place in places.items() if place[0] in present}


def _place(x):
    return x.values[True, x.first], x.first, float(x.scale), int(ops.convert_to_numpy(x.params.zero_point))


def read(model):
    """What `note` wrote: dicts of `Place`s, of layers and of ends; empty where there is no note, as in a float file."""
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), "[{}, {}]")
    return [{name: Place(*place) for name, place in places.items()} for places in json.loads(text)]
