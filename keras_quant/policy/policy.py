"""The precision of one layer."""

import dataclasses
import difflib
import re
from typing import Any

from keras_quant import quantizers
from keras_quant.errors import QuantizationError

NARROW = tuple(f"int{bits}" for bits in range(2, 9))
FLOATS = ("float16", "float32")
_CUSTOM = re.compile(r"w([2-8])a([2-8]|16)|dynamic_int([2-8])")


@dataclasses.dataclass(frozen=True)
class Policy:
    """How wide a layer's weights and activations are, in training and in the file.

    Named ones are in `PRESETS`; custom ones have any width from 2 to 8 bits and are called "w3a8" (weights of 3 bits,
    activations of 8) or "dynamic_int5". The file holds each in the narrowest type that the kernels take.

    Args:
        weights: "int2" to "int8", "float16" or "float32".
        activations: "int2" to "int8"; "int16"; "float16" or "float32", as the weights; "dynamic" for float activations
            that the kernel quantizes to 8 bits as it runs.
        kernel_quantizer: name, config or object, see `quantizers.get`: how scales of weights are chosen. The width is that
            of `weights`, whatever the object has.
        output_quantizer: likewise, how ranges of activations are.
        integer_only: whether the file holds integer kernels alone, as processors without floating point want it. By default
            normalizations and a softmax inside a model are float32 operators with exact results, which XNNPACK runs sooner.
    """

    weights: str = "int8"
    activations: str = "int8"
    kernel_quantizer: Any = None
    output_quantizer: Any = None
    integer_only: bool = False

    def __post_init__(self):
        if self.activations in FLOATS or self.weights in FLOATS:
            known = self.weights == self.activations
        else:
            known = self.weights in NARROW and self.activations in (*NARROW, "int16", "dynamic")
        if not known:
            raise QuantizationError(
                f"`weights` is one of {[*NARROW, *FLOATS]}; `activations` is one of {[*NARROW, 'int16', 'dynamic']}, or the "
                f"same float type as the weights. Received: weights={self.weights!r}, activations={self.activations!r}"
            )
        if self.integer_only and self.computes_in_float:
            raise QuantizationError(
                f"A policy that computes in float is not `integer_only`. Leave that out. Received: policy='{self.name}'"
            )
        for role, takes in (
            (quantizers.KERNEL, self.weights not in FLOATS),
            (quantizers.OUTPUT, not self.computes_in_float),
        ):
            self._check_quantizer(role, takes)

    def _check_quantizer(self, role, takes):
        """Refuse a quantizer that does not fit; keep an object as its config, which compares and goes to JSON."""
        given = getattr(self, role)
        if given is None:
            return
        if not takes:
            raise QuantizationError(
                f"A policy of floats takes no `{role}`. Received: {role}={given!r}, policy='{self.name}'"
            )
        quantizers.with_width(given, role, self.weight_bits if role == quantizers.KERNEL else self.output_bits)
        if not isinstance(given, str):
            object.__setattr__(self, role, quantizers.serialize(quantizers.get(given, role)))

    @property
    def name(self):
        """The shortest name of the widths; all that `get` needs, where no quantizer is given."""
        named = next((name for name, policy in PRESETS.items() if policy._widths == self._widths), None)
        if named is not None:
            return named
        if self.activations == "dynamic":
            return f"dynamic_{self.weights}"
        return f"w{self.weight_bits}a{self.activations.removeprefix('int')}"

    @property
    def config(self):
        """What `get` makes it from, and JSON holds: its name, or a dict of the arguments where a quantizer is given."""
        if self == get(self.name):
            return self.name
        return dataclasses.asdict(self)

    @property
    def _widths(self):
        return self.weights, self.activations

    def __hash__(self):
        return hash(self._widths)

    @property
    def computes_in_float(self):
        """Whether the layer takes and gives real numbers."""
        return self.activations not in (*NARROW, "int16")

    @property
    def weight_bits(self):
        """Bits of one weight."""
        return int(re.sub(r"\D", "", self.weights))

    @property
    def storage(self):
        """The integer type that the kernel's activations have, "int8" or "int16"; `None` if it computes in float."""
        return None if self.computes_in_float else "int16" if self.activations == "int16" else "int8"

    @property
    def output_bits(self):
        """Bits of one activation."""
        return int(re.sub(r"\D", "", self.activations))

    def new_kernel_quantizer(self):
        """A new quantizer of weights."""
        # With three levels, a scale that holds the largest weight makes almost all weights zero.
        plain = "lsq" if self.weight_bits == 2 else "abs_max"
        chosen = plain if self.kernel_quantizer is None else self.kernel_quantizer
        return quantizers.with_width(chosen, quantizers.KERNEL, self.weight_bits)

    def new_output_quantizer(self):
        """A new quantizer of activations."""
        if self.output_quantizer is not None:
            return quantizers.with_width(self.output_quantizer, quantizers.OUTPUT, self.output_bits)
        if self.activations == "int16":
            return quantizers.Symmetric16()
        return quantizers.MovingAverage(bits=self.output_bits)

    def __str__(self):
        own = [
            f"{role}={_name(getattr(self, role))}" for role in (quantizers.KERNEL, quantizers.OUTPUT) if getattr(self, role)
        ]
        own += ["integers only"] * self.integer_only
        return f"{self.name} ({', '.join(own)})" if own else self.name


def _name(quantizer):
    return quantizer if isinstance(quantizer, str) else quantizer["class_name"]


PRESETS = {
    "int8": Policy("int8", "int8"),
    "int4": Policy("int4", "int8"),
    "int16": Policy("int8", "int16"),
    "float32": Policy("float32", "float32"),
    "float16": Policy("float16", "float16"),
    "dynamic_int8": Policy("int8", "dynamic"),
    "dynamic_int4": Policy("int4", "dynamic"),
}


def get(identifier):
    """The policy meant by a name, a `Policy` or its `config`.

    Raises:
        QuantizationError: for an unknown name, with the nearest known one.
    """
    if isinstance(identifier, Policy):
        return identifier
    if isinstance(identifier, dict) and set(identifier) <= {field.name for field in dataclasses.fields(Policy)}:
        return Policy(**identifier)
    if isinstance(identifier, str) and identifier in PRESETS:
        return PRESETS[identifier]
    custom = _CUSTOM.fullmatch(identifier) if isinstance(identifier, str) else None
    if custom is not None:
        weights, activations, dynamic = custom.groups()
        return Policy(f"int{dynamic or weights}", "dynamic" if dynamic else f"int{activations}")
    plain = str(identifier).lower().replace("_", "").replace("-", "")
    near = [plain] if _CUSTOM.fullmatch(plain) else difflib.get_close_matches(str(identifier).lower(), PRESETS, 1, 0.0)
    raise QuantizationError(
        f"A policy is one of {list(PRESETS)}, a name such as 'w3a8', or a `Policy`. Did you mean '{near[0]}'? "
        f"Received: policy={identifier!r}"
    )
