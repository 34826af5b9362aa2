"""Made-up conversations in LoCoMo's layout, for the benchmark of memory: `python -m tests.talks` writes the file again.

Two people tell each other of small things, each with an answer that shares few words with what is asked about it later.
Every kind of small thing comes two or three times, of another thing each time.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

PATH = Path(__file__).parent / "data" / "talks" / "talks" / "talks.json"
"""In a folder of its own, as `--data` takes it."""
BEGIN = datetime(2024, 3, 4, 18, 10)
SINGLE, MULTI, TEMPORAL, OPEN, ADVERSARIAL = 4, 1, 2, 3, 5
PER_SESSION = 3

SLOTS = {
    "craft": ("pottery", "carpentry", "weaving"),
    "sport": ("rowing", "fencing", "archery"),
    "music": ("violin", "clarinet", "cello"),
    "plant": ("lemon tree", "fern", "orchid"),
    "vehicle": ("van", "scooter", "bicycle"),
    "animal": ("parrot", "greyhound", "tortoise"),
    "kin": ("aunt", "cousin", "grandfather"),
    "dish": ("lasagne", "goulash", "paella"),
    "town": ("Bergen", "Ghent", "Turin"),
    "room": ("kitchen", "attic", "cellar"),
}

OPENERS = (
    "How did the {} go?",
    "Any news about the {}?",
    "You wanted to tell me about the {}.",
    "So, what became of the {}?",
    "Did anything come of the {}?",
)
REACTIONS = (
    "Oh dear, and then?",
    "That sounds like you. What did you do?",
    "I would have laughed. How did it end?",
    "Really? And after that?",
)
GREETINGS = ("Hey {}, long time no see!", "Hi {}! Busy week?", "{}, there you are!", "Good evening, {}!")
BACK = ("Hello! Yes, far too much to do.", "Hi! I only just sat down.", "Hey, good to hear your voice.")
BYES = ("I have to run, talk soon!", "Let us speak again next week.", "Take care of yourself!", "Good night then!")

ANSWER, DETAIL, BOTH = (0,), (1,), (0, 1)


@dataclass(frozen=True)
class Thing:
    """A kind of small thing: what it is, what is asked about it later, which of answer and detail tell that, and such
    answers with such details."""

    subject: str
    question: str
    category: int
    evidence: tuple[int, ...]
    told: Sequence[tuple[str, str]]

    def filled(self, time: int, slots: Mapping[str, str]) -> "Thing":
        """One of them, with one way of telling it."""
        asked = self.question.replace("{}", "{{}}").format(**slots)
        return replace(self, subject=self.subject.format(**slots), question=asked, told=[self.told[time]])


THINGS = (
    Thing(
        "{craft} class",
        "What does {} use what was made in the {craft} lessons for?",
        SINGLE,
        DETAIL,
        (
            ("My first piece came out crooked.", "I keep pencils in it now."),
            ("It leans to one side.", "The cat sleeps on top of it."),
            ("Nobody could guess what it was meant to be.", "It holds the door open."),
        ),
    ),
    Thing(
        "{sport} contest",
        "Which place did {} get at {sport}?",
        SINGLE,
        ANSWER,
        (
            ("I came in ninth of eleven.", "My elbow hurt for four days."),
            ("Second, by a hair!", "They gave us ribbons and soup."),
            ("Dead last, and proud of it.", "The judge lent me her umbrella."),
        ),
    ),
    Thing(
        "{music} lesson",
        "When does {} practise the {music}?",
        TEMPORAL,
        DETAIL,
        (
            ("The teacher said to loosen my wrist.", "So it is twenty minutes before breakfast, every day."),
            ("I still squeak on the high notes.", "I only dare to do it at lunchtime."),
            ("We began with scales.", "Mostly after ten at night, with a towel under the door."),
        ),
    ),
    Thing(
        "sick {plant}",
        "What was wrong with {}'s {plant}?",
        SINGLE,
        ANSWER,
        (
            ("I had drowned it, poor thing.", "It stands by the window with dry soil."),
            ("Tiny spiders, everywhere.", "I washed every leaf with soap."),
            ("It wanted a bigger pot.", "The roots had cracked the old one."),
        ),
    ),
    Thing(
        "{vehicle} repair",
        "How much did {} pay for mending the {vehicle}?",
        SINGLE,
        ANSWER,
        (
            ("The bill was three hundred and ten.", "Half of it was for the brakes."),
            ("Only forty in the end!", "It was nothing but a loose screw."),
            ("They wanted nine hundred, we settled on seven.", "The gearbox had to go."),
        ),
    ),
    Thing(
        "{animal} from the shelter",
        "Where does {}'s {animal} hide, and what is it called?",
        MULTI,
        BOTH,
        (
            ("She creeps behind the boiler all day.", "We named her Pepper."),
            ("He vanishes under the bath.", "My niece wanted him to be Admiral."),
            ("Always inside the laundry basket.", "Biscuit, because of the colour."),
        ),
    ),
    Thing(
        "visit of your {kin}",
        "How long did the {kin} of {} stay?",
        TEMPORAL,
        ANSWER,
        (
            ("It was nine days altogether.", "We ran out of towels on the second."),
            ("Just the one afternoon.", "There was hardly time for cake."),
            ("From Easter until the middle of May!", "I know every story twice now."),
        ),
    ),
    Thing(
        "{dish} for the neighbours",
        "How did the {dish} that {} cooked turn out?",
        SINGLE,
        ANSWER,
        (
            ("I burned the bottom of the pot.", "They asked for seconds all the same."),
            ("Far too salty.", "We ordered pizza and laughed."),
            ("Best thing I ever made.", "Mrs Okafor wrote down what I did."),
        ),
    ),
    Thing(
        "trip to {town}",
        "What did {} do while waiting on the way to {town}?",
        OPEN,
        DETAIL,
        (
            ("The train stood still for two hours.", "I read a whole novel on the platform."),
            ("They closed the road because of ice.", "We built a snowman beside the motorway."),
            ("The ferry had lost its captain.", "I learned a card game from two sailors."),
        ),
    ),
    Thing(
        "new {room}",
        "What went wrong when {} had the {room} done?",
        SINGLE,
        ANSWER,
        (
            ("The painter chose the wrong green.", "I have grown to like it."),
            ("They fitted the door upside down.", "The handle is at my knees."),
            ("Somebody drilled into a pipe.", "The carpet dried for a month."),
        ),
    ),
)


def told_things(times: int, random: Random) -> list[Thing]:
    """Each of THINGS so many times, of another thing each time, in mixed order."""
    values = {name: random.sample(given, len(given)) for name, given in SLOTS.items()}
    made = [
        thing.filled(time, {name: each[time] for name, each in values.items()})
        for thing in THINGS
        for time in range(times)
    ]
    random.shuffle(made)
    return made


def conversation(name: str, people: tuple[str, str], times: int, seed: int) -> dict[str, Any]:
    """One conversation with its questions, the same for the same seed."""
    random = Random(seed)
    told = told_things(times, random)
    held: dict[str, Any] = {"speaker_a": people[0], "speaker_b": people[1]}
    asked: list[dict[str, Any]] = []
    for number, start in enumerate(range(0, len(told), PER_SESSION), 1):
        began = BEGIN + timedelta(days=9 * number, minutes=random.randrange(90))
        turns: list[dict[str, str]] = []
        for speaker, text, things in session(told[start : start + PER_SESSION], people, random):
            turns.append({"speaker": speaker, "dia_id": f"D{number}:{len(turns) + 1}", "text": text})
            asked += questions_about(things, people, speaker, turns)
        held[f"session_{number}_date_time"] = began.strftime("%I:%M %p on %d %B, %Y").lstrip("0").lower()
        held[f"session_{number}"] = turns
    return {"sample_id": name, "conversation": held, "qa": asked}


def session(told: Sequence[Thing], people: tuple[str, str], random: Random) -> Iterator[tuple[str, str, Thing | None]]:
    """Who says what, and with the last turn of a thing which thing it was."""
    a, b = random.sample(people, 2)
    yield a, random.choice(GREETINGS).format(b), None
    yield b, random.choice(BACK), None
    for each in told:
        asking, telling = random.sample(people, 2)
        yield asking, random.choice(OPENERS).format(each.subject), None
        answer, detail = each.told[0]
        yield telling, answer, None
        yield asking, random.choice(REACTIONS), None
        yield telling, detail, each
    yield a, random.choice(BYES), None
    yield b, random.choice(BYES), None


def questions_about(
    told: Thing | None, people: tuple[str, str], speaker: str, turns: Sequence[dict[str, str]]
) -> Iterator[dict[str, Any]]:
    """What is asked about a thing that `speaker` has just told, and the same of the other one, who told no such
    thing."""
    if told is None:
        return
    telling = turns[-3]["dia_id"], turns[-1]["dia_id"]
    evidence = [telling[at] for at in told.evidence]
    yield {"question": told.question.format(speaker), "evidence": evidence, "category": told.category}
    if told.category == SINGLE:
        other = people[0] if speaker == people[1] else people[1]
        yield {"question": told.question.format(other), "evidence": evidence, "category": ADVERSARIAL}


def document() -> list[dict[str, Any]]:
    """What is in the file."""
    return [
        conversation("talk-1", ("Rosalind", "Theo"), 3, seed=1),
        conversation("talk-2", ("Imke", "Bashir"), 2, seed=2),
    ]


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(json.dumps(document(), indent=1) + "\n", encoding="utf-8")
