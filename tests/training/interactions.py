"""The people of one house: they ask for something in few words and choose what they mean.

Everybody says what they know themselves, which the service guesses first, but by a vague request the whole house means
the same, whatever they know: "get fit" are exercises at home here, "write something" is to better what was written. No
prompt tells; a model that learnt from some of them knows it of the others.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

NAMES = (
    "I like {} best",
    "My favourite is {}",
    "I know {} well",
    "I am happiest with {}",
    "I have experience with {}",
    "I have read a lot about {}",
)
WAYS = (
    "that takes 30 minutes",
    "summer holiday",
    "day by day",
    "workouts at home",
    "wording of a text",
    "into English",
    "end-to-end tests",
    "unit tests in Python",
    "REST API in Python",
    "command-line tool",
    "cloud platform",
    "continuous deployment",
    "Explore the CSV file",
    "Python script that does the task",
    "what this error message means",
)
"""What the house means: each is a part of one reading of the catalogue. The first that is shown is chosen."""

COMMENTS = (
    "too long",
    "too short, I wanted the details",
    "step by step, please",
    "less formal",
    "code first",
    "thanks",
)
COUNT = 3


@dataclass(frozen=True)
class Field:
    """Something to have a taste in: the values, and what people type who leave the value out."""

    values: tuple[str, ...]
    inputs: tuple[str, ...]


TECHNICAL = (
    Field(
        ("Python", "JavaScript", "TypeScript", "Kotlin", "Java", "PHP", "Scala", "PowerShell"),
        (
            "build a backend",
            "code a small tool",
            "write a function for this",
            "add a feature",
            "make a bot",
            "fix this bug",
            "why is it crashing",
            "troubleshoot this",
            "write tests",
            "add unit tests",
            "mock the service",
            "verify my code",
            "set up a new project",
        ),
    ),
    Field(
        ("Kubernetes", "Azure", "Google Cloud", "Heroku", "DigitalOcean", "Netlify", "my own server"),
        (
            "deploy my app",
            "put the service online",
            "get this running",
            "host my site",
            "release the new version",
            "publish the app",
            "set up hosting",
            "push it live",
            "ship it",
        ),
    ),
    Field(
        ("Google Sheets", "Power BI", "pandas", "Grafana", "Jira", "Trello", "Zapier", "Jenkins"),
        (
            "automate this",
            "do it every day",
            "schedule a job",
            "send reports automatically",
            "look at these numbers",
            "find trends",
            "make a chart",
            "explore the dataset",
            "analyse the data",
        ),
    ),
)
EVERYDAY = (
    Field(
        ("vegan", "vegetarian", "gluten-free", "low-carb", "halal", "kosher", "dairy-free", "pescatarian"),
        (
            "what's for dinner",
            "cook something",
            "recipe ideas",
            "quick lunch",
            "meal plan",
            "use up leftovers",
            "healthy breakfast",
            "what can I eat",
            "bake a cake",
        ),
    ),
    Field(
        ("Lisbon", "Berlin", "Tokyo", "Rome", "Dublin", "Prague", "Vienna", "Athens", "Madrid", "Seoul"),
        (
            "plan a trip",
            "where should I go",
            "holiday ideas",
            "weekend away",
            "book a vacation",
            "travel tips",
            "itinerary please",
            "find me flights",
            "pack for my trip",
        ),
    ),
    Field(
        ("marathon", "weight loss", "muscle gain", "better sleep", "stress relief", "half marathon", "10K run"),
        (
            "get fit",
            "workout plan",
            "start running",
            "stretch routine",
            "exercise at home",
            "gym plan",
            "get in shape",
            "training for a race",
        ),
    ),
    Field(
        ("newsletter", "short story", "essay", "poem", "tutorial", "slide deck", "blog post", "cheat sheet"),
        (
            "write something",
            "help me write",
            "compose a speech",
            "draft a post",
            "continue the text",
            "make it sound better",
            "rewrite this",
        ),
    ),
    Field(
        ("Spanish", "Italian", "Dutch", "Swedish", "Greek", "Japanese", "Korean", "Portuguese", "German"),
        (
            "translate this",
            "say it in another language",
            "how do you say this",
            "localise the app",
            "translation please",
            "convert the text",
            "translate the email",
        ),
    ),
)


@dataclass(frozen=True)
class Person:
    """A user with the memories that tell of them, and what they will ask."""

    user_id: str
    known: Sequence[str]
    memories: Sequence[Mapping[str, Any]]
    inputs: Sequence[str]

    def choose(self, questions: Sequence[str]) -> int | None:
        """The place of the reading that is meant: the house's way, else one with something of their own; None where
        neither is shown."""
        for part in (*WAYS, *self.known):
            for place, question in enumerate(questions):
                if part.lower() in question.lower() and "“" not in question:
                    return place
        return None


@dataclass
class Played:
    """What was played: how many interactions, where the chosen reading stood, and what was said besides."""

    interactions: int = 0
    places: Counter[int] = field(default_factory=Counter[int])
    decisions: Counter[str] = field(default_factory=Counter[str])
    feedback: int = 0
    preferences: int = 0


def make_person(number: int, interactions: int, dice: random.Random, now: datetime) -> Person:
    """Somebody new. `now` dates their memories."""
    fields = dice.choice(TECHNICAL), dice.choice(EVERYDAY)
    known = [dice.choice(each.values) for each in fields]
    memories = [
        {
            "type": "PREFERENCE",
            "content": dice.choice(NAMES).format(value),
            "valid_from": (now - timedelta(days=dice.randint(1, 300))).isoformat(),
        }
        for value in known
    ]
    inputs = [text for each in fields for text in each.inputs]
    return Person(f"person-{number}", known, dice.sample(memories, len(memories)), dice.sample(inputs, interactions))


def play(client: httpx.Client, interactions: int = 300, each: int = 3, seed: int = 7) -> Played:
    """Play `interactions` through the API, `each` by one person."""
    dice, played, now = random.Random(seed), Played(), datetime.now(UTC)
    for number in range(-(-interactions // each)):
        person = make_person(number, each, dice, now)
        post(client, "/v1/memories", user_id=person.user_id, memories=person.memories)
        for text in person.inputs[: interactions - played.interactions]:
            interact(client, person, text, dice, played)
    return played


def interact(client: httpx.Client, person: Person, text: str, dice: random.Random, played: Played) -> None:
    """One question, the person's choice, and now and then what they thought of it."""
    user = {"user_id": person.user_id, "input_text": text}
    answer = post(client, "/v1/hypothesize", **user, count=COUNT)
    shown = answer["hypotheses"]
    set_id = answer["hypothesis_set_id"]
    place = person.choose([one["question"] for one in shown])
    own_words = {"custom_answer": f"I mean something with {person.known[0]}"}
    settled = own_words if place is None else {"hypothesis_id": shown[place]["id"]}
    execution = post(client, "/v1/execute", **user, hypothesis_set_id=set_id, **settled)
    played.interactions += 1
    played.places[0 if place is None else place + 1] += 1
    played.decisions[answer["decision"]] += 1
    rejected = [one for index, one in enumerate(shown) if index != place]
    if rejected and dice.random() < 0.15:
        comment = dice.choice(COMMENTS)
        post(
            client,
            "/v1/feedback",
            user_id=person.user_id,
            execution_id=execution["execution_id"],
            hypothesis_set_id=set_id,
            comment=comment,
            success=True,
            rejected_ids=[rejected[-1]["id"]],
        )
        played.feedback += 1
    if place is not None and rejected and dice.random() < 0.15:
        worse = dice.choice(rejected)
        post(
            client,
            "/v1/preferences",
            user_id=person.user_id,
            hypothesis_a=shown[place]["question"],
            hypothesis_b=worse["question"],
            preferred="hypothesis_a",
        )
        played.preferences += 1


def post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    """The answer to a call that has to succeed."""
    answer = client.post(path, json=body)
    assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
    return answer.json()
