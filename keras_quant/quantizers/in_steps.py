"""What the steps of a recurrent layer have in common: ranges, and what is computed of weights and ranges alone.

A quantizer that would move its range in every step would pay for a hundred updates a batch, and a loop's body is no place
for variables. Inside `steps()` it notes down its summary of the step instead; who runs the steps takes the largest of each.
Likewise integer weights and scales are the same in all steps: they are computed once, outside of the loop, and `recalled`.
"""

import contextlib

from keras import ops

from keras_quant import backend

_NOTES, _MEMORIES = [], []


@contextlib.contextmanager
def steps(quantizers):
    """Quantizers note down what they see, instead of moving their ranges.

    Args:
        quantizers: list of `ActivationQuantizer`s.

    Yields:
        `Notes`.
    """
    _NOTES.append(Notes(quantizers))
    try:
        yield _NOTES[-1]
    finally:
        _NOTES.pop()


def is_active():
    """Whether the steps of a recurrent layer are being trained."""
    return bool(_NOTES)


def note(quantizer, x):
    """Note down what a quantizer sees of a tensor, inside of `steps`; returns whether it is inside."""
    if _NOTES:
        _NOTES[-1].add(quantizer, x)
    return bool(_NOTES)


def extremes(x):
    """Minus the smallest value of a tensor and the largest one; inside of `steps` once, however many ask."""
    found = _NOTES[-1].extremes if _NOTES else {}
    if id(x) not in found:
        found[id(x)] = [-backend.smallest(x), backend.largest(x)], x
    return found[id(x)][0]


class Notes:
    """What quantizers have seen.

    Args:
        quantizers: list of those that may see something.
    """

    def __init__(self, quantizers):
        self.quantizers, self.seen = quantizers, {}
        # By the id of a tensor, which is kept so that no other one gets it.
        self.extremes = {}

    def add(self, quantizer, x):
        seen, summary = self.seen.get(id(quantizer)), quantizer.summary(x)
        self.seen[id(quantizer)] = summary if seen is None else [ops.maximum(a, b) for a, b in zip(seen, summary)]

    def numbers(self):
        """All as one vector; minus infinity for what nobody has seen."""
        flat, nothing = [], backend.constant(float("-inf"))
        for quantizer in self.quantizers:
            flat += self.seen.get(id(quantizer), [nothing] * MOST)
            flat += [nothing] * (-len(flat) % MOST)
        return ops.stack(flat) if flat else ops.zeros((0,))

    def take(self, numbers):
        """Move the ranges of those who have seen something, by the largest that each of `numbers` was."""
        for index, quantizer in enumerate(self.quantizers):
            if id(quantizer) in self.seen:
                quantizer.take([numbers[MOST * index + place] for place in range(MOST)])


# Numbers in the summary of one quantizer, at most.
MOST = 2


@contextlib.contextmanager
def recalling(memory):
    """What is `remembered` inside is taken from a dict, and put there first if it is not in it.

    Args:
        memory: dict; who runs the steps fills it outside of their loop, since what a loop's body makes stays there.
    """
    _MEMORIES.append(memory)
    try:
        yield memory
    finally:
        _MEMORIES.pop()


def remembered(owner, name, compute):
    """What `compute` makes, which is the same in all steps, of weights or ranges of `owner`."""
    if not _MEMORIES:
        return compute()
    memory, key = _MEMORIES[-1], (id(owner), name)
    if key not in memory:
        made = compute()
        if not isinstance(memory, Closed):
            memory[key] = made
        return made
    return memory[key]


class Closed(dict):
    """A memory inside of the loop, which takes no more."""
