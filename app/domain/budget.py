"""Token budgets: how many tokens each section of a prompt may take."""

from collections.abc import Mapping

DEFAULT_WEIGHTS: Mapping[str, float] = {
    "goal_summary": 0.10,
    "preferences_style": 0.15,
    "critical_artifacts": 0.20,
    "recent_history": 0.20,
    "constraints": 0.10,
    "task_specific_retrieval": 0.25,
}
"""Shares of what is left after the fixed parts; see `BUDGET_WEIGHTS`."""


def allocate(wanted: Mapping[str, int], weights: Mapping[str, float], available: int) -> dict[str, int]:
    """Tokens granted to each section: never more than it wants, never more than `available` in all.

    Each gets its share by weight; what one does not need goes to those that want more, in proportion to
    their weights, until nothing is left to give or to want (water filling). A weight of zero gets nothing,
    unless all are zero, which is the same as all being equal.
    """
    granted: dict[str, int] = dict.fromkeys(wanted, 0)
    left = max(0, available)
    if not any(weights.values()):
        weights = dict.fromkeys(wanted, 1.0)
    hungry: set[str] = {name for name, tokens in wanted.items() if tokens > 0 and weights.get(name, 0.0) > 0}
    while left > 0 and hungry:
        total = sum(weights[name] for name in hungry)
        shares = {name: int(left * (weights[name] / total)) for name in hungry}
        given = 0
        for name in sorted(hungry):
            grant = min(wanted[name] - granted[name], shares[name])
            granted[name] += grant
            given += grant
        hungry = {name for name in hungry if granted[name] < wanted[name]}
        left -= given
        if given == 0:
            break
    return granted
