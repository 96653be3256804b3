"""Choices held against the truth, each once."""

import dataclasses
import functools
import json

import keras

from keras_quant import policy as policies
from keras_quant.policy import PolicyMap
from keras_quant.search.cost import Stopwatch
from keras_quant.search.front import Point
from keras_quant.search.solve import choose
from keras_quant.search.truth import content_of

INT8, FLOAT16, FLOAT32 = map(policies.get, ("int8", "float16", "float32"))

# How many of the fastest are timed once more.
RUN_OFF = 5


class Points:
    """Makes a `Point` of a choice, and keeps it; iterates over all that there are.

    Args:
        search: `Search`, of which it reads units, candidates and costs.
        truth: `Truth`.
        times: `Times`, or `None` where times do not count.
        flow: `Flow` likewise.
        cache: `Cache`.
        measured: whether times are those of whole files on this machine, not `times`.
        verbose: 1 for a count of what was tried.

    Attributes:
        between: dict from the layers without kernel to the policies that they take; empty where times do not count.
        int8_bytes: size of the model in int8 throughout.
        measured: as given.
    """

    def __init__(self, search, truth, times, flow, cache, measured, verbose):
        self.search, self.truth, self.times, self.cache = search, truth, times, cache
        taken = {u: [p for p in (INT8, FLOAT32) if (u, p) in search.costs] for u in (flow.between if flow else ())}
        self.between = {unit: own for unit, own in taken.items() if own}
        content, self._points, self._files = content_of(truth.in_int8), {}, {}
        self.int8_bytes = len(content)
        self.measured, self._stopwatch = measured, self._wound(content) if measured else None
        self._tried = keras.utils.Progbar(None, unit_name="choice") if verbose else None

    def __iter__(self):
        return iter(list(self._points.values()))

    def of(self, choice, measure):
        """A choice with its true size and loss, and its true time where it is measured here.

        Args:
            choice: dict from the units to policies. Where times count, layers without kernel that it leaves out are settled.
            measure: what led to it.
        """
        if self.times is not None and choice.keys() == set(self.search.units):
            choice = self.settled({unit: [policy] for unit, policy in choice.items()})
        key = self._key(choice)
        if key not in self._points:
            uniform = self._uniform_maps.get(key)
            chosen = self.truth.policy_map(self._with_halves(choice)) if uniform is None else uniform
            size, loss, milliseconds = self._figures(key, chosen, choice)
            bops = sum(self.search.costs[unit, choice[unit]].bops for unit in self.search.units)
            own = {unit: choice[unit] for unit in self.search.units}
            self._points[key] = Point(chosen, int(size), loss, milliseconds, bops, measure, own)
        return self._points[key]

    def uniform(self, policy):
        """The `Point` of one policy throughout."""
        return self.of(self.throughout(policy), "uniform")

    def throughout(self, policy):
        """The choice of a policy for all units that take it, int8 for the others, and of its kind for what is between."""
        own = {unit: policy if (unit, policy) in self.search.costs else INT8 for unit in self.search.units}
        other = FLOAT32 if policy.computes_in_float else INT8
        return own | {unit: other if other in takes else takes[0] for unit, takes in self.between.items()}

    def settled(self, options):
        """The choice among options that takes the least time by estimates, with the layers without kernel.

        `None` where the solver found none in its time.
        """
        return choose(self.between | options, self.times, [], self.times.seams)

    @functools.cached_property
    def _uniform_maps(self):
        """The maps of one policy throughout, by the choices that they are: int8 or a float one as the default."""
        maps = {}
        for policy in (INT8, *filter(lambda policy: policy.computes_in_float, self.search.candidates)):
            choice = self.throughout(policy)
            refused = {unit.path: INT8 for unit in self.search.units if choice[unit] != policy}
            maps[self._key(choice)] = PolicyMap(refused, default=policy)
        return maps

    def _key(self, choice):
        return json.dumps([choice[unit].config for unit in (*self.search.units, *self.between)], sort_keys=True)

    def _figures(self, key, chosen, choice):
        """Bytes, rise of the loss, and milliseconds or `None`."""
        section, count = ("points", 2) if self._stopwatch is None else ("timed points", 3)
        figures = self.cache.get(section, key, count)
        if figures is None:
            content, loss = self.truth.figures(chosen)
            figures = [len(content), loss]
            if self.measured:
                figures += self._stopwatch.of_all({key: content}).values()
                self._kept(key, content, figures[-1])
            self.cache.put(section, key, figures)
            if self._tried is not None:
                self._tried.add(1)
        estimate = self.times and self.times.total(choice)
        return figures if len(figures) == 3 else [*figures, estimate]

    def run_off(self):
        """Time the few fastest once more, all in turn: the least of many noisy figures is too small."""
        if self.measured:
            self._time_again(sorted(self._points, key=lambda key: self._points[key].milliseconds)[:RUN_OFF])

    def timed_again(self, point):
        """A `Point` of these with its time measured once more, where times are measured here."""
        key = next(key for key, own in self._points.items() if own is point)
        if self.measured:
            self._time_again([key])
        return self._points[key]

    def _time_again(self, keys):
        files = {key: self._files.get(key) or self.truth.figures(self._points[key].policies)[0] for key in keys}
        for key, milliseconds in self._stopwatch.of_all(files).items():
            point = self._points[key] = dataclasses.replace(self._points[key], milliseconds=milliseconds)
            self.cache.put("timed points", key, [point.bytes, point.loss, milliseconds])

    def _kept(self, key, content, milliseconds):
        """Keep the files of a few of the fastest in memory."""
        self._files[key] = content
        known = {other: self._points[other].milliseconds for other in self._files if other in self._points}
        if len(self._files) > RUN_OFF:
            del self._files[max(known | {key: milliseconds}, key=(known | {key: milliseconds}).get)]

    def _with_halves(self, choice):
        """What lies between layers in float16 is so, too, where no layer is in another float type."""
        kinds = {choice[unit].activations for unit in self.search.units if choice[unit].computes_in_float}
        if kinds != {"float16"}:
            return choice
        return choice | {unit: FLOAT16 for unit in self.between if choice[unit].computes_in_float}

    def _wound(self, content):
        """The watch, held against the model in int8."""
        known = self.cache.get("milliseconds", "int8 throughout", 1)
        watch = Stopwatch(content, known and known[0])
        self.cache.put("milliseconds", "int8 throughout", [watch.milliseconds])
        return watch
