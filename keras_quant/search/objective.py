"""How far a model's outputs are from where they should be."""

import numpy as np
from keras import ops, tree

# A softmax on 8 bits has steps of 1/256: of less, nothing is known.
LEAST_PROBABILITY = 1.0 / 512


class Objective:
    """The loss of a batch of outputs: the model's own where it is compiled and there are labels, otherwise a distance.

    The distance from the float model's outputs is the Kullback-Leibler divergence for class scores and the mean squared
    error, as a share of the outputs' power, for anything else; mean over the outputs. Probabilities below half a step of an
    8-bit softmax count as that: the logarithm of the rest would outweigh everything.

    Args:
        model: the float model.
    """

    def __init__(self, model):
        self.model = model
        self.compiled = getattr(model, "compiled", False) and getattr(model, "loss", None) is not None

    def __call__(self, outputs, exact, labels=None, weights=None):
        """Args: `outputs` and the float model's `exact` ones, in the structure that the model returns; labels and weights.

        Returns:
            float32 scalar tensor.
        """
        # A model that ends in float16 gives that.
        outputs = tree.map_structure(lambda y: ops.cast(y, "float32"), outputs)
        if labels is not None and self.compiled:
            known = tree.map_structure(_known, outputs, exact)
            # A list of one would be taken as one output for each label.
            y, y_pred = map(_only, (labels, known)) if len(tree.flatten(known)) == 1 else (labels, known)
            return self.model.compute_loss(y=y, y_pred=y_pred, sample_weight=weights)
        pairs = list(zip(tree.flatten(outputs), tree.flatten(exact)))
        return sum(distance(y, wanted) for y, wanted in pairs) / len(pairs)

    def rise(self, outputs, exact, labels=None, weights=None):
        """By how much the loss of `outputs` is above that of the float model's; a float. Args as of a call."""
        return float(self(outputs, exact, labels, weights)) - float(self(exact, exact, labels, weights))


def distance(y, exact):
    """`divergence` of class scores, otherwise the mean squared error by the mean square."""
    if is_scores(exact):
        return divergence(y, exact)
    return ops.mean((y - exact) ** 2) / ops.maximum(ops.mean(exact**2), 1e-12)


def is_scores(y):
    """Whether an output is one vector a sample, as of class probabilities or logits."""
    return len(y.shape) == 2 and y.shape[-1] > 1


def divergence(y, exact):
    """Mean Kullback-Leibler divergence `Σ p·(log p - log q)` of class scores from the float model's.

    Scores are probabilities or logits, whichever the float model's are.
    """
    take_log = _log if are_probabilities(exact) else ops.log_softmax
    log_p, log_q = take_log(exact), take_log(y)
    return ops.mean(ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1))


def are_probabilities(y):
    """Whether vectors sum to one and hold nothing negative."""
    y = np.asarray(ops.convert_to_numpy(y))
    return y.min() >= 0.0 and np.allclose(y.sum(-1), 1.0, atol=1e-3)


def _only(structure):
    (item,) = tree.flatten(structure)
    return item


def _known(y, exact):
    return ops.maximum(y, LEAST_PROBABILITY) if is_scores(exact) and are_probabilities(exact) else y


def _log(probabilities):
    probabilities = ops.maximum(probabilities, LEAST_PROBABILITY)
    return ops.log(probabilities / ops.sum(probabilities, -1, keepdims=True))
