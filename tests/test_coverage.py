"""Every public layer, operation and activation of Keras is in one place of `docs/coverage.md`, and what it says is so."""

import pathlib

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant import coverage
from keras_quant import coverage_tables as tables
from keras_quant.tflite.reasons import UNKNOWN
from tests.coverage_cases import CASES, IDS, KERAS_CANNOT_RUN, OPERATIONS, WITH_JUMPS, WORDS
from tests.helpers import functional, images, shake, ship, signal_to_noise

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "coverage.md"
ROOMS = {"layers": coverage.layers, "operations": coverage.operations, "activations": coverage.activations}


@pytest.mark.parametrize("room", ROOMS)
def test_each_is_in_one_kind(room):
    odd = [f"{entry.names[0]}: {list(entry.kinds)}" for entry in ROOMS[room]() if len(entry.kinds) != 1]
    assert not odd, "give them a form, or name them once in layers/refused.py or coverage_tables.py"
    assert all(entry.note for entry in ROOMS[room]() if entry.kinds[0] in ("float", "outside", "refused"))


def test_few_layers_are_refused():
    refused = {e.names[0] for e in coverage.layers() if e.kinds == ("refused",)} - {*tables.PENDING_LAYERS}
    assert len([name for name in refused if not name.endswith(("3D", "3DTranspose"))]) <= 8, refused


def test_tables_name_nothing_that_keras_lacks():
    declared = {n for title, table in vars(tables).items() if title.isupper() and isinstance(table, dict) for n in table}
    declared -= {*coverage.KINDS}
    public = {name for room in ROOMS.values() for entry in room() for name in entry.names}
    assert keras.version() < "3.15" or declared <= public, declared - public


def test_the_page_is_up_to_date():
    text = PAGE.read_text()
    if f"of Keras {'.'.join(keras.version().split('.')[:2])}," not in text:
        pytest.skip("the page is of another Keras")
    assert text == coverage.page(), "run: python -m keras_quant.coverage > docs/coverage.md"


@pytest.mark.parametrize("room", ["layers", "operations"])
def test_each_int8_form_has_a_case(room):
    names = [entry.names[0] for entry in ROOMS[room]() if entry.kinds[0] in ("int8", "float")]
    assert not [name for name in names if name not in CASES], "add a model of it to tests/coverage_cases.py"


def _groups(size=8):
    """Operations on words share models, as outputs; any other case has one of its own."""
    shared = [name for name in OPERATIONS if CASES[name][1] == WORDS and name not in KERAS_CANNOT_RUN]
    return [[name] for name in CASES if name not in shared] + [shared[i : i + size] for i in range(0, len(shared), size)]


def model_of(names):
    shape = CASES[names[0]][1]
    if names[0] not in IDS:
        return shake(functional(lambda x: [CASES[name][0](x) for name in names], shape)), images(24, shape)
    ids = keras.Input(shape, dtype="int32")
    model = keras.Model(ids, [CASES[name][0](ids) for name in names])
    return model, np.random.default_rng(0).integers(0, 10, (24, *shape)).astype("int32")


@pytest.mark.slow
@pytest.mark.parametrize("names", _groups(), ids=lambda names: names[0])
def test_they_ship(names, tmp_path):
    known = {e.names[0]: e.kinds for room in ("layers", "operations") for e in ROOMS[room]()}
    names = [name for name in names if known.get(name, ("absent",))[0] in ("int8", "float")]
    if not names:
        pytest.skip("no form here, or not in this Keras")
    model, x = model_of(names)
    qmodel = kq.quantize(model, "int8", x)
    report, _ = ship(qmodel, tmp_path, x)
    assert not [op for op in report.operators if op.reason.startswith(UNKNOWN)]
    if names[0] in KERAS_CANNOT_RUN:
        return
    wanted, got = (m(x, training=False) for m in (model, qmodel))
    for name, *pair in zip(names, wanted, got) if len(names) > 1 else [(names[0], wanted, got)]:
        apart = min(map(signal_to_noise, *map(keras.tree.flatten, pair)))
        assert apart >= (14 if name in WITH_JUMPS else 20), f"{name}: {apart:.1f} dB"


@pytest.mark.parametrize(
    ("build", "reason"),
    [(lambda x: keras.ops.sort(x), "orders values"), (lambda x: keras.ops.vstack([x, x]), "mixes the samples")],
)
def test_an_operation_that_is_refused_says_why(build, reason):
    with pytest.raises(kq.UnsupportedLayerError, match=f"has no quantized form. It {reason}"):
        kq.quantize(functional(build, (4, 6)))
