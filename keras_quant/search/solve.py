"""The choice of one policy a layer, as an integer linear program."""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

# Seconds after which the best choice found so far has to do.
TIME_LIMIT = 20


def choose(options, score, limits, seams=()):
    """The options with the least sum of scores whose other sums keep to their limits.

        min Σ score[u, o]·x[u, o]   with   Σ_o x[u, o] = 1 for each u,   Σ cost[u, o]·x[u, o] ≤ most,   x ∈ {0, 1}

    A tensor that is not in the precision of a reader costs an operator, d to float and q to integers, with
    `f[u] = Σ x[u, o]` over the options that compute in float:

        d ≥ f[reader] - f[maker],   q ≥ f[maker] - f[reader]

    Args:
        options: dict from units to their lists of options.
        score: function (unit, option) → float.
        limits: list of `Limit`s.
        seams: list of `Seam`s. What d and q of one count is `of_seam` of a cost or of the score, or nothing: see `Times`.

    Returns:
        Dict from units to options, or `None` if there is no such choice.
    """
    variables = [(unit, option) for unit, own in options.items() for option in own]
    place = {unit: index for index, unit in enumerate(options)}
    rows, columns = [place[unit] for unit, _ in variables], range(len(variables))
    count = len(variables) + 2 * len(seams)
    one_each = csr_matrix((np.ones(len(variables)), (rows, columns)), shape=(len(options), count))
    constraints = [LinearConstraint(one_each, 1, 1), *_precision_changes(variables, seams)]
    sums = lambda cost: np.array([cost(*v) for v in variables] + _seam_costs(cost, seams), "float64")
    for limit in limits:
        room = limit.most - limit.fixed
        if room < 0:
            return None
        # As shares of the limit: figures of bytes and of losses are sizes apart.
        constraints.append(LinearConstraint(sums(limit.cost)[None] / max(room, 1e-12), ub=[1.0]))
    scores = sums(score)
    largest = np.max(np.abs(scores)) or 1.0
    found = milp(
        scores / largest,
        constraints=constraints,
        integrality=np.arange(count) < len(variables),
        bounds=Bounds(0, 1),
        options={"time_limit": TIME_LIMIT, "mip_rel_gap": 1e-4},
    )
    if found.x is None:
        return None
    return {unit: option for (unit, option), taken in zip(variables, found.x) if taken > 0.5}


def _seam_costs(cost, seams):
    """What a function of units and options has for the two operators of each seam."""
    of_seam = getattr(cost, "of_seam", lambda seam: (0.0, 0.0))
    return [figure for seam in seams for figure in of_seam(seam)]


def _precision_changes(variables, seams):
    """The constraints of d and q."""
    in_float = {}
    for index, (unit, option) in enumerate(variables):
        if getattr(option, "computes_in_float", False):
            in_float.setdefault(unit, []).append(index)
    rows = []
    for number, seam in enumerate(seams):
        to_float = len(variables) + 2 * number
        for reader in seam.readers:
            # f[reader] - f[maker] - d ≤ 0, and the other way round.
            difference = [(i, 1.0) for i in in_float.get(reader, ())] + [(i, -1.0) for i in in_float.get(seam.maker, ())]
            rows.append([*difference, (to_float, -1.0)])
            rows.append([*((i, -sign) for i, sign in difference), (to_float + 1, -1.0)])
            if seam.inside:
                rows.append([(i, -sign) for i, sign in difference])
    if not rows:
        return []
    entries = [(sign, row, column) for row, entry in enumerate(rows) for column, sign in entry]
    signs, places, columns = zip(*entries) if entries else ((), (), ())
    matrix = csr_matrix((signs, (places, columns)), shape=(len(rows), len(variables) + 2 * len(seams)))
    return [LinearConstraint(matrix, ub=np.zeros(len(rows)))]
