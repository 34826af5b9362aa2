"""What is remembered and asked.

Questions are German and memories English, so that no word of a question is found in a memory: what a search returns
is then decided by the vectors alone, and can be compared with brute force over them. For the same reason no memory
asks something, or tells a fact that another might set right; and none is of a conversation, where the ones beside it
would count.
"""

from itertools import islice, product
from pathlib import Path
from random import Random

from app.domain.extraction import facts_in
from app.domain.facts import correction_in
from benchmarks import sentences

_WHO = ("meine Schwester", "unser Nachbar", "mein Onkel", "die Kollegin", "unsere Tochter", "der Vermieter")
_WHAT = (
    "macht {wer} abends am liebsten",
    "hat {wer} gestern gekocht",
    "wollte {wer} nächsten Sommer lernen",
    "liest {wer} gerade",
    "repariert {wer} schon wieder",
    "schenken wir {wer} zu Weihnachten",
    "verkauft {wer} auf dem Flohmarkt",
    "befürchtet {wer} wegen der Prüfung",
)
_DISTINCT = 1500
"""Sentences from which memories are made; each is used with many occasions."""


def questions() -> list[str]:
    """48 of them."""
    return [f"Was {what.format(wer=who)}?" for what, who in product(_WHAT, _WHO)]


def pool(data: Path | None, random: Random) -> list[str]:
    """Distinct short sentences (about a dozen word pieces): LoCoMo's and ClariQ's, else made ones."""
    if data is None:
        return [text for _, text in sentences.from_templates(random, _DISTINCT).memories]
    said = (text for _, text in sentences.from_data(data, random, 100 * _DISTINCT).memories)
    return list(islice((text for text in said if len(text) <= 45 and _is_plain(text)), _DISTINCT))


def _is_plain(text: str) -> bool:
    return not text.rstrip().endswith("?") and not facts_in(text) and correction_in(text) is None


def uses() -> list[str]:
    """Endings that make one sentence into many; the first is none."""
    return ["", *(f" ({number})" for number in range(2, 1000))]
