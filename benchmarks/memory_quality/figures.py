"""The figures of a data set."""

from collections.abc import Mapping, Sequence

from benchmarks.memory_quality.ingested import Support
from benchmarks.memory_quality.measures import Score, interval, mean
from benchmarks.memory_quality.ours import Cost
from benchmarks.report import Figure, Target

TURN_MEASURES = ("turn/recall@5", "turn/recall@10", "turn/recall@20", "turn/mrr", "turn/ndcg@10")
SESSION_MEASURES = ("session/recall@5", "session/recall@10")

_TARGETS = {
    "turn/recall@10": Target("≥", 0.77),
    "session/recall@5": Target("≥", 0.87),
    "session/recall@10": Target("≥", 0.94),
}
_RATIO = Target("≥", 1.05)


def quality_figures(name: str, scores: Mapping[str, Sequence[Score]], *, is_by_type: bool = True) -> list[Figure]:
    """Of each who answered, every measure; ours beside the others, and every measure of turns by type of question."""
    figures: list[Figure] = []
    ours = scores["ours"]
    measures = (*TURN_MEASURES, *(each for each in SESSION_MEASURES if ours and each in ours[0].values))
    for who, theirs in scores.items():
        for measure in measures:
            target = _TARGETS.get(measure) if who == "ours" and name == "locomo" else None
            note = f"{len(theirs)} questions" if measure == "turn/recall@10" else ""
            figures.append(Figure(f"{who}/{name}/{measure}", mean(theirs, measure), target=target, note=note))
    for who, theirs in scores.items():
        if who != "ours":
            difference, low, high = interval(ours, theirs, "turn/recall@10")
            drawn = "conversation" if len({score.conversation for score in ours}) > 1 else "question"
            note = f"95 % {low:+.3f} to {high:+.3f}, by {drawn}"
            figures.append(Figure(f"ours/{name}/turn/recall@10/more_than_{who}", difference, note=note))
    figures.append(_ratio_to_rrf(name, scores))
    return [*figures, *(_of_types(name, scores) if is_by_type else ())]


def _ratio_to_rrf(name: str, scores: Mapping[str, Sequence[Score]]) -> Figure:
    found, fused = (mean(scores[who], "turn/recall@10") for who in ("ours", "rrf"))
    target = _RATIO if name == "locomo" else None
    return Figure(f"ours/{name}/turn/recall@10/ratio_to_rrf", found / fused if fused else 0.0, "×", target)


def _of_types(name: str, scores: Mapping[str, Sequence[Score]]) -> list[Figure]:
    figures: list[Figure] = []
    for category in sorted({score.category for score in scores["ours"]}):
        for who, theirs in scores.items():
            of_category = [score for score in theirs if score.category == category]
            note = f"{len(of_category)} questions"
            figures += [
                Figure(f"{who}/{name}/{category}/{measure}", mean(of_category, measure), note=note)
                for measure in TURN_MEASURES
            ]
    return figures


def cost_figures(name: str, costs: Mapping[str, Cost]) -> list[Figure]:
    """What a turn costs to remember, by the way it came."""
    figures: list[Figure] = []
    for who, cost in costs.items():
        prefix, turns = f"{who}/{name}/turn_cost", max(1, cost.turns)
        figures += [
            Figure(f"{prefix}/ms", 1000 * cost.seconds / turns, "ms", note=f"{cost.turns} turns; without embedding"),
            Figure(f"{prefix}/tokens", cost.tokens / turns, "tokens", note="of the embedding model"),
            Figure(f"{prefix}/bytes", cost.size / turns, "B", note="the database's growth, with its indexes"),
        ]
    return figures


def support_figure(prefix: str, support: Support) -> Figure:
    """The share of memories made of turns that no turn tells."""
    untold = len(support.untold)
    rate = untold / support.derived if support.derived else 0.0
    return Figure(f"{prefix}/unsupported_rate", rate, note=f"{untold} of {support.derived} made of what was said")
