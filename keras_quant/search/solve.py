"""The choice of one policy a layer, as an integer linear program."""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

# Seconds after which the best choice found so far has to do.
TIME_LIMIT = 20


def choose(options, score, limits):
    """The options with the least sum of scores whose other sums keep to their limits.

        min Σ score[u, o]·x[u, o]   with   Σ_o x[u, o] = 1 for each u,   Σ cost[u, o]·x[u, o] ≤ most,   x ∈ {0, 1}

    Args:
        options: dict from units to their lists of options.
        score: function (unit, option) → float.
        limits: list of `Limit`s.

    Returns:
        Dict from units to options, or `None` if there is no such choice.
    """
    variables = [(unit, option) for unit, own in options.items() for option in own]
    place = {unit: index for index, unit in enumerate(options)}
    rows, columns = [place[unit] for unit, _ in variables], range(len(variables))
    one_each = csr_matrix((np.ones(len(variables)), (rows, columns)), shape=(len(options), len(variables)))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for limit in limits:
        room = limit.most - limit.fixed
        if room < 0:
            return None
        # As shares of the limit: figures of bytes and of losses are sizes apart.
        costs = np.array([limit.cost(*v) for v in variables], "float64") / max(room, 1e-12)
        constraints.append(LinearConstraint(costs[None], ub=[1.0]))
    scores = np.array([score(*v) for v in variables], "float64")
    largest = np.max(np.abs(scores)) or 1.0
    found = milp(
        scores / largest,
        constraints=constraints,
        integrality=np.ones(len(variables)),
        bounds=Bounds(0, 1),
        options={"time_limit": TIME_LIMIT, "mip_rel_gap": 1e-4},
    )
    if found.x is None:
        return None
    return {unit: option for (unit, option), taken in zip(variables, found.x) if taken > 0.5}
