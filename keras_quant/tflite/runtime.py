"""LiteRT's interpreter on one file."""

import contextlib
import os
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_quant.errors import EmulatorError, ModelFileError


class Runtime:
    """A loaded model.

    Args:
        content: bytes of a `.tflite` file.
        path: for messages.
        threads: number of threads.
        interpreter: makes the interpreter; LiteRT's own on this machine by default.
        signature: name of the one to run, of a file that has several; by default the first.
    """

    def __init__(self, content, path="model", threads=1, interpreter=Interpreter, signature=None):
        try:
            with _quiet():
                self.interpreter = interpreter(model_content=content, num_threads=threads)
                self.interpreter.allocate_tensors()
        except EmulatorError:
            raise
        except (RuntimeError, ValueError) as error:
            cause = str(error).strip().splitlines()[0]
            raise ModelFileError(f"LiteRT cannot load '{path}': {cause}. Export it again.") from error
        self.runner = None if signature is None else self.interpreter.get_signature_runner(signature)

    @property
    def inputs(self):
        return list(self.runner.get_input_details().values()) if self.runner else self.interpreter.get_input_details()

    @property
    def outputs(self):
        return list(self.runner.get_output_details().values()) if self.runner else self.interpreter.get_output_details()

    def run(self, arrays):
        """Run whole batches, however many samples the file takes at once.

        Args:
            arrays: in the order of `inputs`, `(samples, ...)` each, of the inputs' dtype.

        Returns:
            List of arrays, in the order of `outputs`.
        """
        samples = len(arrays[0])
        size, chunks = self._fit(arrays), []
        for start in range(0, samples, size):
            given = [array[start : start + size] for array in arrays]
            missing = size - len(given[0])
            chunks.append(self._invoke([np.concatenate([array, array[-1:].repeat(missing, 0)]) for array in given]))
        # Rows that were merged into the batch are several for a sample.
        return [np.concatenate(parts)[: samples * len(parts[0]) // size] for parts in zip(*chunks)]

    def _fit(self, arrays):
        """Resize the open dimensions of the inputs to those of the arrays; returns the batch."""
        is_open = all(detail["shape_signature"][0] == -1 for detail in self.inputs)
        size = len(arrays[0]) if is_open else int(self.inputs[0]["shape"][0])
        resized = False
        for detail, array in zip(self.inputs, arrays):
            sizes = zip(detail["shape_signature"][1:], detail["shape"][1:], array.shape[1:])
            wanted = (size, *(int(new if signature == -1 else own) for signature, own, new in sizes))
            if self.runner is None and wanted != tuple(detail["shape"]):
                self.interpreter.resize_tensor_input(detail["index"], wanted)
                resized = True
        if resized:
            self.interpreter.allocate_tensors()
        return size

    def _invoke(self, arrays):
        if self.runner is not None:
            made = self.runner(**dict(zip(self.runner.get_input_details(), arrays)))
            return [made[name] for name in self.runner.get_output_details()]
        for detail, array in zip(self.inputs, arrays):
            self.interpreter.set_tensor(detail["index"], array)
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(detail["index"]) for detail in self.outputs]

    def partitions(self):
        """Which operators XNNPACK takes.

        Returns:
            List of sets of operator indices, one for each partition.
        """
        operators, delegates = self._operators()
        return [_between(operators, d["inputs"], d["outputs"]) for d in delegates]

    def unused(self):
        """Indices of operators whose results reach no output."""
        operators, _ = self._operators()
        used = _between(operators, [d["index"] for d in self.inputs], [d["index"] for d in self.outputs])
        return {d["index"] for d in operators} - used

    def _operators(self):
        details = self.interpreter._get_ops_details()
        delegates = [d for d in details if d["op_name"] == "DELEGATE"]
        return [d for d in details if d["op_name"] != "DELEGATE"], delegates


def _between(operators, inputs, outputs):
    """Indices of the operators that lead from some tensors to others."""
    maker = {int(tensor): d for d in operators for tensor in d["outputs"]}
    borders, members = {int(t) for t in inputs}, set()
    pending = [int(t) for t in outputs]
    while pending:
        tensor = pending.pop()
        operator = maker.get(tensor)
        if operator is None or operator["index"] in members or tensor in borders:
            continue
        members.add(operator["index"])
        pending.extend(int(t) for t in operator["inputs"] if t >= 0)
    return members


@contextlib.contextmanager
def _quiet():
    """Hold back what the runtime's C++ prints while it loads ("Created TensorFlow Lite XNNPACK delegate")."""
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:
        yield
        return
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def quantize_array(array, detail):
    """Real values on the grid of a file's tensor, as the runtime's own QUANTIZE does it; as they are, if it has none."""
    if detail["dtype"] == np.float32 or not detail["quantization"][0]:
        return array.astype(detail["dtype"])
    array = array.astype(np.float32)
    scale, zero_point = np.float32(detail["quantization"][0]), detail["quantization"][1]
    limits = np.iinfo(detail["dtype"])
    rounded = np.rint(array * (np.float32(1.0) / scale))
    return np.clip(rounded + zero_point, limits.min, limits.max).astype(detail["dtype"])
