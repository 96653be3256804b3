"""Rounding to a grid in training, with gradients written by hand."""

import tensorflow as tf

from keras_quant.backend.arrays import clip, compiles_with_xla, constant
from keras_quant.backend.columns import is_large, sum_over
from keras_quant.backend.gradient import custom_gradient, registered_gradient, takes_steps

# Below the first step above zero of any grid.
SMALLEST = 1e-30


def fake_quant(x, low, high, bits=8, narrow=False, inside=None, clips_gradient=True):
    """Quantize and dequantize onto the levels of `bits` bits over `[low, high]`; clipped straight-through gradient.

    One pass forward, one backward. With 8 bits `low` and `high` may be any range that holds zero, otherwise they must be
    nudged already, so that zero is a level; `low` is the number 0.0 where nothing lies below zero.

    With 8 bits the gradient is told from the result, which the next operation keeps anyway, so that nobody keeps `x`: what
    is rounded to an end counts as outside, half a step of 255. A range that is not nudged is off by half a step at most, so
    that the same bounds tell the ends of the grid; `inside` are those bounds, `inner_ends`, where they are known. Without
    `clips_gradient` it is the straight-through gradient as it is, which keeps nothing.
    """
    if not clips_gradient:
        return _passing(x, low, high, bits, narrow)
    inside = inner_ends(low, high, bits) if inside is None else inside

    @custom_gradient
    def forward(x):
        y = _on_levels(x, low, high, bits, narrow)
        told_by = y if bits == 8 else x
        return y, lambda upstream: _inside(upstream, told_by, *inside)

    return forward(x)


def inner_ends(low, high, bits):
    """Between which values a gradient passes: of what is rounded to 8 bits, of what is to be rounded to fewer or more."""
    if bits != 8:
        return low, high
    if isinstance(low, float):
        return SMALLEST, high * constant(1.0 - 0.5 / 255.0)
    half = (high - low) * constant(0.5 / 255.0)
    return low + half, high - half


def learned_fake_quant(x, low, high, learned_low, learned_high, share, bits, narrow, from_rounding):
    """`fake_quant` with gradients for the range, too.

    With `s = (high - low) / levels`: `∂/∂high` is 1 above, 0 below, `(x̂ - x) / (high - low)` inside; `∂/∂low` is 0 above, 1
    below, minus the same inside. Where `low = Qn·s` and `high = Qp·s`, the chain rule makes of them LSQ's gradient of the
    step.

    Args:
        x: float32 tensor.
        low, high: ends of the grid.
        learned_low, learned_high: what takes the gradients; their values may be off by the nudge.
        share: what gradients of the range are multiplied by.
        bits, narrow: as in `fake_quant`.
        from_rounding: whether the rounding inside the range counts.
    """

    @custom_gradient
    def forward(x, _low, _high):
        y = _on_levels(x, low, high, bits, narrow)

        def backward(upstream):
            inside, below, above = tf.raw_ops.FakeQuantWithMinMaxVarsGradient(
                gradients=upstream, inputs=x, min=low, max=high, num_bits=bits, narrow_range=narrow
            )
            rounding = tf.reduce_sum(inside * (y - x)) / (high - low) if from_rounding else constant(0.0)
            return _after(rounding, inside), (below - rounding) * share, (above + rounding) * share

        return y, backward

    return forward(x, learned_low, learned_high)


def unit(reach, factor):
    """1, for a tensor to be multiplied by that is proportional to `reach` (see `times_unit`).

    With `f(reach · q) = f(reach · unit · q)`, `∂L/∂reach = ∂L/∂unit / reach`; here `factor` times that.
    """

    @custom_gradient
    def forward(reach):
        return tf.identity(constant(1.0)), lambda upstream: upstream * factor / reach

    return forward(reach)


def times_unit(x, unit=None, per=None):
    """`x · unit / per`, of units that are 1: `x`. Their gradients: `⟨u, x⟩` and `-⟨u, x⟩`, with `u` that of `x`."""
    if unit is None and per is None:
        return x

    @custom_gradient
    def forward(x, *_units):
        def backward(upstream):
            total = tf.reduce_sum(upstream * x)
            return _after(total, upstream), *([] if unit is None else [total]), *([] if per is None else [-total])

        return tf.identity(x), backward

    return forward(x, *(u for u in (unit, per) if u is not None))


def weight_fake_quant(kernel, scale, axes, steps, inverse, integers, held, limit, slope, share):
    """`integers * held`, with gradients for the weights and for a scale that is trained.

    Args:
        kernel: float32 weights.
        scale: what takes the scale's gradient, one a channel or one in all; `None` for none.
        axes: axes of the kernel that one channel spans.
        steps: `kernel * inverse`.
        inverse: `1 / held`.
        integers: the rounded `steps`, clipped to `±limit`.
        held: the scale in use.
        limit: float, the largest integer, where weights may lie beyond it; otherwise `None`.
        slope: gradient of the weights inside, or `None` for 1.
        share: what the scale's gradient is multiplied by.
    """

    def within(upstream):
        if limit is None:
            return upstream
        if not is_large(kernel):
            return _inside(upstream, steps, -limit, limit)
        # Divided once more instead of kept; after `upstream`, or the optimizer of graphs would keep the first quotient.
        with tf.control_dependencies([upstream]):
            return _inside(upstream, kernel * inverse, -limit, limit)

    def weights_gradient(inside):
        return inside if slope is None else inside * slope

    if scale is None:

        @custom_gradient
        def fixed(_kernel):
            return integers * held, lambda upstream: weights_gradient(within(upstream))

        return fixed(kernel)

    @custom_gradient
    def learned(_kernel, scale):
        values = integers * held

        def backward(upstream):
            # `integers - kernel / held` inside and `±limit` outside, where that is what `integers` are: from two inner
            # products. Of `values`, as the next operation keeps them anyway.
            outer = sum_over(upstream * values, axes)
            inside = within(_after(outer, upstream))
            inner = sum_over(inside * kernel, axes)
            of_scale = (outer - inner) * (inverse if inverse.shape == outer.shape else tf.reshape(inverse, outer.shape))
            of_scale = of_scale if scale.shape.rank else tf.reduce_sum(of_scale)
            return weights_gradient(_after(inner, inside)), of_scale * share

        return values, backward

    return learned(kernel, scale)


def constant_fake_quant(x, low, high):
    """`fake_quant` with Python floats as the range, which compilers read off the graph."""
    return tf.quantization.fake_quant_with_min_max_args(x, low, high)


def straight_through(values, gradient_of):
    """`values` going forward, the identity on `gradient_of` going back."""

    @custom_gradient
    def forward(x):
        return tf.stop_gradient(values), lambda upstream: upstream

    return forward(gradient_of)


def only_gradient(x):
    """Zeros going forward, the gradient unchanged going back."""
    return x - tf.stop_gradient(x)


def scale_gradient(x, factor):
    """`x` going forward, `factor` times the gradient going back."""

    @custom_gradient
    def forward(x):
        return tf.identity(x), lambda upstream: upstream * tf.cast(factor, x.dtype)

    return forward(x)


def _after(total, x):
    """`x` once `total` is there: the sum may wait otherwise, and keep the tensors that it reads; small ones may stay."""
    if not is_large(x):
        return x
    with tf.control_dependencies([total]):
        return tf.identity(x)


def _on_levels(x, low, high, bits, narrow):
    if bits <= 8:
        return tf.quantization.fake_quant_with_min_max_vars(x, constant(low), high, num_bits=bits, narrow_range=narrow)
    # The operation above adds the lower end to a product, which float32 rounds by some of the 16 bits' steps.
    scale = (high - low) / (2.0**bits - (2.0 if narrow else 1.0))
    return tf.math.rint(clip(x, low, high) * (1.0 / scale)) * scale


def _passing(x, low, high, bits, narrow):
    if bits <= 8 and takes_steps():
        with registered_gradient("FakeQuantWithMinMaxVars", _PASSING):
            return _on_levels(x, low, high, bits, narrow)
    return custom_gradient(lambda x: (_on_levels(x, low, high, bits, narrow), lambda upstream: upstream))(x)


_PASSING = "KerasQuantPassing"


@tf.RegisterGradient(_PASSING)
def _gradient_of_passing(_operation, upstream):
    return upstream, None, None


def _inside(upstream, x, low, high):
    if compiles_with_xla():
        return tf.where((x >= low) & (x <= high), upstream, 0.0)
    # The same in one pass; XLA, which makes one of the above, has no kernel for it.
    ends = {"input_min": constant(low), "input_max": constant(high)}
    return tf.raw_ops.QuantizeAndDequantizeV4Grad(gradients=upstream, input=x, **ends)[0]
