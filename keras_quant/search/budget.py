"""What a search has to keep to."""

import dataclasses
from collections.abc import Callable

from keras_quant.errors import QuantizationError

# What is limited, in words.
SIZE, TIME, RISE = "number of bytes", "time in milliseconds", "rise of the loss"


class BudgetError(QuantizationError):
    """A budget that no choice of policies meets."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits that hold together; at least one.

    With a limit on size or time the loss is what is made small; with one on the loss alone, the size.

    Args:
        size: of the file, as a share of the same model's in int8 (0.6).
        bytes: of the file.
        latency: of one call of the file, as a share of int8's.
        milliseconds: of one call of the file.
        loss: how much the loss may rise over the float model's.
    """

    size: float | None = None
    bytes: int | None = None
    latency: float | None = None
    milliseconds: float | None = None
    loss: float | None = None

    def __post_init__(self):
        values = {field: value for field, value in dataclasses.asdict(self).items() if value is not None}
        bad = [
            field for field, value in values.items() if not (isinstance(value, (int, float)) and 0 < value < float("inf"))
        ]
        if bad or not values:
            raise QuantizationError(
                "A budget has at least one limit, each a positive number: size=0.6 for 0.6 times the bytes of int8. "
                f"Received: {self}"
            )

    @property
    def wants_latency(self):
        """Whether it limits the time."""
        return self.latency is not None or self.milliseconds is not None

    @property
    def limits_cost(self):
        """Whether it limits size or time."""
        return self.size is not None or self.bytes is not None or self.wants_latency

    def limits(self, size_of, fixed_size, time_of, rise_of, int8_size, int8_time):
        """The `Limit`s that it amounts to for one model.

        Args:
            size_of, time_of, rise_of: functions (unit, policy) → bytes, milliseconds, rise of the loss.
            fixed_size: bytes of the file that no choice changes.
            int8_size, int8_time: of the model in int8 throughout.
        """
        share_of = lambda share, whole: None if share is None else share * whole
        made = [
            Limit(SIZE, size_of, self.bytes, fixed_size),
            Limit(SIZE, size_of, share_of(self.size, int8_size), fixed_size),
            Limit(TIME, time_of, self.milliseconds),
            Limit(TIME, time_of, share_of(self.latency, int8_time)),
            Limit(RISE, rise_of, self.loss),
        ]
        return [limit for limit in made if limit.most is not None]


@dataclasses.dataclass(frozen=True)
class Limit:
    """A limit on a sum over the units.

    Attributes:
        what: is summed, in words.
        cost: function (unit, policy) → float.
        most: what the sum, with `fixed`, must not exceed.
        fixed: what no choice changes.
    """

    what: str
    cost: Callable
    most: float | None
    fixed: float = 0.0

    def with_more(self, bytes):
        """The limit with so many bytes more in what no choice changes, if it is one of size."""
        return dataclasses.replace(self, fixed=self.fixed + bytes) if self.what == SIZE else self

    def at_pace(self, pace):
        """The limit on estimates, which are so many times the truth, if it is one of time."""
        return dataclasses.replace(self, most=self.most * pace) if self.what == TIME else self

    def sum(self, choice):
        """Of a dict from units to policies."""
        if hasattr(self.cost, "total"):
            return self.fixed + self.cost.total(choice)
        return self.fixed + sum(self.cost(unit, policy) for unit, policy in choice.items())

    def check_reachable(self, options, refused):
        """Refuse a limit below what the cheapest policy of every unit sums up to.

        Args:
            options: dict from units to the policies that they take.
            refused: dict from `(unit, policy)` to the reason why not.

        Raises:
            BudgetError: with the least that can be reached and the units that most of it is in.
        """
        cheapest = {unit: min(own, key=lambda policy: self.cost(unit, policy)) for unit, own in options.items()}
        least = self.sum(cheapest)
        if least <= self.most * (1 + 1e-9):
            return
        largest = sorted(cheapest, key=lambda unit: -self.cost(unit, cheapest[unit]))[:3]
        held = "; ".join(self._holder(unit, cheapest[unit], refused) for unit in largest)
        raise BudgetError(
            f"The smallest {self.what} within reach is {least:.4g}, and {self.most:.4g} was asked for. "
            f"What holds it up: {held}. Allow more, or give narrower candidates."
        )

    def _holder(self, unit, policy, refused):
        reasons = [reason for (other, _), reason in refused.items() if other is unit]
        own = f"'{unit.path}' with {self.cost(unit, policy):.4g} in {policy.name}"
        return f"{own} ({reasons[0].split('. ')[0]})" if reasons else own


def as_budget(budget):
    """The `Budget` meant by one or by a share of int8's size."""
    return budget if isinstance(budget, Budget) else Budget(size=budget)
