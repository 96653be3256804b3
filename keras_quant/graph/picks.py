"""Whether data picks rows that tables have."""

from keras import ops

from keras_quant.errors import CalibrationError
from keras_quant.graph.graph import Value
from keras_quant.graph.loops import everywhere


def picking_safely(node, args, kwargs, picked):
    """What a node is called with, its ids within the table; what they were is appended to `picked`, see `check_picked`."""
    rows = getattr(node.operation, "table_rows", None)
    if rows is None:
        return node, args, kwargs
    (ids,) = args
    picked.append(_summary(ids))
    return node, (ops.clip(ops.cast(ids, "int32"), 0, rows - 1),), kwargs


def _summary(ids):
    real = ops.cast(ids, "float32")
    return ops.min(real), ops.max(real), ops.any(real != ops.floor(real))


def check_picked(graph, picked):
    """Refuse ids that a table lacks.

    Args:
        graph: `Graph`.
        picked: for each node with a table, in order, the smallest and the largest id, and whether there are fractions.

    Raises:
        CalibrationError: with the layer, the ids and the table's size.
    """
    places = [place for place in everywhere(graph) if hasattr(place.node.operation, "table_rows")]
    for place, (low, high, fractions) in zip(places, picked):
        low, high, rows = float(low), float(high), place.node.operation.table_rows
        if bool(fractions):
            raise CalibrationError(
                f"Layer '{place.path}' picks rows of a table by whole numbers, and the data holds fractions. Look whether "
                f"ids and features are mixed up. Received: numbers from {low:g} to {high:g}, not all of them whole"
            )
        if low < 0 or high > rows - 1:
            raise CalibrationError(
                f"Layer '{place.path}' has a table of {rows} rows, so its ids run from 0 to {rows - 1}. Look for ids of "
                f"another vocabulary in the data, or make the table larger. Received: ids from {low:g} to {high:g}"
            )


def check_inputs(graph, arrays):
    """`check_picked` for the ids that are a model's inputs.

    Args:
        graph: `Graph`.
        arrays: its inputs.
    """
    given = dict(zip(graph.inputs, arrays))
    nodes = [n for n in graph.nodes if hasattr(n.operation, "table_rows")]
    direct = [n for n in nodes if isinstance(n.args[0], Value) and n.args[0] in given]
    for node in direct:
        alone = type(graph)(graph.inputs, graph.outputs, graph.output_names, [node])
        check_picked(alone, [_summary(given[node.args[0]])])
