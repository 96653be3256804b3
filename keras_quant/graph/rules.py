"""Which function turns a node into a format's operators: a registry for each format."""

from keras import tree

from keras_quant.layers import QuantLayer


class Rules:
    """Rules of one format: of quantized layers by class, subclasses included, on integers and on real numbers, and of float
    operations by exact class."""

    def __init__(self):
        self._quantized, self._float, self._real = {}, {}, {}

    def register(self, *classes):
        """Decorator: the function is the rule for these quantized layers."""
        return lambda rule: self._add(self._quantized, classes, rule)

    def register_float(self, *classes):
        """Decorator: the function is the rule for float layers or operations of exactly these classes."""
        return lambda rule: self._add(self._float, classes, rule)

    def register_real(self, *classes):
        """Decorator: the function is the rule for these quantized layers on real numbers."""
        return lambda rule: self._add(self._real, classes, rule)

    def real(self, layer):
        """The rule of a quantized layer on real numbers: its own, or that of the float class it derives from; or `None`."""
        for base in type(layer).__mro__:
            if base in self._real:
                return self._real[base]
            if base in self._float:
                rule = self._float[base]
                return lambda lowering, layer, inputs, output: rule(lowering, layer, tree.flatten(inputs), output)
        return None

    def of(self, operation):
        """The rule of a layer or operation, or `None`."""
        if not isinstance(operation, QuantLayer):
            return self._float.get(type(operation))
        return next((self._quantized[base] for base in type(operation).__mro__ if base in self._quantized), None)

    def of_float(self, operation_class):
        """The rule of float layers or operations of exactly this class, or `None`."""
        return self._float.get(operation_class)

    @staticmethod
    def _add(rules, classes, rule):
        rules.update((cls, rule) for cls in classes)
        return rule
