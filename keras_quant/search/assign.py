"""The search itself: from a float model and data to a policy for each layer."""

import dataclasses
import functools
import hashlib
import math

import numpy as np
from keras import ops, tree

from keras_quant import policy as policies
from keras_quant.data import labelled_batches
from keras_quant.errors import QuantizationError
from keras_quant.graph import trace
from keras_quant.graph.sizes import at_size
from keras_quant.policy import PolicyMap
from keras_quant.quantize import fused_graph
from keras_quant.search.budget import RISE, SIZE, TIME, Budget, BudgetError, as_budget
from keras_quant.search.cache import Cache
from keras_quant.search.cost import TIMED, Costs, parted_graph
from keras_quant.search.exchange import changes_of_kinds, exchanges
from keras_quant.search.flow import Flow, Times
from keras_quant.search.front import Front
from keras_quant.search.objective import Objective
from keras_quant.search.points import Points
from keras_quant.search.sensitivity import MEASURES, Sensitivities
from keras_quant.search.solve import choose
from keras_quant.search.truth import Truth
from keras_quant.search.units import units_of
from keras_quant.settings import float32

INT8 = policies.get("int8")
# Candidates for a budget of bytes or loss.
SIZED = ("int4", "int8", "float16")
# Rounds in which a limit moves because the true figure missed it.
ROUNDS = 6
# Exchanges between two layers that are held against the true loss at the end.
EXCHANGES = 6
# Kinds of layers that are changed to see whether the file is faster.
KINDS = 8
# What tells a faster file from noise.
GAIN = 0.99


@float32()
def assign(model, data, budget, candidates=None, latencies=None, **options):
    """Choose a policy for each layer with a kernel, for a budget.

        policies = kq.search.assign(model, train, budget=0.6, cache="search.json")
        qmodel = kq.quantize(model, policies, train)

    Args:
        model: a float `keras.Model`. Its compiled loss is what is kept small, if `data` has labels; otherwise the distance
            of its outputs from the float model's.
        data: whatever `fit` takes; a few hundred samples do.
        budget: `Budget`, or a float: share of the int8 file's bytes.
        candidates: policies, or their names; by default `SIZED`, and `TIMED` where times count.
        latencies: `Latencies` measured on another machine, or `True` to measure on this one; by default where the budget
            limits time.
        **options: the other arguments of `Search`, of them `cache`.

    Returns:
        `PolicyMap`.

    Raises:
        BudgetError: for a budget that cannot be met, with the least that can and what holds it up.
        QuantizationError: for a model without layers to choose for, or an unknown policy.
        CalibrationError: for data that does not fit the model.
    """
    budget = as_budget(budget)
    latencies = budget.wants_latency if latencies is None else latencies
    return Search(model, data, candidates, latencies=latencies, **options).assign(budget).policies


class Search:
    """What a model's layers cost and lose in each precision, measured once, and the choices made of it.

    Args:
        model, data, candidates: as of `assign`.
        steps: number of batches of `data`; all by default.
        cache: path of a JSON file that keeps what is measured, so that a search that was stopped goes on where it was.
        latencies: `Latencies` from another machine, or `True` to time every distinct operator on this one.
        measures: names of the sensitivities by which choices are made, see `keras_quant.search.sensitivity`. All choices
            are held against the true loss and the best is taken.
        fallback: as of `keras_quant.quantize`.
        seed: integer, of the Hessian's random vectors.
        verbose: 1 for progress bars, 0 for none.
        input_shape: as of `keras_quant.quantize`; by default that of `data`.

    Attributes:
        units: list of `Unit`s, the layers.
        options: dict from each unit to the `Policy`s that it takes.
        refused: dict from `(unit, policy)` to the reason why the layer cannot be computed so.
        costs: dict from `(unit, policy)` to `Cost`.
        sensitivities: dict from `(unit, policy)` to `Sensitivity`.
        evaluations: how often the network is run, from some layer on: batches × layers × candidates.
        latencies: `Latencies` of the layers, to be saved and loaded elsewhere.
    """

    @float32()
    def __init__(
        self,
        model,
        data,
        candidates=None,
        steps=None,
        cache=None,
        latencies=None,
        measures=MEASURES,
        fallback=None,
        seed=0,
        verbose=1,
        input_shape=None,
    ):
        if candidates is None:
            candidates = TIMED if latencies else SIZED
        self.candidates = [policies.get(name) for name in dict.fromkeys(candidates)]
        if not self.candidates or not measures or set(measures) - set(MEASURES):
            raise QuantizationError(
                f"A search takes at least one candidate, and measures out of {MEASURES}. "
                f"Received: candidates={candidates!r}, measures={measures!r}"
            )
        self.measures, self.timed = tuple(measures), bool(latencies)
        model, data = at_size(model, input_shape, data)
        graph = parted_graph(model, fallback) if self.timed else fused_graph(model, PolicyMap(), fallback)
        batches, objective = list(labelled_batches(data, graph.inputs, steps)), Objective(model)
        self._truth = Truth(model, graph, batches, objective, fallback)
        in_int8 = self._truth.in_int8
        quantized = trace(in_int8, keep_float=True)
        self.units = units_of(graph, in_int8, quantized)
        if not self.units:
            raise QuantizationError(f"Model '{model.name}' has no layer with a kernel to choose a policy for.")
        self._cache = Cache(cache, _fingerprint(model, self.units, batches))
        flow = Flow(graph, self.units) if self.timed else None
        costs = Costs(self.units, self.candidates, latencies, self._cache, flow)
        self.costs, self.refused, self.latencies = costs.measure(verbose), costs.refused, costs.latencies
        self.options = {u: [p for p in self.candidates if (u, p) in self.costs] or [INT8] for u in self.units}
        self._times = Times(self.costs, self.latencies, flow.seams) if self.timed else None
        sensitivities = Sensitivities(quantized, self.units, self.options, batches, objective, self._cache, seed)
        self.evaluations, self.sensitivities = sensitivities.evaluations, sensitivities.measure(verbose)
        self._points = Points(self, self._truth, self._times, flow, self._cache, latencies is True, verbose)
        self._int8_bytes, self._sped = self._points.int8_bytes, False

    def assign(self, budget):
        """The best choice within a budget.

        Args:
            budget: `Budget`, or a share of the int8 file's bytes.

        Returns:
            `Point`, its bytes and loss measured.

        Raises:
            BudgetError: if there is none, with the least that there is one for.
        """
        budget = as_budget(budget)
        if budget.wants_latency:
            self._check_timed()
        for limit in self._limits(budget):
            if limit.what == TIME:
                self._check_time(limit)
            else:
                limit.with_more(-self._overestimate).check_reachable(self.options, self.refused)
        found = self._best_within(budget) if budget.limits_cost else self._smallest_within(budget)
        self._cache.write()
        return found

    def front(self, points=12):
        """Choices for sizes from the smallest to the largest that there are, and the uniform policies beside them.

        Args:
            points: number of sizes, each larger than the one before by the same factor.

        Returns:
            `Front`.
        """
        uniform = {str(policy): self.uniform(policy) for policy in self.candidates}
        found = list(uniform.values())
        smallest = min(self._smallest.bytes, *(p.bytes for p in found))
        for size in np.geomspace(smallest, max(point.bytes for point in found), points):
            limits = self._limits(Budget(bytes=int(size)))
            found += filter(None, (self._chosen_by(measure, limits) for measure in self.measures))
        self._cache.write()
        return Front(found, uniform, self._int8_bytes)

    def uniform(self, policy):
        """The `Point` of one policy for all layers that take it and int8 for the others.

        Args:
            policy: one of the candidates, or its name.
        """
        return self._points.uniform(policies.get(policy))

    def fastest(self):
        """The `Point` of the least time: of the policies throughout, and of the sum of estimates that is least.

        Raises:
            QuantizationError: without times.
        """
        self._check_timed()
        self._tried_and_uniform()
        if not self._sped:
            self._sped, choice = True, self._points.settled(self.options)
            if choice is not None:
                self._points.of(choice, "time")
            if choice is not None and self._points.measured:
                self._speed_up(choice)
                self._points.run_off()
        return min(self._points, key=lambda point: point.milliseconds)

    def _speed_up(self, choice):
        """Changes layers of a kind all together, the most promising first, wherever that lowers the true time.

        What splits the graph, or keeps a layer from being joined to the next, no layer's own file shows.
        """
        point, own = self._points.of(choice, "time"), lambda choice: {unit: [choice[unit]] for unit in self.units}
        changed = lambda choice, move: self._points.settled(own(choice) | move)
        moves = changes_of_kinds(choice, self.options | self._points.between)
        # The solver may have run out of its time.
        estimate = lambda other: math.inf if other is None else self._times.total(other)
        for move in sorted(moves, key=lambda move: estimate(changed(choice, move)))[:KINDS]:
            other = changed(choice, move)
            if other is not None and self._points.of(other, "time").milliseconds < GAIN * point.milliseconds:
                choice, point = other, self._points.of(other, "time")

    def _tried_and_uniform(self):
        for policy in self.candidates:
            self.uniform(policy)
        return list(self._points)

    def _check_timed(self):
        if not self.timed:
            raise QuantizationError("A budget of time needs times: pass `latencies=True` to `Search`, or a table of them.")

    def _check_time(self, limit):
        """Refuse a time below that of the fastest choice.

        Raises:
            BudgetError: with its time, absolute and as a share of int8's.
        """
        if any(_keeps(point, [limit]) for point in self._tried_and_uniform()) or _keeps(self.fastest(), [limit]):
            return
        best = self.fastest()
        share = math.ceil(100 * best.milliseconds / self.uniform(INT8).milliseconds) / 100
        raise BudgetError(
            f"The smallest {TIME} within reach is {best.milliseconds:.4g}, and {limit.most:.4g} was asked for. The nearest "
            f"budget that works is `latency={share:.2f}`, with {best.counts()}."
        )

    def _best_within(self, budget):
        limits = self._limits(budget)
        for measure in self.measures:
            self._chosen_by(measure, limits)
        found = [point for point in self._tried_and_uniform() if _keeps(point, limits)]
        if not found:
            over = lambda point: max(_figures(point)[limit.what] / limit.most for limit in limits)
            near = min(self._points, key=over)
            time = "" if near.milliseconds is None else f" and {near.milliseconds:.4g} ms"
            raise BudgetError(
                f"No choice among {[p.name for p in self.candidates]} keeps to all limits of {budget} together, though each "
                f"is within reach. Relax one of them: the nearest has {near.bytes} bytes{time}, with {near.counts()}."
            )
        best = self._confirmed(found, limits)
        if budget.loss is not None and best.loss > budget.loss:
            raise BudgetError(
                f"Within the other limits the smallest rise of the loss is {best.loss:.4g}, and {budget.loss:.4g} was "
                "asked for. Relax one of them."
            )
        return best

    def _confirmed(self, found, limits):
        """The point of the least loss that keeps to its limits when it is timed once more, too.

        Args:
            found: list of `Point`s that keep to them by their first time.
            limits: of the budget.
        """
        while True:
            best = self._exchanged(min(found, key=lambda point: (point.loss, point.milliseconds or 0.0)), limits)
            best = self._points.timed_again(best)
            if _keeps(best, limits):
                return best
            found = [point for point in self._points if _keeps(point, limits)]
            if not found:
                # All were measured within a budget that is no wider than the noise.
                return min(self._points, key=lambda point: point.milliseconds)

    def _chosen_by(self, measure, limits):
        """The solver's choice by one measure; sizes and times are sums of estimates, so limits move until they are kept."""
        score, slack, pace = functools.partial(self._score, measure), -self._overestimate, self._pace
        for _ in range(ROUNDS):
            moved = [limit.with_more(slack).at_pace(pace) for limit in limits]
            choice = self._choose(self.options, score, moved)
            point = None if choice is None else self._points.of(choice, measure)
            if point is None or _keeps(point, limits):
                return point
            missed = [limit for limit in limits if not _keeps(point, [limit])]
            slack += max((point.bytes - limit.most + 1 for limit in missed if limit.what == SIZE), default=0)
            pace *= min((0.98 * limit.most / point.milliseconds for limit in missed if limit.what == TIME), default=1)
        return None

    def _choose(self, options, score, limits):
        """As of `choose`; where times are known, layers without kernel have a part in them."""
        choice = choose(options | self._points.between, score, limits, self._times.seams if self.timed else ())
        return choice and {unit: choice[unit] for unit in options}

    @functools.cached_property
    def _pace(self):
        """Estimated by true time, of int8 throughout."""
        return self._times.total(self._points.throughout(INT8)) / self.uniform(INT8).milliseconds if self.timed else 1.0

    @functools.cached_property
    def _smallest(self):
        """The `Point` of the fewest bytes."""
        return self._points.of({unit: self._cheapest(unit) for unit in self.units}, "bytes")

    @functools.cached_property
    def _overestimate(self):
        """Bytes by which the sum of the layers' own files is above the smallest file, whose layers share constants."""
        (limit,) = self._limits(Budget(bytes=1))
        return max(0, limit.sum(self._smallest.choice) - self._smallest.bytes)

    def _exchanged(self, point, limits):
        """What gives one layer more and another less, the most promising first, wherever it lowers the true loss."""
        score = lambda u, p: sum(self._score(m, u, p) / self._scale(m) for m in self.measures)
        roomy = [limit.with_more(-self._overestimate).at_pace(self._pace) for limit in limits]
        whole = (
            self._points.settled({unit: [policy] for unit, policy in point.choice.items()}) if self.timed else point.choice
        )
        options = self.options | dict.fromkeys(self._points.between, ())
        for choice in exchanges(whole, options, score, roomy)[:EXCHANGES]:
            other = self._points.of({unit: choice[unit] for unit in self.units}, point.measure)
            if other.loss < point.loss and _keeps(other, limits):
                point = other
        return point

    def _smallest_within(self, budget):
        """The smallest file within a rise of the loss: by bisection of what the sum of the layers' rises may be."""
        wanted, low, high = budget.loss, 0.0, None
        best = self._points.of({unit: self._most_precise(unit) for unit in self.units}, "noise")
        if best.loss > wanted:
            raise BudgetError(
                f"The smallest rise of the loss within reach is {best.loss:.4g}, and {wanted:.4g} was asked for. "
                "Allow more, or give wider candidates."
            )
        (limit,) = self._limits(budget)
        for _ in range(ROUNDS):
            choice = choose(self.options, lambda u, p: self.costs[u, p].bytes, [limit])
            point = None if choice is None else self._points.of(choice, "loss")
            if point is not None and point.loss <= wanted:
                best, low = min(best, point, key=lambda p: p.bytes), limit.most
            else:
                high = limit.most
            limit = dataclasses.replace(limit, most=2 * low if high is None else (low + high) / 2)
        return best

    def _limits(self, budget):
        return budget.limits(
            size_of=lambda u, p: self.costs[u, p].bytes,
            fixed_size=self._int8_bytes - sum(self.costs[unit, INT8].bytes for unit in self.units),
            time_of=self._times,
            rise_of=lambda u, p: self._score("loss", u, p),
            int8_size=self._int8_bytes,
            int8_time=self.uniform(INT8).milliseconds if self.timed else None,
        )

    def _score(self, measure, unit, policy):
        """A layer's sensitivity, never negative; that of one that takes no candidate is the same whatever is chosen."""
        found = self.sensitivities.get((unit, policy))
        return 0.0 if found is None else max(getattr(found, measure), 0.0)

    def _scale(self, measure):
        return sum(self._score(measure, *key) for key in self.sensitivities) or 1.0

    def _cheapest(self, unit):
        return min(self.options[unit], key=lambda policy: self.costs[unit, policy].bytes)

    def _most_precise(self, unit):
        return min(self.options[unit], key=lambda policy: self._score("noise", unit, policy))


def _keeps(point, limits):
    """Whether a point's true size and estimated time keep to limits; its loss is seen to at the end."""
    return all(_figures(point)[limit.what] <= limit.most * (1 + 1e-9) for limit in limits)


def _figures(point):
    return {SIZE: point.bytes, TIME: point.milliseconds, RISE: 0.0}


def _fingerprint(model, units, batches):
    digest = hashlib.sha256("\n".join(f"{unit.path} {unit.signature}" for unit in units).encode())
    for array in tree.flatten(([ops.convert_to_numpy(w) for w in model.weights], [b for b in batches])):
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
