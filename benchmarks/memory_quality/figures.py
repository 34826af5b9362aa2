"""The figures of a data set."""

from collections.abc import Mapping, Sequence

from benchmarks.memory_quality.measures import Score, interval, mean
from benchmarks.report import Figure, Target

MEASURES = (
    "turn/recall@5",
    "turn/recall@10",
    "turn/recall@20",
    "turn/mrr",
    "turn/ndcg@10",
    "session/recall@5",
    "session/recall@10",
)

_TARGETS = {
    "turn/recall@10": Target("≥", 0.77),
    "session/recall@5": Target("≥", 0.87),
    "session/recall@10": Target("≥", 0.94),
}
_RATIO = Target("≥", 1.05)


def quality_figures(name: str, scores: Mapping[str, Sequence[Score]]) -> list[Figure]:
    """Of each who answered, every measure; ours beside the best fusion, and by category of question."""
    figures: list[Figure] = []
    for who, theirs in scores.items():
        for measure in MEASURES:
            target = _TARGETS.get(measure) if who == "ours" and name == "locomo" else None
            figures.append(Figure(f"{who}/{name}/{measure}", mean(theirs, measure), target=target))
    ours = scores["ours"]
    for who, theirs in scores.items():
        if who != "ours":
            difference, low, high = interval(ours, theirs, "turn/recall@10")
            note = f"95 % {low:+.3f} to {high:+.3f}, by conversation"
            figures.append(Figure(f"ours/{name}/turn/recall@10/more_than_{who}", difference, note=note))
    fused = mean(scores["rrf"], "turn/recall@10")
    is_target = name == "locomo"
    figures.append(
        Figure(
            f"ours/{name}/turn/recall@10/ratio_to_rrf",
            mean(ours, "turn/recall@10") / fused if fused else 0.0,
            target=_RATIO if is_target else None,
        )
    )
    for category in sorted({score.category for score in ours}):
        for who, theirs in scores.items():
            of_category = [score for score in theirs if score.category == category]
            for measure in ("turn/recall@10", "turn/ndcg@10"):
                path = f"{who}/{name}/{category}/{measure}"
                figures.append(Figure(path, mean(of_category, measure), note=f"{len(of_category)} questions"))
    return figures
