"""Scales under which all processors compute the same integers."""

from keras_quant.layers.loop import Loop

# Less by millionths: far more than what float32 leaves open, far less than any range is known to.
SHARE = 2.0**-20
MOST_STEPS, MOST_ROUNDS = 24, 4


def settle_halves(graph):
    """Shrink the ranges of products, means and functions, by millionths, until none of their integers lies half way.

    Where processors or C libraries round halves otherwise (`integer.halves`), ranges are moved off them: a layer's own, or
    its input's where the format fixes its own. A grid that is tied to its own input's stays.

    Args:
        graph: `Graph` of a quantized model.
    """
    for node in graph.nodes:
        if isinstance(node.operation, Loop):
            settle_halves(node.operation.traced.graph)
    for _ in range(MOST_ROUNDS):
        # A list, so that every node is settled: a range may be the input's of a node before it, where grids are tied.
        if not any([_settle(node) for node in graph.nodes]):
            return


def _settle(node):
    """Whether the node's range had to be moved."""
    parts = getattr(node.operation, "parts_elsewhere", None)
    if parts is None or node.output.note is None or any(value.note is None for value in node.inputs):
        return False
    by_input = getattr(node.operation, "settles_input", False)
    quantizer = (node.inputs[0] if by_input else node.output).note.quantizer
    if not all(value.note.quantizer.is_set for value in (*node.inputs, node.output)):
        return False
    if not by_input and any(value.note.quantizer.shares_grid_with(quantizer) for value in node.inputs):
        return False
    params = lambda value: value.note.quantizer.params()
    before = quantizer.shared_ranges()
    for step in range(MOST_STEPS):
        if step:
            share = 1.0 - SHARE * step * (step + 1) / 2
            quantizer.set_shared_ranges([(low * share, high * share) for low, high in before])
        if not parts([params(value) for value in node.inputs], params(node.output)):
            return step > 0
    quantizer.set_shared_ranges(before)
    return False
