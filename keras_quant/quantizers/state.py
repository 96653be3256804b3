"""The range of a recurrent layer's state, which is real numbers."""

from keras import ops

from keras_quant import backend
from keras_quant.quantizers.activation import WIDEST, ActivationQuantizer
from keras_quant.quantizers.registry import register


@register("state_range")
class StateRange(ActivationQuantizer):
    """How far a state reaches from zero: the largest absolute value of calibration, a moving average in training.

    Args:
        momentum: float in [0, 1).
    """

    tieable = False

    def __init__(self, momentum=0.9, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        options = {"shape": (), "initializer": "zeros", "trainable": False, "dtype": "float32", "aggregation": "mean"}
        self.reach = self.add_weight(name="reach", **options)
        self.built = True

    def range(self):
        reach = backend.read(self.reach)
        return -reach, reach

    @property
    def observes(self):
        return self.trainable and self.range_phase != "frozen"

    def take(self, summary):
        most = ops.maximum(*summary)
        _, most = backend.extremes_of_replicas(-most, most)
        reach = backend.read(self.reach)
        moved = ops.where(reach > 0, reach + (1.0 - self.momentum) * (most - reach), most)
        self.reach.assign(ops.where(most < WIDEST, moved, reach))

    def set_range(self, low, high):
        self.reach.assign(max(-float(low), float(high), 1e-6))

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}
