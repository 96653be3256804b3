"""The verb `distill`: a quantized model learns from a float one, its teacher."""

import keras
from keras import ops, tree

from keras_quant.errors import QuantizationError
from keras_quant.graph import trace
from keras_quant.graph.model import TracedOnce
from keras_quant.layers.activation import QuantSoftmax

KINDS = ("logits", "probabilities", "regression")
# Below what int8 outputs of a softmax can tell apart, above what float32 loses in a logarithm.
LEAST_PROBABILITY = 1e-7


def distill(
    qmodel,
    teacher,
    temperature=1.0,
    label_weight=0.5,
    loss="auto",
    teacher_weights=None,
    task_weights=None,
):
    """A model to `compile` and `fit` that trains `qmodel` on what its teacher says, and on labels where there are any.

        distiller = kq.distill(qmodel, model)
        distiller.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        distiller.fit(x, y, epochs=2)
        kq.export(qmodel, "model.tflite")

    The loss is `label_weight · labels' loss + (1 - label_weight) · Σ_tasks w · teacher's loss`, plus what layers add, as
    regularizers do. Without labels, or without a loss in `compile`, it is the teacher's alone. Sample weights count for
    both. Metrics are those of `qmodel` on the labels, as usual.

    The teacher's loss of an output is, by its kind, with `σ` the softmax, `T` the temperature, and its mean over the batch:

    * "logits": `T² · KL(σ(t / T) ‖ σ(s / T))`;
    * "probabilities", which add up to 1 along the last axis: the same, with `log t` and `log s` for the logits, from which
      they differ by a constant only;
    * "regression": the mean squared difference. Of logits it is a good loss as well.

    With several teachers it is that of the mean of their `σ(t / T)`, or of their outputs.

    Args:
        qmodel: quantized `keras.Model`; its layers are shared, so it is trained itself.
        teacher: `keras.Model` with the same inputs and outputs, usually the float model that `qmodel` was made of; or a list
            of several. Teachers compute as in inference and are not trained.
        temperature: positive float.
        label_weight: float in [0, 1].
        loss: kind of each output: one for all, or a list in the order of the outputs, or a dict by output name. "auto" takes
            "probabilities" for an output that a softmax makes, otherwise "regression".
        teacher_weights: a weight for each teacher; by default they count alike. They are divided by their sum.
        task_weights: a weight for each output, as a list or a dict by output name; 1 by default.

    Returns:
        `Distiller`, a `keras.Model` whose outputs are those of `qmodel`.

    Raises:
        QuantizationError: for a teacher whose inputs or outputs do not fit, a number out of range, or an unknown kind.

    References:
        - [Distilling the Knowledge in a Neural Network](https://arxiv.org/abs/1503.02531)
        - [Learned Step Size Quantization](https://arxiv.org/abs/1902.08153), for its use in quantization, with temperature 1
          and equal weights
        - [Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation](
          https://arxiv.org/abs/2105.08919), for the squared difference of logits
    """
    return Distiller(qmodel, teacher, temperature, label_weight, loss, teacher_weights, task_weights)


@keras.saving.register_keras_serializable(package="keras_quant")
class Distiller(TracedOnce, keras.Model):
    """What `distill` returns. Args: as there; `student` is `qmodel`.

    Saved whole it holds the student and its teachers, so that training can be resumed; the student's own file holds the
    student alone. The teachers are no layers of it: their weights are not among its `weights`.

    Attributes:
        student: the model that is trained.
        teachers: list of the others.
    """

    def __init__(
        self,
        student,
        teacher,
        temperature=1.0,
        label_weight=0.5,
        loss="auto",
        teacher_weights=None,
        task_weights=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not temperature > 0:
            raise QuantizationError(f"`temperature` is a positive number. Received: temperature={temperature!r}")
        if not 0 <= label_weight <= 1:
            raise QuantizationError(f"`label_weight` lies between 0 and 1. Received: label_weight={label_weight!r}")
        teachers = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
        self.student = student
        # Past Keras's tracking: saved, as attributes are, but neither trained nor counted.
        object.__setattr__(self, "teachers", teachers)
        inputs, outputs = _signature(student)
        for each in teachers:
            _check_fit(student, inputs, outputs, each)
        self.temperature, self.label_weight = float(temperature), float(label_weight)
        self._shares = _shares(teacher_weights, len(teachers))
        names = _output_names(student, outputs)
        self._given_loss, self._given_task_weights = loss, task_weights
        self._kinds = _kinds(loss, names, student, teachers[0])
        _check_classes(self._kinds, names, outputs)
        self._task_weights = [float(w) for w in _by_output("task_weights", task_weights, names, 1.0)]
        self._input_shapes = tree.map_structure(lambda x: tuple(x.shape), inputs)
        self.built = True

    def call(self, inputs, training=None):
        return self.student(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of `distill`; args and returns as of `keras.Model.compute_loss`."""
        del training
        taught = self._teachers_loss(x, y_pred, sample_weight)
        if y is not None and self._compile_loss is not None:
            labels = self._compile_loss(y, y_pred, sample_weight)
            taught = self.label_weight * labels + (1.0 - self.label_weight) * taught
        # From Keras 3.6 on it counts the replicas.
        added = getattr(self, "_aggregate_additional_loss", ops.sum)
        return taught + sum(ops.cast(added(loss), taught.dtype) for loss in self.losses)

    @property
    def outputs_of_step(self):
        return _signature(self.student)[1]

    def _teachers_loss(self, x, y_pred, sample_weight):
        said = [tree.flatten(teacher(x, training=False)) for teacher in self.teachers]
        students = tree.flatten(y_pred)
        weights = _weights_of_outputs(sample_weight, y_pred, len(students))
        total = 0.0
        for index, (kind, task_weight) in enumerate(zip(self._kinds, self._task_weights)):
            targets = [ops.stop_gradient(ops.cast(outputs[index], "float32")) for outputs in said]
            total = total + task_weight * self._task_loss(kind, targets, students[index], weights[index])
        return total

    def _task_loss(self, kind, targets, student, sample_weight):
        if kind == "regression":
            target = sum(share * each for share, each in zip(self._shares, targets))
            squares = ops.mean(ops.square(target - ops.cast(student, "float32")), axis=-1)
            return _mean(squares, sample_weight)
        hot = 1.0 / self.temperature
        target = sum(share * ops.softmax(_logits(kind, each) * hot) for share, each in zip(self._shares, targets))
        target = ops.maximum(target, LEAST_PROBABILITY)
        surprise = ops.log(target) - ops.log_softmax(_logits(kind, student) * hot)
        return self.temperature**2 * _mean(ops.sum(target * surprise, axis=-1), sample_weight)

    def get_build_config(self):
        return {"input_shape": self._input_shapes}

    def build_from_config(self, config):
        """Nothing: the student is built."""

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "student": serialize(self.student),
            "teacher": [serialize(teacher) for teacher in self.teachers],
            "temperature": self.temperature,
            "label_weight": self.label_weight,
            "loss": self._given_loss,
            "teacher_weights": list(self._shares),
            "task_weights": self._given_task_weights,
        }

    @classmethod
    def from_config(cls, config):
        load = keras.saving.deserialize_keras_object
        config = {**config, "student": load(config["student"]), "teacher": [load(each) for each in config["teacher"]]}
        return cls(**config)


class _Given(keras.losses.Loss):
    """Values that are losses already, reduced as Keras reduces its own."""

    def __init__(self):
        super().__init__(name="distillation")

    def call(self, y_true, y_pred):
        return y_pred


def _mean(values, sample_weight):
    """The mean of losses `(batch, ...)`, with weights of samples or of each value."""
    if sample_weight is not None:
        missing = len(values.shape) - len(sample_weight.shape)
        sample_weight = ops.reshape(sample_weight, (*ops.shape(sample_weight), *[1] * missing))
        values, sample_weight = values * ops.cast(sample_weight, values.dtype), None
    return _Given()(values, values)


def _logits(kind, outputs):
    """Logits of an output, up to a constant of each sample."""
    if kind == "logits":
        return ops.cast(outputs, "float32")
    # In training Keras's softmax, and ours, leave the logits on the tensor: no logarithm of what rounding made zero.
    kept = getattr(outputs, "_keras_logits", None)
    return kept if kept is not None else ops.log(ops.maximum(ops.cast(outputs, "float32"), LEAST_PROBABILITY))


def _weights_of_outputs(sample_weight, y_pred, count):
    """The sample weights of each flat output; one tensor is for all."""
    flat = tree.flatten(sample_weight)
    return flat if len(flat) == count else [flat[0]] * count


def _signature(student):
    """Symbolic inputs and outputs of the student, each in its structure."""
    graph = trace(student, keep_float=True)
    symbols = [keras.KerasTensor(x.shape, x.dtype, name=x.name) for x in graph.inputs]
    return tree.pack_sequence_as(graph.input_structure, symbols), graph.outputs


def _check_fit(student, inputs, outputs, teacher):
    if not isinstance(teacher, keras.Model):
        raise QuantizationError(f"A teacher is a `keras.Model`. Received: {type(teacher).__name__}")
    given = _shapes(inputs)
    own = getattr(teacher, "inputs", None)
    wanted = given if own is None else [tuple(x.shape[1:]) for x in own]
    fits = lambda want, got: len(want) == len(got) and all(a in (None, b) for a, b in zip(want, got))
    if len(wanted) != len(given) or not all(map(fits, wanted, given)):
        raise QuantizationError(
            f"Teacher '{teacher.name}' takes inputs of shapes {wanted}, and '{student.name}' of {given}, without the batch. "
            "A teacher takes what its student does."
        )
    try:
        said = teacher.compute_output_spec(inputs)
    except Exception as error:
        raise QuantizationError(
            f"Teacher '{teacher.name}' cannot be called on the inputs of '{student.name}', of shapes {given}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    keys = lambda structure: sorted(structure) if isinstance(structure, dict) else None
    if _shapes(said) != _shapes(outputs) or keys(said) != keys(outputs):
        named = lambda structure: dict(zip(keys(structure), _shapes(structure))) if keys(structure) else _shapes(structure)
        raise QuantizationError(
            f"Teacher '{teacher.name}' gives outputs of shapes {named(said)}, and '{student.name}' {named(outputs)}, "
            "without the batch. A teacher gives what its student does."
        )


def _shapes(structure):
    return [tuple(x.shape[1:]) for x in tree.flatten(structure)]


def _output_names(student, outputs):
    if isinstance(outputs, dict):
        return sorted(outputs)
    return list(getattr(student, "output_names", None) or [f"output_{i}" for i in range(len(tree.flatten(outputs)))])


def _by_output(what, given, names, default):
    """A list in the order of the outputs, of a list, a dict by name, or one value for all."""
    if isinstance(given, dict):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise QuantizationError(f"`{what}` names the output '{unknown[0]}'; the outputs are {names}.")
        return [given.get(name, default) for name in names]
    if isinstance(given, (list, tuple)):
        if len(given) != len(names):
            raise QuantizationError(f"`{what}` is one for each of the outputs {names}. Received: {given!r}")
        return list(given)
    return [default if given is None else given] * len(names)


def _kinds(given, names, student, teacher):
    kinds = _by_output("loss", given, names, "auto")
    for kind in kinds:
        if kind not in (*KINDS, "auto"):
            raise QuantizationError(f"`loss` is 'auto' or one of {list(KINDS)} for each output. Received: loss={kind!r}")
    if "auto" not in kinds:
        return kinds
    both = zip(_are_softmax(student), _are_softmax(teacher))
    found = ["probabilities" if all(pair) else "regression" for pair in both]
    return [own if kind == "auto" else kind for kind, own in zip(kinds, found)]


def _check_classes(kinds, names, outputs):
    for kind, name, shape in zip(kinds, names, _shapes(outputs)):
        if kind != "regression" and shape[-1:] in ((), (1,)):
            raise QuantizationError(
                f"Output '{name}' has one value, which a softmax makes 1 whatever it is. Give it `loss='regression'`. "
                f"Received: loss={kind!r}"
            )


def _are_softmax(model):
    """Of each output, whether a softmax over the last axis makes it."""
    if getattr(model, "outputs", None):
        makers = [x._keras_history.operation for x in tree.flatten(model.outputs)]
        if not any(isinstance(maker, keras.Model) for maker in makers):
            return list(map(_is_softmax, makers))
    try:
        graph = trace(model, keep_float=True)
    except QuantizationError as error:
        raise QuantizationError(
            f"Nobody can tell whether a softmax makes the outputs of model '{model.name}'. Say what they are with `loss`, "
            f"one of {list(KINDS)}."
        ) from error
    made_by = {value: node.operation for node in graph.nodes for value in tree.flatten(node.outputs)}
    return [_is_softmax(made_by.get(value)) for value in tree.flatten(graph.outputs)]


def _is_softmax(operation):
    if isinstance(operation, (keras.layers.Softmax, QuantSoftmax)) or type(operation).__name__ == "Softmax":
        return getattr(operation, "axis", -1) == -1
    return getattr(operation, "activation", None) is keras.activations.softmax


def _shares(given, count):
    given = [1.0] * count if given is None else [float(weight) for weight in given]
    if len(given) != count or min(given) < 0 or not sum(given) > 0:
        raise QuantizationError(f"`teacher_weights` is a weight for each of {count} teachers. Received: {given}")
    return [weight / sum(given) for weight in given]
