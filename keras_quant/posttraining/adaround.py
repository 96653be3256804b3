"""Rounding that is learned: whether each weight goes up or down."""

import keras
import numpy as np
from keras import ops

from keras_quant.errors import QuantizationError
from keras_quant.posttraining.method import RoundingMethod, register

# The soft rounding is a sigmoid stretched to reach beyond both ends, so that it gets there.
LOWEST, HIGHEST = -0.1, 1.1


@register("adaround")
class AdaRound(RoundingMethod):
    """Whether each weight is rounded up or down is learned, layer by layer, so that outputs come nearest to float's.

    `ŵ = s·clip(⌊w/s⌋ + h(v), -limit, limit)` with `h(v) = clip(1.2·σ(v) - 0.1, 0, 1)`; minimized is the squared error of the
    output behind the activation, plus `λ·Σ(1 - |2h - 1|^β)`, which drives `h` to 0 or 1 as β falls. Each layer sees the
    inputs that the layers before it make with the integers that they have by then. A layer that comes out no better than
    rounding to nearest keeps that.

    Args:
        iterations: steps of Adam for each layer.
        batch_size: places of the output in one step.
        learning_rate: of Adam.
        regularization: λ, for errors as shares of those that rounding to nearest makes, and the sum as a mean.
        places: how many places of a layer's output are looked at.
        seed: of their choice.

    References:
        - [Up or Down? Adaptive Rounding for Post-Training Quantization](https://arxiv.org/abs/2004.10568)
    """

    def __init__(self, iterations=1000, batch_size=512, learning_rate=0.01, regularization=1.0, places=8192, seed=0):
        super().__init__(places, seed)
        at_least = {"iterations": (iterations, 1), "batch_size": (batch_size, 1), "regularization": (regularization, 0)}
        for name, (value, least) in at_least.items():
            if value < least:
                raise QuantizationError(f"`{name}` is at least {least}. Received: {name}={value}")
        if not learning_rate > 0:
            raise QuantizationError(f"`learning_rate` is positive. Received: learning_rate={learning_rate}")
        self.iterations, self.batch_size = iterations, batch_size
        self.learning_rate, self.regularization = learning_rate, regularization

    def round(self, layer, grid, sample):
        targets = ops.convert_to_numpy(layer.activate(ops.convert_to_tensor(sample.targets)))
        nearest = np.float32(grid.nearest * grid.scale)
        made = ops.convert_to_numpy(layer.activate(sample.call(ops.convert_to_tensor(sample.inputs), nearest)))
        rounding = SoftRounding(layer, grid, sample.call, self.iterations, self.regularization)
        error = max(float(np.mean((made - targets) ** 2)), 1e-30)
        loss = lambda y, made: ops.mean((made - y) ** 2) / error
        rounding.compile(keras.optimizers.Adam(self.learning_rate), loss, jit_compile=False)
        epochs = -(-self.iterations // -(-len(targets) // self.batch_size))
        rounding.fit(sample.inputs, targets, self.batch_size, epochs, verbose=0, shuffle=False)
        return rounding.integers()

    def get_config(self):
        own = ("iterations", "batch_size", "learning_rate", "regularization")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


class SoftRounding(keras.Model):
    """A layer whose kernel is rounded softly.

    Args:
        layer: weighted layer.
        grid: `Grid` of its kernel.
        product: `Windows.call`.
        iterations: steps of training.
        regularization: as of `AdaRound`.
    """

    def __init__(self, layer, grid, product, iterations, regularization):
        super().__init__()
        # In functions, which Keras does not track: no variable of the layer is trained.
        self._finish = lambda x, kernel: layer.activate(product(x, kernel))
        self._floor, self._scale = np.floor(grid.steps), np.float32(grid.scale)
        self._limit, self._iterations, self._regularization = grid.limit, iterations, regularization
        share = np.clip(grid.steps - self._floor, 0.01, 0.99)
        first = -np.log((HIGHEST - LOWEST) / (share - LOWEST) - 1.0)
        fixed = grid.nearest - self._floor
        self._fixed, self._free = np.float32(fixed), np.float32(grid.is_free)
        self.choice = self.add_weight(name="choice", shape=first.shape, initializer=lambda *_, **__: np.float32(first))
        self.step = self.add_weight(name="step", shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=None):
        up = self._up()
        if training:
            self.step.assign(self.step + 1.0)
            self.add_loss(self._regularization * self._pull() * ops.mean(1.0 - ops.abs(2.0 * up - 1.0) ** self._beta()))
        integers = ops.clip(np.float32(self._floor) + up, -float(self._limit), float(self._limit))
        return self._finish(x, integers * self._scale)

    def _up(self):
        up = ops.clip(ops.sigmoid(self.choice) * (HIGHEST - LOWEST) + LOWEST, 0.0, 1.0)
        return up * self._free + self._fixed * (1.0 - self._free)

    def _part(self):
        """How much of the training is over, its first fifth left out."""
        return ops.clip((self.step / self._iterations - 0.2) / 0.8, 0.0, 1.0)

    def _pull(self):
        return ops.cast(self._part() > 0, "float32")

    def _beta(self):
        return 2.0 + 9.0 * (1.0 + ops.cos(np.pi * self._part()))

    def integers(self):
        """The choice that was learned."""
        return self._floor + (np.asarray(ops.convert_to_numpy(self._up())) >= 0.5)
