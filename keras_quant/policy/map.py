"""From the paths of layers to their policies."""

import collections.abc
import dataclasses
import difflib
import json
import pathlib
import re
import warnings

from keras_quant.errors import QuantizationError
from keras_quant.policy.policy import get


class PolicyMap(collections.abc.MutableMapping):
    """A policy for each layer, by path or by regular expression, after `keras.dtype_policies.DTypePolicyMap`.

    A path that is a key has that key's policy. Otherwise a key that matches the whole path as a regular expression decides,
    the first one if there are several; otherwise the default. A layer inside another has a path such as "encoder/dense".

        kq.PolicyMap({"stem": "int16", "block_.*/expand": "int4", "logits": "float32"}, default="int8")

    Args:
        policies: dict from paths and regular expressions to policies or their names.
        default: policy or name for the rest.
    """

    def __init__(self, policies=None, default="int8"):
        self._policies = {}
        self.default = get(default)
        for key, policy in (policies or {}).items():
            self[key] = policy

    def __getitem__(self, path):
        key = self.key_for(path)
        return self.default if key is None else self._policies[key]

    def __setitem__(self, key, policy):
        try:
            re.compile(key)
        except (re.error, TypeError) as error:
            raise QuantizationError(
                f"A key of a `PolicyMap` is a layer's path or a regular expression ({error}). Received: {key!r}"
            ) from error
        self._policies[key] = get(policy)

    def __delitem__(self, key):
        del self._policies[key]

    def __iter__(self):
        return iter(self._policies)

    def __len__(self):
        return len(self._policies)

    def __contains__(self, key):
        return key in self._policies

    def __eq__(self, other):
        same = isinstance(other, PolicyMap)
        return same and self.default == other.default and list(self._policies.items()) == list(other._policies.items())

    __hash__ = None

    def key_for(self, path):
        """The key that decides about a path, or `None` where the default does."""
        if path in self._policies:
            return path
        return next((key for key in self._policies if re.fullmatch(key, path)), None)

    def warn_unmatched(self, paths):
        """Warn of keys that match none of the paths, with those that come near."""
        for key in self._policies:
            if key not in paths and not any(re.fullmatch(key, path) for path in paths):
                near = difflib.get_close_matches(key, paths, 3, 0.4) or sorted(paths)[:3]
                warnings.warn(f"Key '{key}' of the `PolicyMap` matches no layer. Near it are {near}.", stacklevel=4)

    def integer_only(self):
        """The same map with `integer_only` policies."""
        of_integers = lambda policy: dataclasses.replace(policy, integer_only=True)
        return PolicyMap({key: of_integers(policy) for key, policy in self.items()}, of_integers(self.default))

    def get_config(self):
        """Names, or dicts of arguments, by key, which `from_config` takes and JSON holds."""
        return {"policies": {key: policy.config for key, policy in self.items()}, "default": self.default.config}

    @classmethod
    def from_config(cls, config):
        """The map that `get_config` describes."""
        return cls(**config)

    def to_json(self):
        """The map as JSON text."""
        return json.dumps(self.get_config(), indent=2)

    @classmethod
    def from_json(cls, text):
        """The map that `to_json` wrote."""
        try:
            config = json.loads(text)
            return cls(config.get("policies"), config.get("default", "int8"))
        except (json.JSONDecodeError, AttributeError) as error:
            cause = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
            raise QuantizationError(
                f'A `PolicyMap` in JSON is {{"policies": {{key: name}}, "default": name}}{cause}. Received: {text[:80]!r}'
            ) from error

    def save(self, path):
        """Write the map to a JSON file."""
        pathlib.Path(path).write_text(self.to_json() + "\n")

    @classmethod
    def load(cls, path):
        """The map in a JSON file."""
        return cls.from_json(pathlib.Path(path).read_text())

    def items(self):
        """Keys and policies, in the order in which they were given."""
        return self._policies.items()

    def __repr__(self):
        width = max(map(len, [*self._policies, "(default)"]))
        rows = [(f"{key:{width}}  {policy}") for key, policy in [*self.items(), ("(default)", self.default)]]
        return "\n".join(["PolicyMap", *(f"  {row}" for row in rows)])


def as_map(policy):
    """The `PolicyMap` meant by a name, a `Policy` or a map."""
    return policy if isinstance(policy, PolicyMap) else PolicyMap(default=get(policy))
