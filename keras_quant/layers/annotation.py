"""What a quantized layer tells the next one about the tensor it hands over.

The note travels on the tensor itself, as Keras's masks do, so it reaches the next layer in Functional, subclassed and
traced models alike. A tensor that any other operation made carries none.
"""

import dataclasses
from typing import Any

from keras_quant.integer import Quantized

_ATTRIBUTE = "_keras_quant"


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Attributes:
    quantizer: the quantizer whose grid the values lie on.
    quantized: the exact integers, in inference; `None` in training and on symbolic tensors.
    quotient: in training, if the range is learned: the tensor divided by the quantizer's unit, and that unit, for a layer
        that multiplies by it in a place that costs less; see `ActivationQuantizer.unit`. `None` otherwise.
    """

    quantizer: Any
    quantized: Quantized | None = None
    quotient: tuple | None = None


def annotate(tensor, quantizer, quantized=None, quotient=None):
    """Attach a note to `tensor` and return it."""
    setattr(tensor, _ATTRIBUTE, Annotation(quantizer, quantized, quotient))
    return tensor


def annotation(tensor):
    """The tensor's note, or `None`."""
    return getattr(tensor, _ATTRIBUTE, None)


def without_unit(tensor):
    """The tensor divided by its quantizer's unit, and that unit; the tensor itself and `None` where it has no `quotient`."""
    return getattr(annotation(tensor), "quotient", None) or (tensor, None)
