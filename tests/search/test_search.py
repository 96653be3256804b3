"""The search: what it measures, what it chooses, and what it says when it cannot."""

import itertools
import json
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_quant as kq
from keras_quant import backend
from keras_quant.policy import get
from keras_quant.search import Budget, BudgetError, Latencies, Search
from keras_quant.search.budget import SIZE, Limit
from keras_quant.search.cost import Cost, name, rounds_of, seam_file, seams, write_operators
from keras_quant.search.flow import Seam, Times
from keras_quant.search.objective import Objective, divergence
from keras_quant.search.sensitivity import Sensitivities
from keras_quant.search.solve import choose
from keras_quant.search.units import macs
from keras_quant.tflite import Runtime, export_in_memory
from tests.helpers import few, functional, images, shake, ship

# One process makes what all share.
pytestmark = pytest.mark.xdist_group("search")
L = keras.layers
SHAPE = (8, 8, 4)
X = images(48, SHAPE)
Y = (X.mean((1, 2)) @ np.random.default_rng(3).standard_normal((4, 5))).argmax(-1)


def network(x):
    x = L.Conv2D(32, 3, padding="same", name="stem", activation="relu")(x)
    y = L.BatchNormalization()(L.Conv2D(32, 3, padding="same", use_bias=False, name="body")(x))
    x = L.Add(name="sum")([x, L.ReLU()(y)])
    x = L.SeparableConv2D(16, 3, name="separable")(x)
    return L.Dense(5, name="logits")(L.GlobalAveragePooling2D()(x))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(5)
    model = functional(network, SHAPE)
    model.compile(keras.optimizers.Adam(0.005), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(X, Y, batch_size=16, epochs=25, verbose=0).history
    assert history["loss"][-1] < 0.8 < history["loss"][0]
    return model


@pytest.fixture(scope="module")
def search(model):
    return Search(model, (X, Y), ("w2a8", "int4", "int8", "float16"), latencies=True, verbose=0)


def test_units_are_the_layers_with_kernels_and_their_macs(search):
    assert {unit.path: unit.macs for unit in search.units} == {
        "stem": 64 * 9 * 4 * 32,
        "body": 64 * 9 * 32 * 32,
        "separable": 36 * 9 * 32 + 36 * 32 * 16,
        "logits": 16 * 5,
    }
    assert search.evaluations == 2 * 4 * 4


def test_macs_of_a_transposed_convolution():
    qmodel = kq.quantize(functional(lambda x: L.Conv2DTranspose(6, 3, strides=2)(x), SHAPE))
    (node,) = [n for n in kq.graph.trace(qmodel).nodes if hasattr(n.operation, "kernel_quantizer")]
    assert macs(node) == 64 * 4 * 9 * 6


def test_noise_is_that_of_the_layer_alone_in_its_precision(model, search):
    unit = next(unit for unit in search.units if unit.path == "body")
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    layer = other.get_layer("body")
    layer.kernel.assign(np.asarray(layer.kernel).astype("float16"))
    exact, rounded = model.predict(X, verbose=0), other.predict(X, verbose=0)
    batches = [slice(0, 32), slice(32, 48)]
    noise = np.mean([np.sum((rounded[b] - exact[b]) ** 2) / np.sum(exact[b] ** 2) for b in batches])
    # The layer's input and output are rounded to float16, too.
    assert 0.5 * noise < search.sensitivities[unit, get("float16")].noise < 20 * noise


def test_the_rise_of_the_loss_is_that_of_the_model_quantized_in_one_layer(model, search):
    """With the layer's weights and grids alone rounded, by way of the real quantized model."""
    unit = next(unit for unit in search.units if unit.path == "body")
    qmodel = kq.quantize(model, kq.PolicyMap({"body": "w2a8"}, default="float32"), X)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    batches = [slice(0, 32), slice(32, 48)]
    rise = np.mean([float(loss(Y[b], qmodel(X[b]))) - float(loss(Y[b], model(X[b]))) for b in batches])
    assert search.sensitivities[unit, get("w2a8")].loss == pytest.approx(rise, abs=0.1 * abs(rise) + 1e-3)


def test_narrower_is_more_sensitive(search):
    for unit in search.units:
        found = [search.sensitivities[unit, get(name)] for name in ("w2a8", "int4", "int8", "float16")]
        for measure in ("noise", "divergence"):
            values = [getattr(one, measure) for one in found]
            assert values == sorted(values, reverse=True) and values[0] > 0
        assert found[0].sqnr < found[2].sqnr < found[3].sqnr
        curved = [one.hessian for one in found]
        assert curved == sorted(curved, reverse=True)
    assert any(search.sensitivities[unit, get("w2a8")].hessian > 0 for unit in search.units)


def test_what_a_layer_loses_in_float_and_in_dynamic_and_wide_integers(model):
    search = Search(model, (X, Y), ("float32", "int16", "int8", "dynamic_int8"), verbose=0)
    for unit in search.units:
        found = {policy.name: search.sensitivities[unit, policy].noise for policy in search.options[unit]}
        assert found["float32"] < 1e-10 < found["int16"] < found["int8"]
    # Only Dense and plain convolutions quantize as they run; others stay float32.
    logits = next(unit for unit in search.units if unit.path == "logits")
    noise = search.sensitivities[logits, get("dynamic_int8")].noise
    assert 1e-8 < noise <= search.sensitivities[logits, get("int8")].noise


def test_hutchinson_finds_the_trace():
    keras.utils.set_random_seed(0)
    kernel, bias = (keras.Variable(np.random.normal(size=shape).astype("float32")) for shape in ((3, 2), (2,)))
    x = np.random.normal(size=(20, 3)).astype("float32")
    # Quadratic: the Hessian is 2·xᵀ·x for each column of the kernel, and 2·n for each bias.
    loss = lambda: ops.sum((ops.matmul(x, kernel) + bias) ** 2)
    traces = backend.hessian_traces(loss, [kernel, bias], probes=400, seed=1)
    assert traces[0] == pytest.approx(4 * np.sum(x**2), rel=0.1)
    assert traces[1] == pytest.approx(2 * 20 * 2, rel=0.1)


def test_divergence_is_zero_at_the_float_model_and_takes_both_kinds_of_scores():
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    other = logits + np.float32([[1, 0, 0, -1]])
    p = ops.softmax(logits)
    assert float(divergence(logits, logits)) == pytest.approx(0, abs=1e-6)
    assert float(divergence(ops.softmax(other), p)) == pytest.approx(float(divergence(other, logits)), rel=1e-3)
    assert float(divergence(other, logits)) > 0.05


def test_without_labels_the_distance_from_float_counts(model):
    objective = Objective(model)
    y = ops.convert_to_tensor(model.predict(X, verbose=0))
    assert objective.rise(y, y) == 0 and objective.rise(y + np.float32([[1, 0, 0, 0, 0]]), y) > 0
    assert objective.rise(y, y, Y) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=3), min_size=1, max_size=5))
def test_the_choice_is_the_best_there_is(table):
    """Against all choices there are; costs and scores out of the table."""
    options = {unit: list(range(len(row))) for unit, row in enumerate(table)}
    score, cost = (lambda u, o, i=i: float(table[u][o][i]) for i in (0, 1))
    totals = [
        (sum(score(u, o) for u, o in enumerate(pick)), sum(cost(u, o) for u, o in enumerate(pick)))
        for pick in itertools.product(*options.values())
    ]
    for most in (min(c for _, c in totals), np.mean([c for _, c in totals]), min(c for _, c in totals) - 1):
        found = choose(options, score, [Limit(SIZE, cost, most)])
        within = [s for s, c in totals if c <= most]
        if not within:
            assert found is None
        else:
            assert sum(cost(*item) for item in found.items()) <= most + 1e-6
            assert sum(score(*item) for item in found.items()) == pytest.approx(min(within), abs=1e-3)


class Node:
    """A layer of the fake networks below."""


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_choice_counts_a_seam_only_where_precision_changes(data):
    """Against all choices there are, in networks of four layers where each reads some of those before it."""
    units, number = [Node() for _ in range(4)], st.integers(0, 20)
    options = {unit: [get("int8"), get("dynamic_int8"), get("float16")] for unit in units}
    costs = {(u, p): Cost(0, 0, data.draw(number)) for u, own in options.items() for p in own}
    made = []
    for index, maker in enumerate(units[:-1]):
        readers = data.draw(st.sets(st.sampled_from(units[index + 1 :]), min_size=1))
        made.append(Seam(maker, tuple(readers), (index,), inside=len(readers) == 1 and data.draw(st.booleans())))
    times = Times(costs, Latencies({key: data.draw(number) for seam in made for key in seam.keys}), made)
    in_float = lambda choice, unit: choice[unit].computes_in_float
    allowed = [
        choice
        for pick in itertools.product(*options.values())
        if (choice := dict(zip(units, pick)))
        and not any(s.inside and in_float(choice, s.maker) and not in_float(choice, s.readers[0]) for s in made)
    ]
    found = choose(options, times, [], made)
    assert found in allowed and times.total(found) == pytest.approx(min(map(times.total, allowed)))
    score = lambda unit, policy: 0.0 if policy.name == "float16" else 1.0
    most = times.total(found)
    within = choose(options, score, [Limit("time", times, most)], made)
    assert times.total(within) == pytest.approx(most)


class Table(Latencies):
    """Milliseconds by a rule."""

    def __contains__(self, key):
        return True

    def __missing__(self, key):
        if key.startswith(("QUANTIZE", "DEQUANTIZE")):
            return 0.0 if " 1 " in key else 1.0
        return {"int8": 3.0, "dynamic_int8": 2.0}.get(key.split()[0], 2.0)


def sequence(x):
    for path in ("a", "b"):
        x = L.Dense(256, "gelu", name=path)(L.LayerNormalization(name=f"norm_{path}")(x))
    return L.Dense(2, name="logits")(x)


@pytest.mark.slow
def test_a_budget_of_time_has_dynamic_and_float_layers_among_its_choices():
    model = shake(functional(sequence, (6, 8)))
    x = np.random.default_rng(0).normal(size=(8, 6, 8)).astype("float32")
    search = Search(model, x, latencies=Table(x=1.0), verbose=0, measures=("noise",))
    assert [p.name for p in search.options[search.units[0]]] == ["int4", "int8", "dynamic_int8", "float16"]
    # Three layers with a kernel, two activations, two normalizations: alone, a layer in float has seams on both sides.
    assert search.uniform("int8").milliseconds == 7 * 3 and search.uniform("dynamic_int8").milliseconds == 7 * 2
    fast = search.assign(Budget(latency=0.67))
    assert fast.milliseconds == 14 and fast.policies.default.name in ("dynamic_int8", "float16", "int8")
    with pytest.raises(BudgetError, match=r"smallest time in milliseconds within reach is 14, and 10.5 was") as caught:
        search.assign(Budget(latency=0.5))
    share = float(str(caught.value).split("latency=")[1].split("`")[0])
    assert search.assign(Budget(latency=share)).milliseconds == 14
    wide = Search(model, x, ("int4", "float16"), latencies=Table(x=1.0), verbose=0, measures=("noise",))
    with pytest.raises(BudgetError, match="nearest has .* bytes and .* ms"):
        wide.assign(Budget(latency=0.67, bytes=wide.uniform("int4").bytes))


@pytest.mark.slow
def test_the_fastest_map_of_a_transformer_is_no_slower_than_any_policy_throughout(tmp_path):
    x = inputs = keras.Input((32, 64))
    y = L.LayerNormalization()(x)
    x = L.Add()([x, L.MultiHeadAttention(2, 32)(y, y)])
    x = L.Add()([x, L.Dense(64)(L.Dense(256, "gelu")(L.LayerNormalization()(x)))])
    model = shake(keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling1D()(x))))
    x = np.random.default_rng(0).normal(size=(8, 32, 64)).astype("float32")
    search = Search(model, x, ("int8", "dynamic_int8", "float16"), latencies=True, verbose=0, measures=("noise",))
    fastest = min((search.uniform(policy) for policy in search.candidates), key=lambda point: point.milliseconds)
    share = search.fastest().milliseconds / search.uniform("int8").milliseconds
    found = search.assign(Budget(latency=share))
    assert found.milliseconds <= fastest.milliseconds
    files = {point: export_in_memory(kq.quantize(model, point.policies, x), "m")[0] for point in (found, fastest)}
    assert np.median([taken[found] / taken[fastest] for taken in rounds_of(files, 15, 0.02)]) < 1.05
    ship(kq.quantize(model, found.policies, x), tmp_path, x)


def test_seams_are_operators_of_their_own_between_a_layer_and_int8_neighbours(search):
    unit = next(unit for unit in search.units if unit.path == "body")
    assert seams(unit, get("int4")) == []
    assert seams(unit, get("float16")) == ["DEQUANTIZE 8×8×32 float32", "QUANTIZE 8×8×32 float32"]
    table = search.latencies
    assert search.costs[unit, get("float16")].milliseconds == table.of(name(unit, get("float16"))) > 0
    for seam in (*seams(unit, get("float16")), *seams(unit, get("int16"))):
        runtime = Runtime(seam_file(seam))
        kinds = {str(np.dtype(end[0]["dtype"])) for end in (runtime.inputs, runtime.outputs)}
        assert kinds == {"int8", seam.split()[-1]}


@pytest.mark.slow
def test_a_choice_keeps_to_its_budget_and_beats_one_policy_for_all(model, search, tmp_path):
    narrow, wide = search.uniform("int4"), search.uniform("int8")
    for budget in (Budget(bytes=narrow.bytes), Budget(size=0.8), Budget(bytes=wide.bytes, latency=1.5)):
        point = search.assign(budget)
        most = budget.bytes or 0.8 * wide.bytes
        assert point.bytes <= most
        assert point.loss <= min((p.loss for p in (narrow, wide) if p.bytes <= most), default=np.inf)
        report, _ = ship(kq.quantize(model, point.policies, X), tmp_path, X)
        assert report.bytes == point.bytes
    assert search.assign(Budget(latency=1.0)).milliseconds <= wide.milliseconds * (1 + 1e-6)


def test_estimated_sizes_are_near_the_file(search):
    for choice in ("int4", "w2a8", "float16"):
        point = search.uniform(choice)
        (limit,) = search._limits(Budget(bytes=1))
        assert limit.sum(point.choice) == pytest.approx(point.bytes, rel=0.1)


@pytest.mark.slow
def test_a_budget_of_loss_gives_the_smallest_file_within_it(search):
    narrow, wide = search.uniform("w2a8"), search.uniform("int8")
    limits = [max(wide.loss, 0) + 1e-3, narrow.loss + 1e-3]
    points = [search.assign(Budget(loss=limit)) for limit in limits]
    assert all(point.loss <= limit for point, limit in zip(points, limits))
    assert points[1].bytes < points[0].bytes <= wide.bytes


@pytest.mark.slow
def test_a_size_out_of_reach_says_what_holds_it_up(search):
    smallest = min(search.uniform("w2a8").bytes, search.uniform("int4").bytes)
    with pytest.raises(BudgetError, match=r"smallest number of bytes within reach is \d.*What holds it up: 'body' with"):
        search.assign(Budget(bytes=smallest // 2))
    with pytest.raises(BudgetError, match="smallest time in milliseconds within reach"):
        search.assign(Budget(milliseconds=1e-9))


@pytest.mark.slow
def test_a_loss_out_of_reach_within_a_size_says_so(model):
    # Without labels the loss is the distance of the outputs, which always rises.
    search = Search(model, X, ("w2a8", "int4"), steps=1, verbose=0)
    size = int(1.02 * min(search.uniform("w2a8").bytes, search.uniform("int4").bytes))
    for loss in (1e-9, 0.9 * search.assign(Budget(bytes=size)).loss):
        with pytest.raises(BudgetError, match=r"smallest rise of the loss .*is \d|of .* together, though"):
            search.assign(Budget(bytes=size, loss=loss))


@pytest.mark.parametrize("budget", [{}, {"size": -1.0}, {"bytes": 0}, {"loss": float("nan")}, {"size": "0.6"}])
def test_a_budget_is_a_positive_number(budget):
    with pytest.raises(kq.QuantizationError, match="at least one limit, each a positive number"):
        Budget(**budget)


def test_a_layer_that_refuses_a_policy_goes_without_and_the_reason_is_kept():
    model = shake(functional(lambda x: L.Conv2DTranspose(3, 3, name="odd")(L.Conv2D(5, 3, name="conv")(x)), (5, 5, 3)))
    search = Search(model, images(8, (5, 5, 3)), ("int16", "int8"), verbose=0)
    odd = next(unit for unit in search.units if unit.path == "odd")
    assert search.options[odd] == [get("int8")]
    assert "cannot compute on int16" in search.refused[odd, get("int16")]
    with pytest.raises(BudgetError, match="cannot compute on int16"):
        search.assign(Budget(bytes=500))


def test_a_search_goes_on_where_it_was_stopped(model, tmp_path, monkeypatch):
    path, calls, figures = tmp_path / "search.json", [], Sensitivities._figures

    def counted(self, *args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return figures(self, *args)

    monkeypatch.setattr("keras_quant.search.cache.INTERVAL", 0)
    monkeypatch.setattr(Sensitivities, "_figures", counted)
    with pytest.raises(KeyboardInterrupt):
        Search(model, (X, Y), ("int4", "int8"), cache=path, verbose=0)
    first = Search(model, (X, Y), ("int4", "int8"), cache=path, verbose=0)
    assert len(calls) == 1 + first.evaluations
    again = Search(model, (X, Y), ("int4", "int8"), cache=path, verbose=0)
    assert len(calls) == 1 + first.evaluations
    values = lambda search: [search.sensitivities[u, p] for u in search.units for p in search.options[u]]
    assert values(first) == values(again)


@pytest.mark.parametrize("damage", few(["cut", "values", "shape", "other"], "values"))
@pytest.mark.slow
def test_a_damaged_cache_is_measured_anew_and_said_once(damage, model, tmp_path):
    path = tmp_path / "search.json"
    first = Search(model, (X, Y), ("int4", "int8"), cache=path, verbose=0).assign(0.9)
    content = json.loads(path.read_text())
    if damage == "values":
        section = content["sections"]["batch 0"]
        section[next(iter(section))] = ["a", None, 1.0]
    content = {"shape": {"sections": 3}, "other": {**content, "fingerprint": "x"}}.get(damage, content)
    path.write_text(path.read_text()[:-40] if damage == "cut" else json.dumps(content))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = Search(model, (X, Y), ("int4", "int8"), cache=path, verbose=0).assign(0.9)
    said = [str(w.message) for w in caught if "cache" in str(w.message)]
    assert len(said) == 1 and str(path) in said[0] and "measured anew" in said[0]
    assert again.policies == first.policies and json.loads(path.read_text())["sections"]


@pytest.mark.slow
def test_latencies_measured_elsewhere_decide(model, search, tmp_path):
    path = tmp_path / "latencies.json"
    search.latencies.save(path)
    table = Latencies.load(path)
    assert table == search.latencies and all(value > 0 for value in table.values())
    slow = Latencies({key: value * (100 if key.startswith("int4 ") else 1) for key, value in table.items()})
    point = Search(model, (X, Y), ("int4", "int8"), latencies=slow, verbose=0).assign(Budget(latency=1.01))
    assert all(policy.name == "int8" for policy in point.choice.values())
    with pytest.raises(kq.QuantizationError, match="table of latencies has no entry for"):
        Search(model, (X, Y), ("int4",), latencies=Latencies({"x": 1.0}), verbose=0)
    with pytest.raises(kq.QuantizationError, match="needs times"):
        Search(model, (X, Y), ("int4", "int8"), measures=("noise",), verbose=0).assign(Budget(latency=0.9))
    path.write_text("[1")
    with pytest.raises(kq.ModelFileError, match="no table of latencies"):
        Latencies.load(path)


@pytest.mark.slow
def test_operators_are_written_for_a_device_to_be_timed_on(model, tmp_path):
    keys = write_operators(model, tmp_path / "operators", ("int4", "float16"))
    assert json.loads((tmp_path / "operators/operators.json").read_text()) == keys
    table = Latencies()
    for number, (file, key) in enumerate(keys.items()):
        assert Runtime((tmp_path / "operators" / file).read_bytes()).inputs
        table[key] = 1.0 + number
    elsewhere = Search(model, X, ("int4", "float16"), latencies=table, verbose=0)
    assert elsewhere.latencies == table and elsewhere.assign(Budget(latency=1.0)).milliseconds > 0


@pytest.mark.slow
def test_the_front_holds_nothing_that_another_point_beats(search, tmp_path):
    front = search.front(points=5)
    pairs = [(point.bytes, point.loss) for point in front.points]
    assert pairs == sorted(pairs) and [loss for _, loss in pairs] == sorted((loss for _, loss in pairs), reverse=True)
    for point in front.uniform.values():
        assert min(p.loss for p in front.points if p.bytes <= point.bytes) <= point.loss
    text = str(front)
    assert "rise of the loss" in text and "4 int8" in text
    front.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"


def test_layers_between_float_ones_are_in_float_as_well(search, tmp_path, model):
    point = search.uniform("float16")
    assert point.policies["sum"].name == "float16"
    report = kq.export(kq.quantize(model, point.policies, X), tmp_path / "m.tflite")
    assert not any(op.name in ("QUANTIZE", "ADD") and not op.is_float for op in report.operators)


@pytest.mark.slow
def test_assign_is_the_short_way(model):
    policies = kq.search.assign(model, X, 0.9, candidates=("int4", "int8"), verbose=0)
    assert isinstance(policies, kq.PolicyMap) and any(policy.name == "int4" for policy in policies.values())


@pytest.mark.slow
def test_several_inputs_and_outputs():
    a, b = keras.Input((8,), name="a"), keras.Input((6,), name="b")
    x = L.Dense(16, activation="relu", name="left")(a)
    y = L.Dense(16, name="right")(b)
    model = shake(keras.Model([a, b], [L.Dense(3, name="first")(L.Concatenate()([x, y])), L.Dense(1, name="second")(y)]))
    data = [np.random.default_rng(0).normal(size=(40, n)).astype("float32") for n in (8, 6)]
    search = Search(model, data, ("int4", "int8"), verbose=0)
    assert [unit.path for unit in search.units] == ["left", "right", "first", "second"]
    assert search.assign(Budget(size=0.97)).bytes <= 0.97 * search.uniform("int8").bytes


def test_bad_arguments(model):
    with pytest.raises(kq.QuantizationError, match="A policy is one of"):
        Search(model, X, ("int5x",), verbose=0)
    with pytest.raises(kq.QuantizationError, match="measures out of"):
        Search(model, X, ("int4",), measures=("guess",), verbose=0)
    with pytest.raises(kq.QuantizationError, match="no layer with a kernel"):
        Search(functional(lambda x: L.ReLU()(x), SHAPE), X, ("int4",), verbose=0)
    with pytest.raises(kq.CalibrationError):
        Search(model, X[..., :2], ("int4",), verbose=0)


def test_a_recurrent_layer_is_one_unit(tmp_path):
    x = images(16, (20, 5))
    model = shake(functional(lambda x: L.Dense(2, name="last")(L.LSTM(6, name="lstm")(x)), (20, 5)))
    search = Search(model, x, ("int4", "int8"), verbose=0)
    lstm, last = search.units
    assert (lstm.path, lstm.macs, last.path) == ("lstm", 20 * 24 * (5 + 6), "last")
    assert [place.path for place in lstm.places] == [
        *("lstm.gates_input", "lstm.candidate_input", "lstm.gates_recurrent", "lstm.candidate_recurrent")
    ]
    for measure in ("noise", "hessian"):
        four, eight = (getattr(search.sensitivities[lstm, get(policy)], measure) for policy in ("int4", "int8"))
        assert four > 2 * eight > 0
    point = search.uniform("int4")
    assert set(point.policies) == {"lstm", "last"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ship(kq.quantize(model, point.policies, x), tmp_path, x)


def test_a_recurrent_layer_in_time(tmp_path):
    x = images(16, (20, 5))
    model = shake(functional(lambda x: L.GRU(4)(x, initial_state=L.GRU(4, return_state=True)(x)[1]), (20, 5)))
    policies = kq.search.assign(model, x, Budget(latency=2.0), ("int8", "dynamic_int8"), verbose=0)
    ship(kq.quantize(model, policies, x), tmp_path, x)
