"""ONNX Runtime's session on one file."""

import os
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime

from keras_quant.errors import ModelFileError
from keras_quant.onnx import places
from keras_quant.onnx.file import read_model

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class Runtime:
    """A loaded model, on the processor, with all optimizations.

    Integers of 8 bits are given as int8 whatever type the file holds them in, as the `.tflite` has them.

    Args:
        path: of an `.onnx` file.
        extra_outputs: integers inside that are given as outputs, too, channels last: `places.Place`s.
        threads: number of threads.
    """

    def __init__(self, path, extra_outputs=(), threads=1):
        self.model, self.path = read_model(path), path
        self._extra = {place.value: place for place in extra_outputs}
        self._grids = {name: (p.scale, p.zero_point) for name, p in (places.read(self.model)[1] | self._extra).items()}
        dims = [info.type.tensor_type.shape.dim for info in self.model.graph.input]
        self._fixed = dims[0][0].dim_value if dims and dims[0] else 0
        self.session = self._load(_options(threads))

    def _load(self, options):
        if not self._extra:
            return _session(str(self.path), options, self.path)
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        known = {info.name for info in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._extra if name not in known)
        if not _has_weights_apart(model):
            return _session(model.SerializeToString(), options, self.path)
        # Beside the file with the weights.
        with tempfile.NamedTemporaryFile(dir=pathlib.Path(self.path).parent, suffix=".onnx") as file:
            file.write(model.SerializeToString())
            file.flush()
            return _session(file.name, options, self.path)

    @property
    def inputs(self):
        return [self._detail(x) for x in self.session.get_inputs()]

    @property
    def outputs(self):
        return [self._detail(x) for x in self.session.get_outputs()]

    def _detail(self, x):
        """As LiteRT's details: name, dtype, `quantization` as scale and zero point."""
        dtype, grid = _DTYPES[x.type], self._grids.get(x.name, (0.0, 0))
        dtype = np.int8 if dtype == np.uint8 and x.name in self._grids else dtype
        return {"name": x.name, "dtype": dtype, "quantization": grid}

    def run(self, arrays):
        """Run whole batches, however many samples the file takes at once.

        Args:
            arrays: in the order of `inputs`, `(samples, ...)` each.

        Returns:
            List of arrays, in the order of `outputs`.
        """
        samples = len(arrays[0])
        size = self._fixed or samples
        chunks = []
        for start in range(0, samples, size):
            fed = [self._filled(array[start : start + size], size) for array in arrays]
            feeds = {x.name: self._given(array, x) for x, array in zip(self.session.get_inputs(), fed)}
            made = self.session.run(None, feeds)
            chunks.append([self._taken(array, x) for x, array in zip(self.session.get_outputs(), made)])
        # Rows that were merged into the batch are several for a sample.
        return [np.concatenate(parts)[: samples * len(parts[0]) // size] for parts in zip(*chunks)]

    @staticmethod
    def _filled(array, size):
        return np.concatenate([array, array[-1:].repeat(size - len(array), 0)])

    def _given(self, array, x):
        dtype = _DTYPES[x.type]
        shifted = array.astype(np.int16) + 128 if dtype == np.uint8 and x.name in self._grids else array
        return shifted.astype(dtype)

    def _taken(self, array, x):
        if array.dtype == np.uint8 and x.name in self._grids:
            array = (array.astype(np.int16) - 128).astype(np.int8)
        return np.moveaxis(array, 1, -1) if x.name in self._extra and self._extra[x.name].first else array


def optimized(path, model):
    """The graph that ONNX Runtime runs, as a `ModelProto`.

    Args:
        path: of the file.
        model: what is in it.

    Raises:
        ModelFileError: if ONNX Runtime cannot load it.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = _options(1)
        options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
        # It is not to run: its weights stay in the file.
        options.add_session_config_entry("session.disable_prepacking", "1")
        if _has_weights_apart(model):
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "data.bin")
        _session(str(path), options, path)
        return onnx.load(options.optimized_model_filepath, load_external_data=False)


def _session(content, options, path):
    """A session on a file, by its path or its bytes; `path` is for messages."""
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises a class of its own for each cause
        cause = str(error).strip().splitlines()[0]
        raise ModelFileError(f"ONNX Runtime cannot load '{path}': {cause}. Export it again.") from error


def _has_weights_apart(model):
    return any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)


def _options(threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Warnings about what optimized graphs are good for.
    options.log_severity_level = 3
    return options
