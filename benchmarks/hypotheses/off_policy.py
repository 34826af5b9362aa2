"""Off-policy: do the intervals cover a truth that is known, and does what is learned from choices by where they stood
beat what is learned from raw ones?

No data set: logs are simulated, by policies, users and habits of looking that are written here, and judged by the code
that the service runs. `decisions` are logs of acts with known worth, of users who differ; the other policy prefers what
the logged one seldom did. `orders` are questions whose order is drawn for some, answered by users who overlook what
stands far down; the other policy is another weighing of the readings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from app.domain.logit import Array
from app.domain.off_policy import METHODS, Log, estimate
from app.domain.ordering import drawn
from app.domain.position import PRIOR_EXAMINATION, examination
from app.domain.ranker import ORIGINS, Listed, Ranker, fit, order_log, ranks_of
from benchmarks.hypotheses.statistics import mean_interval
from benchmarks.report import Figure, Target

LOGS = 1000
LEAST_COVERED, MOST_COVERED = 0.93, 0.97
TENANTS = 200

LOOKED_AT = (1.0, 0.6, 0.4, 0.3, 0.25)
"""How likely each place is looked at: more steeply than the prior has it."""

SHUFFLE = 0.1
OPTIONS, MANY_OPTIONS = 3, 5
NONE_ODDS = 0.7

OVERRATED: Ranker = {"memory": 1.0}
WORTH: Ranker = {"memory": -1.0, "cohort": 0.6}
"""What the log-odds that readings are shown by have too much, so that memories stand first, and what users mean beyond
them: memories less often, and what cohorts chose more often."""


@dataclass(frozen=True)
class Decisions:
    """Logs of three acts: of so many users with so many decisions each (a geometric number where `is_uneven`), users
    who differ by `spread` in what acts are worth to them, and a model of the reward that is off."""

    users: int
    per_user: int
    logged: tuple[float, float, float] = (0.8, 0.1, 0.1)
    other: tuple[float, float, float] = (0.1, 0.2, 0.7)
    worth: tuple[float, float, float] = (0.2, 0.5, 0.6)
    spread: float = 0.1
    is_uneven: bool = False

    def log(self, seed: int) -> Log:
        """One log."""
        chances = np.random.default_rng(seed)
        sizes = np.full(self.users, self.per_user)
        if self.is_uneven:
            sizes = chances.geometric(1.0 / self.per_user, self.users)
        users = np.repeat(np.arange(self.users), sizes)
        worth, logged, other = np.array(self.worth), np.array(self.logged), np.array(self.other)
        own = self.spread * chances.standard_normal(self.users)
        acts = chances.choice(3, len(users), p=logged)
        rewards = (chances.random(len(users)) < np.clip(worth[acts] + own[users], 0.0, 1.0)).astype(np.float64)
        model = worth + 0.1 * np.arange(1, 4)
        expected = np.full(len(users), float(other @ model))
        return Log(users, logged[acts], other[acts], rewards, model[acts], expected)

    @property
    def truth(self) -> float:
        """What the other policy is worth."""
        own = self.spread * np.random.default_rng(0).standard_normal(200_000)
        return sum(
            share * float(np.clip(worth + own, 0.0, 1.0).mean())
            for share, worth in zip(self.other, self.worth, strict=True)
        )


SETTINGS: Mapping[str, Decisions] = {
    "usual": Decisions(200, 3),
    "large": Decisions(1500, 4),
    "small": Decisions(80, 1),
    "few_users": Decisions(20, 15, spread=0.2),
    "uneven_users": Decisions(100, 8, spread=0.15, is_uneven=True),
    "heavy_weights": Decisions(500, 3, logged=(0.96, 0.02, 0.02), other=(0.05, 0.05, 0.9)),
    "rare_rewards": Decisions(300, 3, worth=(0.02, 0.05, 0.06), spread=0.0),
}


@dataclass(frozen=True)
class Question:
    """A question as it was put and answered, with what its options are meant with: (n,)."""

    listed: Listed
    meant: Array


def questions(seed: int, users: int, per_user: int, options: int = OPTIONS) -> list[Question]:
    """Questions of simulated users, in the order of log-odds that overrate memories, drawn for some of them."""
    chances = np.random.default_rng(seed)
    made: list[Question] = []
    for user in range(users):
        for _ in range(per_user):
            origins = chances.choice(ORIGINS, options)
            scores = chances.normal(0.0, 0.8, options) + np.array([OVERRATED.get(each, 0.0) for each in origins])
            best = np.argsort(-scores)
            scores, origins = scores[best], origins[best]
            odds = np.exp(scores + np.array([WORTH.get(each, 0.0) for each in origins]))
            meant = odds / (odds.sum() + NONE_ODDS)
            order = drawn(options, SHUFFLE, float(chances.random()))
            aim = int(chances.choice(options + 1, p=np.append(meant, 1.0 - meant.sum())))
            is_seen = aim < options and chances.random() < LOOKED_AT[order.ranks[aim] - 1]
            shown = np.exp(scores) / (np.exp(scores).sum() + NONE_ODDS)
            listed = Listed(f"u{user}", order, scores, tuple(origins.tolist()), shown, aim if is_seen else None)
            made.append(Question(listed, meant))
    return made


def worth_of(asked: list[Question], ranker: Ranker, shuffle: float = SHUFFLE) -> float:
    """What a ranker is worth on questions: the mean reciprocal rank of what is chosen, in expectation."""
    size = len(asked[0].meant)
    by_place = np.array(LOOKED_AT[:size]) / np.arange(1, size + 1)
    places = np.array([ranks_of(each.listed, ranker) for each in asked])
    meant = np.array([each.meant for each in asked])
    own = (meant * by_place[places - 1]).sum(axis=1)
    evenly = meant.sum(axis=1) * by_place.mean()
    return float(((1.0 - shuffle) * own + shuffle * evenly).mean())


def off_policy_figures(logs: int = LOGS, tenants: int = TENANTS) -> list[Figure]:
    """All of them."""
    figures: list[Figure] = []
    for name, setting in SETTINGS.items():
        figures += _covered(name, setting.truth, logs, setting.log)
    truth = worth_of(questions(10**6, 40_000, 1), WORTH)
    figures += _covered("orders", truth, logs, _order_log)
    furthest = max(abs(figure.value - 0.95) for figure in figures)
    figures.append(Figure("off_policy/coverage/furthest", furthest, "", Target("≤", 0.02), "of all above from 0.95"))
    return figures + _learned(tenants)


def _order_log(seed: int) -> Log:
    listed = [each.listed for each in questions(seed, 600, 3)]
    return order_log(listed, [WORTH] * len(listed), PRIOR_EXAMINATION)


def _covered(name: str, truth: float, logs: int, log_of: Callable[[int], Log]) -> list[Figure]:
    """How often each estimator's interval has the truth in it."""
    made = [log_of(seed) for seed in range(logs)]
    figures: list[Figure] = []
    for method in METHODS:
        found = [estimate(log, method) for log in made]
        covered = float(np.mean([each.low <= truth <= each.high for each in found]))
        error = float(np.sqrt(covered * (1.0 - covered) / logs))
        bias = float(np.mean([each.value for each in found])) - truth
        widths = np.array([each.high - each.low for each in found])
        endless = float(np.mean(~np.isfinite(widths)))
        note = f"± {error:.3f} of {logs} logs; truth {truth:.3f}, bias {bias:+.3f}, width {np.median(widths):.3f}"
        note += f", without end {endless:.1%}" if endless else ""
        figures.append(Figure(f"off_policy/coverage/{name}/{method}", covered, "", Target("≥", LEAST_COVERED), note))
    return figures


def _learned(tenants: int) -> list[Figure]:
    """What rankers are worth to new users: the one that held, and those learned from choices as they come, and by where
    they stood, as places were looked at in the questions whose order was drawn."""
    judged = questions(10**6 + 1, 20_000, 1, MANY_OPTIONS)
    looked_at_by: list[tuple[float, ...]] = []
    worths: list[tuple[float, float]] = []
    for seed in range(tenants):
        listed = [each.listed for each in questions(2 * 10**6 + seed, 300, 3, MANY_OPTIONS)]
        looked_at = examination(
            [
                (each.order.ranks[each.chosen], len(each.scores))
                for each in listed
                if each.order.is_drawn and each.chosen is not None
            ]
        )
        looked_at_by.append(looked_at)
        raw, debiased = fit(listed, (1.0,) * len(looked_at)), fit(listed, looked_at)
        worths.append((worth_of(judged, raw, 0.0), worth_of(judged, debiased, 0.0)))
    raw, debiased = np.array(worths).T
    seen = np.mean(looked_at_by, axis=0)
    better = debiased - raw
    low = float(better.mean() - 1.96 * better.std(ddof=1) / np.sqrt(tenants))
    note = f"of {tenants} tenants with 900 questions each"
    places = ", ".join(f"{found:.2f} for {true:.2f}" for found, true in zip(seen[1:], LOOKED_AT[1:], strict=False))
    return [
        Figure("off_policy/ranker/held", worth_of(judged, {}, 0.0), "", None, "reciprocal rank of what is chosen"),
        Figure("off_policy/ranker/raw", float(raw.mean()), "", None, note),
        Figure("off_policy/ranker/debiased", float(debiased.mean()), "", None, f"places looked at: {places}"),
        Figure("off_policy/ranker/best", worth_of(judged, WORTH, 0.0), "", None, "what users mean, known"),
        Figure("off_policy/ranker/debiased_over_raw", float(better.mean()), "", None, mean_interval(better)),
        Figure("off_policy/ranker/debiased_over_raw/low", low, "", Target("≥", 0.0), "the end of its 95 % interval"),
    ]
