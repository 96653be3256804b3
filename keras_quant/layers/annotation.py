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
    """

    quantizer: Any
    quantized: Quantized | None = None


def annotate(tensor, quantizer, quantized=None):
    """Attach a note to `tensor` and return it."""
    setattr(tensor, _ATTRIBUTE, Annotation(quantizer, quantized))
    return tensor


def annotation(tensor):
    """The tensor's note, or `None`."""
    return getattr(tensor, _ATTRIBUTE, None)
