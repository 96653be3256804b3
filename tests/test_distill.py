"""Distillation: the loss is the papers', the student alone is trained, and it ships as ever."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_quant as kq
from tests.callbacks.models import FEW_BITS, ByHand, L, X, Y, exact, float_model, network
from tests.helpers import functional, images, shake, ship

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def headless(x):
    """Logits, no softmax."""
    return L.Dense(3, name="logits")(L.Flatten()(L.Conv2D(4, 3, activation="relu", name="conv")(x)))


def two_tasks(x):
    x = L.Flatten()(L.Conv2D(4, 3, activation="relu", name="conv")(x))
    return {"kind": L.Dense(3, activation="softmax", name="kind")(x), "size": L.Dense(2, name="size")(x)}


def pair(build=network, policy="int4", seed=2):
    teacher = shake(functional(build, (8, 8, 4)), seed)
    return teacher, kq.quantize(teacher, policy, X)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def divergence(target, student, temperature):
    return temperature**2 * np.mean(np.sum(target * (np.log(target) - np.log(student)), -1))


def loss_of(distiller, y=Y, **options):
    return float(distiller.compute_loss(X, y, distiller(X, training=False), **options))


@pytest.mark.lowest
@pytest.mark.slow
def test_it_learns_from_the_teacher_and_ships(tmp_path):
    teacher = float_model(network)
    teacher.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    teacher.fit(X, Y, epochs=4, verbose=0)
    before = teacher.get_weights()
    qmodel = kq.quantize(teacher, FEW_BITS, X)
    distiller = kq.distill(qmodel, teacher)
    distiller.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = distiller.fit(X, Y, epochs=4, verbose=0, validation_data=(X, Y)).history
    assert history["loss"][-1] < history["loss"][0]
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(np.array_equal(a, b) for a, b in zip(before, teacher.get_weights()))
    _, accuracy = distiller.evaluate(X, Y, verbose=0)
    assert accuracy == np.mean(qmodel.predict(X, verbose=0).argmax(-1) == Y)
    exact(qmodel, tmp_path)


@pytest.mark.lowest
def test_without_labels_the_student_comes_near_its_teacher():
    teacher, qmodel = pair(headless, "w2a4")
    distance = lambda: np.square(teacher.predict(X, verbose=0) - qmodel.predict(X, verbose=0)).mean()
    before = distance()
    distiller = kq.distill(qmodel, teacher)
    distiller.compile(keras.optimizers.Adam(3e-3))
    distiller.fit(X, epochs=15, verbose=0)
    assert distance() < 0.5 * before
    data = tf.data.Dataset.from_tensor_slices(X).batch(16)
    assert np.isfinite(distiller.fit(data, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_losses_are_those_of_the_papers(temperature):
    teacher, qmodel = pair(headless)
    t, s = teacher.predict(X, verbose=0), qmodel.predict(X, verbose=0)
    expected = divergence(softmax(t / temperature), softmax(s / temperature), temperature)
    distiller = kq.distill(qmodel, teacher, temperature=temperature, loss="logits")
    distiller.compile("sgd", LOGITS)
    labels = -np.mean(np.log(softmax(s))[np.arange(64), Y])
    assert loss_of(distiller, None) == pytest.approx(expected, rel=1e-4)
    assert loss_of(distiller) == pytest.approx(0.5 * expected + 0.5 * labels, rel=1e-4)
    distiller.label_weight = 0.1
    assert loss_of(distiller) == pytest.approx(0.9 * expected + 0.1 * labels, rel=1e-4)
    squares = kq.distill(qmodel, teacher)
    assert loss_of(squares, None) == pytest.approx(np.square(t - s).mean(), rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_probabilities_and_their_logits_give_one_loss(temperature):
    """A softmax is recognized, and its outputs at a temperature are those of the logits it was made of."""
    teacher, qmodel = pair()
    logits = keras.Model(teacher.input, L.Dense(3, name="classes")(teacher.layers[-2].output))
    logits.layers[-1].set_weights(teacher.layers[-1].get_weights())
    distiller = kq.distill(qmodel, teacher, temperature=temperature)
    symbols = kq.graph.trace(qmodel).run([tf.constant(X)], kq.graph.graph.in_float)
    assert distiller._kinds == ["probabilities"] and len(symbols) > 3
    probabilities = qmodel(X, training=False)
    student = np.array(probabilities._keras_logits)
    target = softmax(logits.predict(X, verbose=0) / temperature)
    expected = divergence(target, softmax(student / temperature), temperature)
    assert loss_of(distiller, None) == pytest.approx(expected, rel=1e-3)


def test_gradients_are_those_of_the_divergence():
    teacher, qmodel = pair(headless)
    distiller = kq.distill(qmodel, teacher, temperature=2.0, loss="logits", label_weight=0.0)
    target = tf.nn.softmax(teacher(X) / 2.0)
    with tf.GradientTape(persistent=True) as tape:
        outputs = distiller(X, training=True)
        ours = distiller.compute_loss(X, None, outputs)
        theirs = 4.0 * keras.losses.KLDivergence()(target, tf.nn.softmax(outputs / 2.0))
    assert all(v is w for v, w in zip(distiller.trainable_variables, qmodel.trainable_variables))
    for variable in qmodel.trainable_variables:
        a, b = tape.gradient(ours, variable), tape.gradient(theirs, variable)
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6, err_msg=variable.path)
    assert tape.gradient(ours, teacher.trainable_variables[0]) is None


@pytest.mark.slow
def test_several_tasks(tmp_path):
    teacher, qmodel = pair(two_tasks)
    said, got = teacher.predict(X, verbose=0), qmodel.predict(X, verbose=0)
    kind = divergence(said["kind"], softmax(np.array(qmodel(X, training=False)["kind"]._keras_logits)), 1.0)
    size = np.square(said["size"] - got["size"]).mean()
    distiller = kq.distill(qmodel, teacher, task_weights={"size": 0.25})
    assert distiller._kinds == ["probabilities", "regression"]
    assert loss_of(distiller, None) == pytest.approx(kind + 0.25 * size, rel=1e-3)
    losses = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    distiller.compile(keras.optimizers.Adam(1e-3), losses, metrics={"kind": ["accuracy"]})
    labels = {"kind": Y, "size": said["size"]}
    assert "kind_accuracy" in distiller.fit(X, labels, verbose=0).history
    weights = {"kind": np.ones(64), "size": np.ones(64)}
    assert np.isfinite(distiller.fit(X, labels, sample_weight=weights, verbose=0).history["loss"]).all()
    ship(qmodel, tmp_path, X[:16])
    explicit = kq.distill(qmodel, teacher, loss={"kind": "regression"}, task_weights=[1.0, 0.0])
    assert explicit._kinds == ["regression", "regression"]


@pytest.mark.slow
def test_several_teachers():
    teacher, qmodel = pair()
    other = shake(functional(network, (8, 8, 4)), 9)
    student = softmax(np.array(qmodel(X, training=False)._keras_logits))
    said = [model.predict(X, verbose=0) for model in (teacher, other)]
    for weights, shares in ((None, (0.5, 0.5)), ([3, 1], (0.75, 0.25)), ([0, 2], (0, 1))):
        distiller = kq.distill(qmodel, [teacher, other], teacher_weights=weights)
        target = sum(share * each for share, each in zip(shares, said))
        assert loss_of(distiller, None) == pytest.approx(divergence(target, student, 1.0), rel=1e-3)
    alone = kq.distill(qmodel, [teacher, other], loss="regression")
    expected = np.square(0.5 * (said[0] + said[1]) - qmodel.predict(X, verbose=0)).mean()
    assert loss_of(alone, None) == pytest.approx(expected, rel=1e-3)


def test_sample_weights_are_for_whole_maps():
    teacher, qmodel = pair(lambda x: L.Conv2D(2, 3, name="map")(x))
    weights = np.where(np.arange(64) < 32, 2.0, 0.0).astype("float32")
    squares = np.square(teacher.predict(X, verbose=0) - qmodel.predict(X, verbose=0))
    found = loss_of(kq.distill(qmodel, teacher), None, sample_weight=weights)
    assert found == pytest.approx(squares[:32].mean(), rel=1e-4)


def test_sample_weights_and_regularizers_count():
    teacher, qmodel = pair(headless)
    distiller = kq.distill(qmodel, teacher)
    weights = np.where(np.arange(64) < 32, 2.0, 0.0).astype("float32")
    halves = kq.distill(qmodel, teacher).compute_loss(X[:32], None, distiller(X[:32], training=False))
    assert loss_of(distiller, None, sample_weight=weights) == pytest.approx(float(halves), rel=1e-4)
    pact = kq.Policy("int8", "int8", output_quantizer=kq.quantizers.PACT(regularizer=keras.regularizers.L2(0.5)))
    teacher, qmodel = pair(headless, pact)
    distiller = kq.distill(qmodel, teacher)
    added = sum(float(tf.reduce_sum(loss)) for loss in qmodel.losses)
    said = np.square(teacher.predict(X, verbose=0) - qmodel.predict(X, verbose=0)).mean()
    assert added > 0 and loss_of(distiller, None) == pytest.approx(said + added, rel=1e-4)


def test_teachers_are_not_in_the_students_file(tmp_path):
    teacher, qmodel = pair()
    alone = len(qmodel.weights)
    distiller = kq.distill(qmodel, teacher)
    assert len(qmodel.weights) == len(distiller.weights) == alone
    qmodel.save(tmp_path / "student.keras")
    distiller.save(tmp_path / "both.keras")
    size = lambda name: (tmp_path / name).stat().st_size
    assert size("both.keras") > size("student.keras") + sum(
        4 * v.shape.num_elements() for v in map(tf.convert_to_tensor, teacher.weights)
    )
    loaded = keras.models.load_model(tmp_path / "student.keras")
    assert not any(layer is teacher for layer in loaded._flatten_layers())
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), qmodel.predict(X, verbose=0))


@pytest.mark.slow
@pytest.mark.lowest
def test_a_saved_distillation_goes_on(tmp_path):
    teacher, qmodel = pair(two_tasks)
    distiller = kq.distill(qmodel, [teacher, teacher], 2.0, 0.3, "auto", [1, 3], {"kind": 2.0})
    losses = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    distiller.compile(keras.optimizers.Adam(1e-3), losses)
    labels = {"kind": Y, "size": teacher.predict(X, verbose=0)["size"]}
    distiller.fit(X, labels, verbose=0)
    distiller.save(tmp_path / "both.keras")
    loaded = keras.models.load_model(tmp_path / "both.keras")
    assert loaded.get_config()["teacher_weights"] == distiller.get_config()["teacher_weights"] == [0.25, 0.75]
    wanted, got = (model.evaluate(X, labels, verbose=0, return_dict=True)["loss"] for model in (distiller, loaded))
    assert got == pytest.approx(wanted, rel=1e-6)
    assert np.isfinite(loaded.fit(X, labels, verbose=0).history["loss"]).all()
    ship(loaded.student, tmp_path, X[:16])


@pytest.mark.slow
def test_models_built_by_hand_and_callbacks(tmp_path):
    student, teacher = ByHand(), float_model()
    student(X[:1])
    distiller = kq.distill(student, teacher)
    distiller.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [
        kq.callbacks.Schedule(quantize_at=1, weight_bits={0: 8, 2: None}, freeze_statistics_at=2),
        kq.callbacks.FreezeOscillating(),
        kq.callbacks.WeightAverage(0.9),
        kq.callbacks.LocateNaN(),
        kq.callbacks.QuantizationSummary(),
    ]
    history = distiller.fit(X, Y, epochs=3, verbose=0, callbacks=callbacks, validation_data=(X, Y)).history
    assert history["loss"][-1] < history["loss"][0] and "frozen_weights" in history
    ship(student, tmp_path, X[:16])
    kq.export(distiller, tmp_path / "d.tflite")
    assert kq.verify(distiller, tmp_path / "d.tflite", X[:16], verbose=0).equal


@pytest.mark.slow
def test_a_quantized_model_can_teach_a_narrower_one(tmp_path):
    teacher, wide = pair(policy="int8")
    narrow = kq.quantize(teacher, "w2a4", X)
    distiller = kq.distill(narrow, wide)
    distiller.compile(keras.optimizers.Adam(3e-3))
    state = [np.array(v) for v in wide.variables]
    distiller.fit(X, epochs=2, verbose=0)
    assert all(np.array_equal(a, np.array(v)) for a, v in zip(state, wide.variables))
    ship(narrow, tmp_path, X[:16])


def test_teachers_that_do_not_fit_are_named_with_shapes():
    _, qmodel = pair()
    five = functional(lambda x: L.Dense(5, activation="softmax")(L.Flatten()(x)), (8, 8, 4))
    with pytest.raises(kq.QuantizationError, match=r"outputs of shapes \[\(5,\)\].*\[\(3,\)\]"):
        kq.distill(qmodel, five)
    large = functional(lambda x: L.Dense(3, activation="softmax")(L.Flatten()(x)), (9, 9, 4))
    with pytest.raises(kq.QuantizationError, match=r"inputs of shapes \[\(9, 9, 4\)\].*\[\(8, 8, 4\)\]"):
        kq.distill(qmodel, large)
    with pytest.raises(kq.QuantizationError, match=r"outputs of shapes \{'kind'"):
        kq.distill(qmodel, functional(two_tasks, (8, 8, 4)))
    with pytest.raises(kq.QuantizationError, match="Received: str"):
        kq.distill(qmodel, "teacher")
    with pytest.raises(kq.QuantizationError, match="no built input"):
        kq.distill(ByHand(), five)


def test_teachers_of_any_size_fit():
    def build(x):
        return L.Dense(3, activation="softmax")(L.GlobalAveragePooling2D()(x))

    qmodel = kq.quantize(functional(build, (8, 8, 4)), "int8", X)
    distiller = kq.distill(qmodel, functional(build, (None, None, 4)))
    assert np.isfinite(loss_of(distiller, None))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": 0.0}, "positive number"),
        ({"label_weight": 1.5}, "between 0 and 1"),
        ({"loss": "hinge"}, "one of"),
        ({"loss": {"other": "logits"}}, "names the output 'other'"),
        ({"loss": ["logits", "logits"]}, "one for each"),
        ({"teacher_weights": [1, 2]}, "each of 1 teachers"),
        ({"teacher_weights": [-1]}, "each of 1 teachers"),
        ({"task_weights": [1, 2]}, "one for each"),
    ],
)
def test_nonsense_is_refused(options, message):
    teacher, qmodel = pair(headless)
    with pytest.raises(kq.QuantizationError, match=message):
        kq.distill(qmodel, teacher, **options)


def test_one_class_has_no_softmax():
    teacher = functional(lambda x: L.Dense(1, activation="sigmoid", name="p")(L.Flatten()(x)), (8, 8, 4))
    qmodel = kq.quantize(teacher, "int8", X)
    assert kq.distill(qmodel, teacher)._kinds == ["regression"]
    with pytest.raises(kq.QuantizationError, match="has one value"):
        kq.distill(qmodel, teacher, loss="probabilities")


def test_dictionary_inputs():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    model = keras.Model(inputs, L.Dense(3, name="y")(L.Concatenate()([inputs["a"], inputs["b"]])))
    x = {"a": images(32, (4,)), "b": images(32, (4,), 3)}
    qmodel = kq.quantize(model, "int8", x)
    distiller = kq.distill(qmodel, model)
    distiller.compile("adam", "mse")
    assert np.isfinite(distiller.fit(x, np.zeros((32, 3)), verbose=0).history["loss"]).all()
