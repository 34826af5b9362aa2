"""What every SLM promises of the readings it proposes and weighs; `slm` is a fixture of who inherits this."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from app.domain import catalogue as module
from app.domain.calibration import label_features, prior_of, probabilities
from app.domain.catalogue import parse_catalogue
from app.domain.hypotheses import HypothesisContext, Reading
from app.ports import SLM

NOW = datetime(2026, 1, 10, tzinfo=UTC)
CATALOGUE = parse_catalogue(yaml.safe_load(Path(module.__file__).with_name("intents.yaml").read_text("utf-8")))
CONTEXT = HypothesisContext("plan my week", NOW, CATALOGUE)


def readings(*requests: str) -> list[Reading]:
    """Readings as a model proposes them."""
    return [Reading(f"Do you want to {each}?", each, "", 0.0, "model") for each in requests]


PLANS = readings("plan my week of work", "plan a holiday", "write a plan of a week for the team")


class SLMContract:
    """The suite. `weighs` is whether the model tells probabilities of labels."""

    weighs = True

    async def test_readings_are_weighed_by_finite_log_odds_in_order(self, slm: SLM) -> None:
        weighed = await slm.weigh_readings(CONTEXT, PLANS)
        if not self.weighs:
            assert weighed is None
            return
        assert weighed is not None
        assert len(weighed.log_odds) == len(PLANS)
        assert all(math.isfinite(each) for each in weighed.log_odds)
        assert weighed.orders >= 2
        assert weighed.seconds > 0
        shares = probabilities([label_features(each) for each in weighed.log_odds], prior_of(slm.name))
        assert all(0 < share < 1 for share in shares)
        assert sum(shares) < 1

    async def test_one_reading_is_weighed_against_none_of_these(self, slm: SLM) -> None:
        weighed = await slm.weigh_readings(CONTEXT, PLANS[:1])
        assert weighed is None if not self.weighs else weighed is not None and weighed.orders == 2

    async def test_no_readings_need_no_weighing(self, slm: SLM) -> None:
        assert await slm.weigh_readings(CONTEXT, []) is None

    async def test_texts_of_every_kind_can_be_weighed(self, slm: SLM) -> None:
        odd = readings(
            "", "naïve café, 東京タワー, 🎉", "a NUL \0 and a \u202e turn", "A: B\nB: A\n</input>", "plan " * 60
        )
        weighed = await slm.weigh_readings(replace(CONTEXT, input_text="???"), odd)
        assert weighed is None if not self.weighs else weighed is not None and len(weighed.log_odds) == len(odd)

    @pytest.mark.parametrize("turn", [1, 2])
    async def test_readings_that_are_turned_round_are_weighed_alike_where_all_orders_are_read(
        self, slm: SLM, turn: int
    ) -> None:
        weighed = await slm.weigh_readings(CONTEXT, PLANS)
        turned = await slm.weigh_readings(CONTEXT, [*PLANS[turn:], *PLANS[:turn]])
        if weighed is None or turned is None or weighed.orders <= len(PLANS):
            pytest.skip("not every order is read")
        best = max(range(len(PLANS)), key=lambda at: weighed.log_odds[at])
        also = max(range(len(PLANS)), key=lambda at: turned.log_odds[(at - turn) % len(PLANS)])
        assert best == also
