"""What becomes of each public layer, operation and activation of Keras: read from the registries.

    python -m keras_quant.coverage > docs/coverage.md

writes the page of it.
"""

import ast
import dataclasses
import inspect
import textwrap
import types

import keras
from keras import ops

from keras_quant import coverage_tables as tables
from keras_quant.graph.constants import ARITHMETIC
from keras_quant.graph.expand import EXPANSIONS
from keras_quant.graph.literals import LITERALS
from keras_quant.graph.weights import LAYERS
from keras_quant.layers import registry
from keras_quant.layers.dropout import QuantIdentityInInference
from keras_quant.layers.functions import FUSED_ACTIVATIONS, activation_layers
from keras_quant.tflite import integers

INT8, FLOAT, NOTHING, OUTSIDE, REFUSED = "int8", "float", "nothing", "outside", "refused"
KINDS = {
    INT8: "int8: as one operator or several.",
    FLOAT: "Float by policy: computes in float by itself between int8 layers.",
    NOTHING: "Nothing at inference: acts in training, or only names a tensor.",
    OUTSIDE: "Outside the model.",
    REFUSED: "Refused.",
}
# Tables, and what stands in them is.
_LAYERS = (
    (tables.OPENED_LAYERS, INT8),
    (tables.NAMING_LAYERS, NOTHING),
    (tables.OUTSIDE_LAYERS, OUTSIDE),
    (tables.PENDING_LAYERS, REFUSED),
)
_OPERATIONS = (
    (tables.OPENED_OPERATIONS, INT8),
    (tables.NAMING_OPERATIONS, NOTHING),
    (tables.OUTSIDE_OPERATIONS, OUTSIDE),
    (tables.PENDING_OPERATIONS, REFUSED),
)
_ACTIVATIONS = ((tables.REFUSED_ACTIVATIONS, REFUSED),)


@dataclasses.dataclass(frozen=True)
class Entry:
    """Attributes:
    names: public names of one thing, the first one that of its own.
    kinds: in which of `KINDS` the registries and tables find it; one of them.
    note: what it becomes, or why it does not.
    """

    names: tuple
    kinds: tuple
    note: str = ""


def layers():
    """An `Entry` for each class of `keras.layers`."""
    public = {name: item for name, item in vars(keras.layers).items() if inspect.isclass(item)}
    return [_layer(cls, names) for cls, names in _by_thing(public)]


def operations():
    """An `Entry` for each function of `keras.ops`."""
    public = {name: item for name, item in vars(ops).items() if inspect.isfunction(item)}
    for room, module in vars(ops).items():
        if isinstance(module, types.ModuleType):
            own = {f"{room}.{name}": item for name, item in vars(module).items() if inspect.isfunction(item)}
            public |= own
    return [_operation(function, names) for function, names in _by_thing(public)]


def activations():
    """An `Entry` for each function of `keras.activations`."""
    names = {n: f for n, f in vars(keras.activations).items() if inspect.isfunction(f)}
    for helper in ("deserialize", "get", "serialize"):
        names.pop(helper, None)
    known = activation_layers()
    found = []
    for function, aliases in _by_thing(names):
        if function in FUSED_ACTIVATIONS:
            kinds, note = [INT8], "part of the kernel before it"
        else:
            kinds, note = ([INT8], known[function]) if function in known else ([], "")
        found.append(Entry(aliases, *_declared(_ACTIVATIONS, aliases, kinds, note)))
    return found


def _by_thing(public):
    """Pairs of a thing and its public names, each thing once; names without a dot first."""
    things = {}
    for name in sorted(public, key=lambda name: ("." in name, name)):
        if not name.startswith("_"):
            things.setdefault(public[name], []).append(name)
    own = lambda thing: lambda name: (name.count("."), name != thing.__name__, name)
    return sorted(((thing, tuple(sorted(names, key=own(thing)))) for thing, names in things.items()), key=lambda p: p[1][0])


def _layer(cls, names):
    kinds, note = [], ""
    quantized = registry._QUANTIZED.get(cls)
    if quantized is not None:
        nothing = issubclass(quantized, QuantIdentityInInference)
        kinds, note = [NOTHING if nothing else INT8], f"`{quantized.__name__}`"
    elif cls in EXPANSIONS:
        kinds, note = [INT8], "other layers and operations"
    if cls in registry._IN_FLOAT:
        kinds, note = [*kinds, FLOAT], registry._IN_FLOAT[cls][1]
    for table, kind in ((registry._OUTSIDE, OUTSIDE), (registry._REFUSED, REFUSED)):
        reason = next((table[base] for base in cls.__mro__ if base in table), None)
        if reason is not None and quantized is None:
            kinds, note = [*kinds, kind], reason
    return Entry(names, *_declared(_LAYERS, names, kinds, note))


def _operation(function, names):
    classes = _classes_of(function)
    made = [_made_of(cls) for cls in classes]
    kinds, note = ([INT8], next(filter(None, made))) if any(made) else ([], "")
    reason = next((registry._REFUSED[cls] for cls in classes if cls in registry._REFUSED), None)
    if reason is not None:
        kinds, note = [*kinds, REFUSED], reason
    return Entry(names, *_declared(_OPERATIONS, names, kinds, note))


def _made_of(cls):
    """What an operation's class becomes, or `None`."""
    if cls in registry._OPERATIONS or cls in ARITHMETIC:
        return "a layer of its own"
    if cls in LAYERS:
        return "the layer that holds its weights"
    if cls in EXPANSIONS or cls in LITERALS:
        return "other operations"
    # On bits there are rules for booleans alone, on which Keras with TensorFlow has none of these operations.
    known = integers.computes(cls) and not cls.__name__.startswith("Bitwise")
    return "integers and booleans, as they are" if known else None


def _declared(declarations, names, kinds, note):
    """`kinds` and `note` with what tables say about one of the names."""
    for table, kind in declarations:
        reason = next((table[name] for name in names if name in table), None)
        kinds, note = (kinds, note) if reason is None else ([*kinds, kind], reason)
    return tuple(kinds), note


def _classes_of(function):
    """The classes of `keras.Operation` that a function of `keras.ops` calls on symbolic tensors, read from its source."""
    module = inspect.getmodule(function)
    calls = [n for n in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))) if isinstance(n, ast.Call)]
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    classes = [getattr(module, name, None) for name in dict.fromkeys(names)]
    return [cls for cls in classes if inspect.isclass(cls) and issubclass(cls, keras.Operation)]


def page():
    """The page, Markdown."""
    rooms = {"Layers": ("keras.layers", layers()), "Operations": ("keras.ops", operations())}
    rooms["Activations"] = ("keras.activations", activations())
    counts = [["", *KINDS]]
    for title, (_, entries) in rooms.items():
        counts.append([title, *(str(sum(e.kinds == (kind,) for e in entries)) for kind in KINDS)])
    text = [tables.INTRODUCTION.format(version=".".join(keras.version().split(".")[:2])), _table(counts)]
    text += [f"- **{kind}**: {meaning}" for kind, meaning in tables.MEANINGS.items()]
    for title, (room, entries) in rooms.items():
        text.append(f"\n## {title}: `{room}`\n")
        text += [line for kind in KINDS for line in _section(kind, [e for e in entries if e.kinds == (kind,)])]
    return "\n".join(text).strip() + "\n"


def _section(kind, entries):
    """The entries of one kind, those with the same note in one row."""
    if not entries:
        return []
    rows = {}
    for entry in entries:
        rows.setdefault(entry.note if kind in (FLOAT, OUTSIDE, REFUSED) else "", []).append(entry)
    lines = [f"### {KINDS[kind]}\n"]
    for note, same in rows.items():
        lines.append(", ".join(map(_named, same)) + (f": {note}" if note else ".") + "\n")
    return lines


def _named(entry):
    first, *others = (f"`{name}`" for name in entry.names if name.count(".") == entry.names[0].count("."))
    return first + (f" ({', '.join(others)})" if others else "")


def _table(rows):
    line = lambda cells: f"| {' | '.join(cells)} |"
    return "\n".join([line(rows[0]), line(["---"] * len(rows[0])), *map(line, rows[1:]), ""])


if __name__ == "__main__":
    print(page(), end="")
