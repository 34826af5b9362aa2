"""Sentences to remember, to search with and to ask, made from templates or read from public data sets.

The templates leave out what the service would take for one value in place of another ("I live in …"), so that
sentences add up instead of superseding each other.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

from app.domain.memory import MemoryType

TEMPLATES: Mapping[MemoryType, Sequence[str]] = {
    MemoryType.PROFILE: (
        "I grew up {place} and still visit {person} there {when}",
        "I play {hobby} with {person} {when}",
        "I have a degree in {subject} and teach {hobby} {place}",
        "{person} and I share a flat {place}, where we keep {thing}",
    ),
    MemoryType.PREFERENCE: (
        "I like {food} {when}, most of all {place}",
        "I enjoy reading about {subject} {when}",
        "I love {hobby} with {person}, but only {when}",
        "{food} with {person} {place} makes me happy",
    ),
    MemoryType.GOAL: (
        "I want to learn {hobby} {when} together with {person}",
        "I plan to build {thing} {place}",
        "I hope to write a book about {subject} {place}",
        "I intend to compare {tool} with what {person} uses for {thing}",
    ),
    MemoryType.HISTORY: (
        "We talked about {subject} and how {person} sees it {when}",
        "I tried {food} {place} and told {person} about it",
        "I fixed {thing} with {tool} while {person} was away",
        "I asked how to explain {subject} to {person}",
    ),
    MemoryType.ARTIFACT: (
        "There is a draft about {subject} that {person} reads {when}",
        "I have a script that feeds {tool} with the figures for {thing}",
        "The plan for {thing} {place} is in the shared folder of {person}",
        "I keep a spreadsheet of {food} and {hobby} for {person}",
    ),
    MemoryType.STYLE: (
        "Explain {subject} with pictures, as you would to {person}",
        "Keep it short when it is about {thing} and {tool}",
        "Give examples from {hobby} when you talk about {subject}",
        "Write about {food} the way {person} would tell it {when}",
    ),
    MemoryType.CONSTRAINT: (
        "I have no time for {hobby} {when}",
        "Everything about {thing} has to go through {person} first",
        "{food} gives me a headache {when}",
        "Whatever touches {tool} needs the consent of {person}",
    ),
}

QUESTIONS = (
    "What did I say about {subject} {when}?",
    "Who do I play {hobby} with?",
    "How do I like {food}?",
    "What am I building {place}?",
    "Which of my files are about {thing}?",
    "What does {person} think of {tool}?",
    "What should I remember about {hobby} and {food}?",
    "When do I see {person} {place}?",
)

INPUTS = (
    "build {thing}",
    "write something about {subject}",
    "help me with {tool}",
    "plan a trip for {person}",
    "find a recipe with {food}",
    "explain {subject}",
    "get better at {hobby}",
    "make a website about {hobby}",
    "fix my script for {tool}",
    "write an email to {person}",
    "build api",
    "compare {tool} with the others",
)

WORDS: Mapping[str, Sequence[str]] = {
    "place": """by the harbour|in the old town|in the mountains|at the lake house|near the station|on the island
        |in a small village|behind the market hall|at the university|in the botanical garden|on the night train
        |at the allotment|in the attic|under the bridge|at the seaside|in the basement|on the roof
        |next to the bakery|at the community centre|in the northern suburbs""",
    "person": """my sister|my uncle|my oldest friend|the neighbours|my business partner|my grandmother|a colleague
        |my flatmate|our accountant|my daughter|the football coach|my cousin|the new intern|my husband
        |our landlord|my choir|the reading group|my former boss|an exchange student|my twin brother""",
    "when": """on Sundays|in the evening|before breakfast|during the summer|after work|on rainy days|in early spring
        |once a month|when the children sleep|on long flights|at weekends|around Christmas|during lunch breaks
        |every other week|late at night|between two meetings|on public holidays|in the school holidays""",
    "hobby": """chess|rock climbing|pottery|bird watching|the cello|salsa dancing|beekeeping|fencing|calligraphy
        |kayaking|origami|amateur astronomy|woodworking|table tennis|improvised theatre|long-distance running
        |stamp collecting|watercolour painting|sailing|juggling|archery|knitting|mushroom hunting|yoga""",
    "subject": """medieval history|tax law|marine biology|the stock market|urban planning|volcanoes|machine learning
        |Greek mythology|nutrition|renewable energy|criminal psychology|jazz harmony|vaccines|the Roman roads
        |black holes|immigration|soil chemistry|typography|negotiation|game theory|sleep|medical ethics
        |the history of cinema|contract law|climate policy|artificial languages""",
    "food": """sourdough bread|very spicy curry|oysters|dark chocolate|fermented cabbage|green tea|lentil soup
        |goat cheese|mango salad|grilled aubergine|espresso|rhubarb cake|ramen|pickled herring|blueberry pancakes
        |roast chestnuts|peppermint ice cream|polenta|smoked tofu|elderflower lemonade|pumpkin risotto|dumplings""",
    "thing": """a greenhouse|the invoice archive|a weather station|the loyalty programme|a treehouse|a podcast
        |the customer survey|a wooden boat|the wedding album|an inventory system|a recipe collection|the tenants' forum
        |a home cinema|the onboarding guide|a telescope|the flea market stall|a solar heater|the booking calendar
        |a family chronicle|the quarterly forecast|a board game|the delivery routes""",
    "tool": """the label printer|Excel|the old sewing machine|Kubernetes|a slow cooker|the laser cutter|PostgreSQL
        |the ticket system|Figma|a torque wrench|the mailing list|Terraform|the drone camera|Grafana|the synthesiser
        |the band saw|Notion|the water pump|Python|the card reader""",
}

MONTHS = "January February March April May June July August September October November December".split()
MOODS = "gladly, again, for once, as always, by chance, half seriously, in passing, with some pride".split(", ")


@dataclass(frozen=True)
class Sentences:
    """What the users of a benchmark say: `memories` are distinct, the others may repeat."""

    memories: Sequence[tuple[MemoryType, str]]
    queries: Sequence[str]
    inputs: Sequence[str]


def from_templates(random: Random, count: int) -> Sentences:
    """`count` memories of all types in equal parts, and a few hundred queries and inputs."""
    words = {name: [each.strip() for each in text.split("|")] for name, text in WORDS.items()}
    kinds = list(MemoryType)
    memories: dict[str, MemoryType] = {}
    while len(memories) < count:
        kind = kinds[len(memories) % len(kinds)]
        memories.setdefault(_filled(random.choice(TEMPLATES[kind]), words, random), kind)
    return Sentences(
        [(kind, text) for text, kind in memories.items()],
        [_filled(random.choice(QUESTIONS), words, random) for _ in range(500)],
        [_filled(random.choice(INPUTS), words, random) for _ in range(300)],
    )


def from_data(folder: Path, random: Random, count: int) -> Sentences:
    """LoCoMo's turns and ClariQ's questions as memories (at most `count`), LoCoMo's questions as queries,
    ClariQ's requests as inputs. Raises SystemExit when the folder lacks them."""
    try:
        conversations = json.loads((folder / "locomo" / "locomo.json").read_text(encoding="utf-8"))
        tables = [_rows(path) for path in sorted((folder / "clariq").glob("*.tsv"))]
    except OSError as error:
        raise SystemExit(f"--data {folder} needs locomo/locomo.json and clariq/*.tsv: {error}") from None
    said = [
        turn["text"]
        for each in conversations
        for turns in each["conversation"].values()
        if isinstance(turns, list)
        for turn in turns
    ]
    asked = [row["question"] for table in tables for row in table]
    texts = [text for text in dict.fromkeys((*said, *asked)) if len(text) >= 20]
    if len(texts) < 1000:
        raise SystemExit(f"--data {folder} has {len(texts)} sentences: at least 1,000 are needed")
    random.shuffle(texts)
    kinds = list(MemoryType)
    queries = [item["question"] for each in conversations for item in each["qa"]]
    inputs = [row["initial_request"] for table in tables for row in table if "initial_request" in row]
    return Sentences(
        [(kinds[index % len(kinds)], text) for index, text in enumerate(texts[:count])],
        list(dict.fromkeys(queries)),
        list(dict.fromkeys(inputs)),
    )


def occasions() -> Iterator[str]:
    """Short clauses that make one sentence into many: ` (gladly, March 2021)`; 960 of them."""
    for year, month, mood in product(range(2016, 2026), MONTHS, MOODS):
        yield f" ({mood}, {month} {year})"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def _filled(template: str, words: Mapping[str, Sequence[str]], random: Random) -> str:
    text = template.format(**{name: random.choice(choices) for name, choices in words.items()})
    return text[0].upper() + text[1:]
