"""Neighbours of a choice: one layer gets more precision, another less; or all layers of a kind get another policy."""

# Moves of either kind that are paired.
MOVES = 16


def exchanges(choice, options, score, limits):
    """Choices that differ from one in two units and keep to the limits, the lowest sum of scores first.

    Args:
        choice: dict from units to policies.
        options: dict from units to the policies that they take.
        score: function (unit, policy) → float.
        limits: list of `Limit`s.

    Returns:
        List of dicts from units to policies.
    """
    change = lambda unit, policy: score(unit, policy) - score(unit, choice[unit])
    moves = [(change(u, p), u, p) for u in choice for p in options[u] if p != choice[u]]
    moves.sort(key=lambda move: move[0])
    better = [move for move in moves if move[0] < 0][:MOVES]
    worse = [move for move in moves if move[0] >= 0][:MOVES]
    pairs = [(up + down, {u: p, v: q}) for up, u, p in better for down, v, q in worse if u is not v]
    made = [{**choice, **change} for _, change in sorted(pairs, key=lambda pair: pair[0])]
    return [other for other in made if all(limit.sum(other) <= limit.most for limit in limits)]


def changes_of_kinds(choice, options):
    """Other policies for all units with the same operators; not one float type for another, which take the same time.

    Args:
        choice: dict from units to policies.
        options: dict from units to the policies that they take.

    Returns:
        List of dicts from the units of a kind to their only option, as `choose` takes them.
    """
    kinds = {}
    for unit in choice:
        kinds.setdefault(unit.signature, []).append(unit)
    plain = lambda policy: policy.weights == policy.activations and policy.computes_in_float
    pairs = [(units, policy) for units in kinds.values() for policy in options[units[0]]]
    return [
        {unit: [policy] for unit in units}
        for units, policy in pairs
        if not all(choice[unit] == policy or (plain(policy) and plain(choice[unit])) for unit in units)
    ]
