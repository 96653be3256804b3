"""What an operator of a file costs: multiply-accumulates and bytes of constants."""

import math


def operator_macs(name, inputs, output):
    """Multiply-accumulates of one run of an operator at the file's batch size; 0 for one that has no sums of products.

    | operator | of |
    |---|---|
    | CONV_2D | kernel `(filters, h, w, c)`: each output value sums `h · w · c` products |
    | DEPTHWISE_CONV_2D | kernel `(1, h, w, c)`: each output value sums `h · w` |
    | FULLY_CONNECTED | kernel `(units, inputs)`: each output value sums `inputs` |
    | TRANSPOSE_CONV | kernel `(filters, h, w, c)`: each input value goes into `filters · h · w` |
    | BATCH_MATMUL | `(..., m, k)` and `(..., k, n)`: each output value sums `k` |

    Args:
        name: of the operator.
        inputs: shapes of what it reads, in the operator's order.
        output: shape of its first output.
    """
    count = _MACS.get(name)
    return 0 if count is None else count(inputs, math.prod(output))


_MACS = {
    "CONV_2D": lambda inputs, made: made * math.prod(inputs[1][1:]),
    "DEPTHWISE_CONV_2D": lambda inputs, made: made * math.prod(inputs[1][1:3]),
    "FULLY_CONNECTED": lambda inputs, made: made * inputs[1][-1],
    "TRANSPOSE_CONV": lambda inputs, made: math.prod(inputs[2]) * math.prod(inputs[1][:3]),
    "BATCH_MATMUL": lambda inputs, made: made * inputs[0][-1],
}


def constant_bytes(model, operator, graph, counted):
    """Bytes of the constants that an operator is the first to read.

    Args:
        model: `schema.ModelT`.
        operator, graph: the operator, and its subgraph.
        counted: set of the buffers that were read before; its own are added.
    """
    buffers = {graph.tensors[int(index)].buffer for index in operator.inputs if index >= 0} - counted
    counted |= buffers
    held = (model.buffers[buffer].data for buffer in buffers)
    return sum(len(data) for data in held if data is not None)
