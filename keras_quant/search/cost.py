"""What each layer costs in each precision: bytes in the file, MACs × bits, time on a runtime.

Bytes and time are those of a file that holds the layer alone: weights as the file stores them, and all operators that the
precision takes. Layers with the same operators are measured once. A layer whose tensors are not int8 has the bytes of the
seams to int8 neighbours on top; two such layers in a row have fewer, so that is an upper bound. The time of seams depends on
both sides of a tensor: see `flow`. What a choice takes in truth is the time of its whole file, see `Stopwatch`.
"""

import contextlib
import dataclasses
import json
import pathlib
import time
import warnings

import keras
import numpy as np
from keras import tree

from keras_quant import policy as policies
from keras_quant.errors import ModelFileError, QuantizationError
from keras_quant.graph import trace
from keras_quant.graph.kinds import is_real
from keras_quant.graph.sizes import at_size
from keras_quant.quantize import fused_graph, quantize
from keras_quant.search.flow import Flow, activations_apart
from keras_quant.search.units import alone, key_of, units_of
from keras_quant.tflite import export_in_memory
from keras_quant.tflite.file import write_atomically
from keras_quant.tflite.runtime import Runtime
from keras_quant.tflite.writer import TensorType, Writer

INT8, FLOAT32 = policies.get("int8"), policies.get("float32")
# Candidates of a search that is timed: all that may be the fastest somewhere, or much more precise for little time.
TIMED = ("int4", "int8", "dynamic_int8", "float16")
# What an operator between two precisions and its tensor take in a file.
SEAM_BYTES = 150
# Rounds of timing, and the seconds that one operator is repeated for in each.
ROUNDS, ROUND_SECONDS = 7, 0.004
# Operators that are loaded and timed in turn.
TOGETHER = 32
# Rounds in which whole files are timed, and the seconds of each.
FILE_ROUNDS, FILE_SECONDS = 15, 0.02
# The smallest file: what a call takes before any operator runs.
NOTHING = "QUANTIZE 1 float32"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one layer costs in one policy.

    Attributes:
        bytes: of a file with the layer alone.
        bops: MACs × bits of a weight × bits of an activation, for one sample.
        milliseconds: of one call, one thread, without what any call takes; `None` where it was not measured.
    """

    bytes: int
    bops: int
    milliseconds: float | None = None


class Latencies(dict):
    """Milliseconds by operator, measured somewhere: a dict from `name(unit, policy)` to floats, kept as JSON."""

    def of(self, key):
        """Milliseconds of an operator inside a file, where it shares the call."""
        return max(self[key] - self.get(NOTHING, 0.0), 0.0)

    def save(self, path):
        """Write the table, atomically."""
        write_atomically(path, json.dumps(self, indent=1).encode())

    @classmethod
    def load(cls, path):
        """The table that `save` wrote, on whatever machine.

        Raises:
            ModelFileError: if the file is no such table.
        """
        try:
            table = json.loads(pathlib.Path(path).read_bytes())
            return cls({str(key): float(value) for key, value in table.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelFileError(
                f"'{path}' is no table of latencies ({error}). Write one with `search.latencies.save(path)`."
            ) from error


def name(unit, policy):
    """What a table knows a layer in a policy by."""
    return f"{key_of(policy)} {unit.signature}"


class Costs:
    """Finds out what layers cost, and which policies they take.

    Args:
        units: list of `Unit`s.
        candidates: list of `Policy`s.
        latencies: `Latencies` measured elsewhere; `True` to measure here; `None` for none.
        cache: `Cache`.
        flow: `Flow`, whose layers and seams are timed as well, or `None`.

    Attributes:
        refused: dict from `(unit, policy)` to the reason, for what a layer cannot be computed in.
        latencies: `Latencies`, of what is known.
    """

    def __init__(self, units, candidates, latencies, cache, flow=None):
        self.wanted = [(unit, policy) for unit in units for policy in dict.fromkeys((*candidates, INT8))]
        self.between, self.seams = _between(flow, candidates)
        self.cache = cache
        self.wants_latency = bool(latencies)
        self.latencies = latencies if isinstance(latencies, Latencies) else Latencies()
        self.given = isinstance(latencies, Latencies)
        self.refused = {}

    def measure(self, verbose=1):
        """Costs of every unit in every candidate that it takes, and in int8.

        Returns:
            Dict from `(unit, policy)` to `Cost`.
        """
        sizes, wanted = {}, self.wanted + self.between
        files = self._untimed(self.seams, seam_file) if self.wants_latency else {}
        progress = keras.utils.Progbar(len(wanted), unit_name="layer and policy") if verbose else None
        for unit, policy in wanted:
            size = self._size(unit, policy)
            if size:
                sizes[unit, policy] = size + SEAM_BYTES * len(seams(unit, policy))
                if self.wants_latency:
                    files |= self._untimed([name(unit, policy)], lambda _, own=(unit, policy): file_of(*own))
                    files |= self._untimed(wide_seams(unit, policy), seam_file)
            if progress is not None:
                progress.add(1)
        self._time(files)
        return {key: self._cost(*key, size) for key, size in sizes.items()}

    def _cost(self, unit, policy, size):
        bits = {"int16": 16, "float16": 16, "float32": 32, "dynamic": 8}
        activation = bits.get(policy.activations) or policy.output_bits
        parts = (name(unit, policy), *wide_seams(unit, policy))
        milliseconds = sum(map(self.latencies.of, parts)) if self.wants_latency else None
        return Cost(size, unit.macs * policy.weight_bits * activation, milliseconds)

    def _size(self, unit, policy):
        """Bytes of the layer's own file; 0 if it has none."""
        key = name(unit, policy)
        known = self.cache.get("bytes", key, 1)
        if known is None or known[0] == 0:
            try:
                known = [len(file_of(unit, policy))]
            except QuantizationError as error:
                known, self.refused[unit, policy] = [0], str(error)
            self.cache.put("bytes", key, known)
        return int(known[0])

    def _untimed(self, keys, make):
        """Files of what nobody has timed yet, by their names in the table."""
        return {key: make(key) for key in keys if not self._knows_time(key)}

    def _knows_time(self, key):
        if key in self.latencies:
            return True
        if self.given:
            raise QuantizationError(
                f"The table of latencies has no entry for {key}. Measure it there, or pass `latencies=True` to measure here."
            )
        found = self.cache.get("milliseconds", key, 1)
        if found is not None:
            self.latencies[key] = found[0]
        return found is not None

    def _time(self, files):
        keys = list(files)
        for begin in range(0, len(keys), TOGETHER):
            part = {key: files[key] for key in keys[begin : begin + TOGETHER]}
            for key, seconds in timed(part).items():
                self.latencies[key] = seconds * 1e3
                self.cache.put("milliseconds", key, [seconds * 1e3])


def _between(flow, candidates):
    """What is timed beside the layers with kernels: pairs of other layers and policies, and names of seams."""
    if flow is None:
        return [], []
    mixed = any(policy.computes_in_float for policy in candidates)
    pairs = [(unit, policy) for unit in flow.between for policy in ((INT8, FLOAT32) if mixed else (INT8,))]
    return pairs, list(dict.fromkeys([NOTHING, *(key for seam in flow.seams for key in seam.keys if mixed)]))


def wide_seams(unit, policy):
    """Those of `seams` that belong to the layer: int16 has kernels for so few that its neighbours are taken to be int8."""
    return seams(unit, policy) if policy.storage == "int16" else []


def seams(unit, policy):
    """Names of the operators between a unit and int8 neighbours, one a tensor: `["DEQUANTIZE 8×8×4 float32", ...]`."""
    if policy.storage == "int8":
        return []
    tensors = [("DEQUANTIZE", value) for value in filter(is_real, unit.node.inputs)]
    tensors += [("QUANTIZE", value) for value in tree.flatten(unit.node.outputs)]
    kind = "int16" if policy.storage == "int16" else "float32"
    return [f"{operator} {'×'.join(map(str, value.shape[1:]))} {kind}" for operator, value in tensors]


def seam_file(seam):
    """Bytes of a file with one operator of `seams`."""
    operator, shape, kind = seam.split()
    shape, writer = tuple(map(int, shape.split("×"))), Writer()
    make = lambda tensor: writer.activation(tensor, shape, 0.1, 0)
    other = lambda tensor: (
        writer.real(tensor, shape) if kind == "float32" else writer.activation(tensor, shape, 0.1, 0, TensorType.INT16)
    )
    x, y = (make("x"), other("y")) if operator == "DEQUANTIZE" else (other("x"), make("y"))
    if operator == "DEQUANTIZE" and kind == "float32":
        writer.operator("DEQUANTIZE", [x], y, 2, (1, 14, 0))
    else:
        writer.operator("QUANTIZE", [x], y, 2, (2, 2, 0), "QuantizeOptions")
    return writer.finish({"x": x}, {"y": y}, seam)


def write_operators(model, folder, candidates=TIMED, fallback=None, input_shape=None):
    """Write each distinct layer in each precision, and each seam, as a file of its own, to be timed on a device.

        keys = kq.search.write_operators(model, "operators")          # operators/000.tflite, ...
        times = kq.search.Latencies({key: milliseconds_of(file) for file, key in keys.items()})

    Args:
        model, candidates, fallback, input_shape: as of `Search`.
        folder: is made if need be; the names and keys go into its `operators.json`, too.

    Returns:
        Dict from file names to the keys of `Latencies`.
    """
    folder = pathlib.Path(folder)
    model, _ = at_size(model, input_shape)
    qmodel, candidates = quantize(model, INT8, fallback=fallback), list(map(policies.get, candidates))
    graph = parted_graph(model, fallback)
    units = units_of(graph, qmodel, trace(qmodel, keep_float=True))
    pairs, keys = _between(Flow(graph, units), candidates)
    files = {key: seam_file(key) for key in keys}
    for unit, policy in [*((u, p) for u in units for p in dict.fromkeys((*candidates, INT8))), *pairs]:
        with contextlib.suppress(QuantizationError):  # a policy that the layer does not take
            if name(unit, policy) not in files:
                files[name(unit, policy)] = file_of(unit, policy)
            files |= {seam: seam_file(seam) for seam in wide_seams(unit, policy)}
    folder.mkdir(parents=True, exist_ok=True)
    keys = {f"{number:03}.tflite": key for number, key in enumerate(files)}
    for file, key in keys.items():
        write_atomically(folder / file, files[key])
    write_atomically(folder / "operators.json", json.dumps(keys, indent=1).encode())
    return keys


def parted_graph(model, fallback=None):
    """The fused graph of a model, activations that have operators of their own apart from their layers.

    Args:
        model: float `keras.Model`.
        fallback: as of `quantize`.
    """
    return fused_graph(model, activations_apart(fused_graph(model, policies.PolicyMap(), fallback)), fallback)


def file_of(unit, policy):
    """Bytes of a file with a unit's layer alone.

    Raises:
        UnsupportedLayerError: if the layer cannot be computed in the policy.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        qmodel = quantize(alone(unit), policies.PolicyMap({"layer": policy}))
        for layer in qmodel._flatten_layers():
            quantizer = getattr(layer, "output_quantizer", None)
            if quantizer is not None:
                quantizer.set_range(-1.0, 1.0)
    content, _ = export_in_memory(qmodel, unit.path)
    return content


class Stopwatch:
    """Times whole files against one of them, so that they compare however busy the machine is from one to the next.

    Args:
        content: bytes of the file that the others are held against.
        milliseconds: that it takes; measured if it is `None`.
    """

    def __init__(self, content, milliseconds=None):
        self.reference = content
        self.milliseconds = milliseconds or timed({"": content}, FILE_ROUNDS, FILE_SECONDS)[""] * 1e3

    def of_all(self, files):
        """Milliseconds of one call of each file, processor time of one thread.

        Args:
            files: dict from names to bytes; they are run in turn.
        """
        rounds = rounds_of({None: self.reference, **files}, FILE_ROUNDS, FILE_SECONDS)
        return {key: self.milliseconds * float(np.median([taken[key] / taken[None] for taken in rounds])) for key in files}


def timed(files, rounds=ROUNDS, seconds=ROUND_SECONDS):
    """Seconds of one call of each file on LiteRT, one thread; medians of rounds in which all are run in turn.

    Args:
        files: dict from names to bytes.
        rounds: number of rounds.
        seconds: that each file is repeated for in a round.
    """
    taken = rounds_of(files, rounds, seconds)
    return {key: float(np.median([own[key] for own in taken])) for key in files}


def rounds_of(files, rounds, seconds):
    """For each round a dict from the names of files to the seconds of processor time of a call. Args: as of `timed`."""
    runtimes = {key: Runtime(content, "layer") for key, content in files.items()}
    calls = {}
    for key, runtime in runtimes.items():
        for detail in runtime.inputs:
            runtime.interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
        _once(runtime, 2)
        calls[key] = max(1, int(seconds / max(_once(runtime, 1), 1e-7)))
    return [{key: _once(runtime, calls[key]) for key, runtime in runtimes.items()} for _ in range(rounds)]


def _once(runtime, calls):
    begin = time.thread_time()
    for _ in range(calls):
        runtime.interpreter.invoke()
    return (time.thread_time() - begin) / calls
