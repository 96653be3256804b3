"""Which opsets there are."""

import functools

import onnx
import onnxruntime
from onnx import TensorProto, helper

# The first with DequantizeLinear per channel.
OLDEST_OPSET = 13


@functools.cache
def newest_opset():
    """The newest opset that the installed ONNX Runtime runs QuantizeLinear of, and that `onnx` knows."""
    return next(v for v in range(onnx.defs.onnx_opset_version(), OLDEST_OPSET - 1, -1) if _runs(v))


def _runs(opset):
    ends = [
        helper.make_tensor_value_info(name, kind, [1]) for name, kind in (("x", TensorProto.FLOAT), ("y", TensorProto.UINT8))
    ]
    step = helper.make_tensor("step", TensorProto.FLOAT, [], [1.0])
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "step"], ["y"])], "probe", ends[:1], ends[1:], [step]
    )
    opsets = [helper.make_opsetid("", opset)]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # the runtime raises a class of its own for each cause
        return False
    return True
