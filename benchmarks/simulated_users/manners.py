"""What simulated people do with what they are shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.simulated_users.office import Goal, Intent
from benchmarks.simulated_users.people import Dice, Person

READS_ON = 0.9
"""How often somebody who did not find what they mean reads the next option."""

SLIPS = 0.03
"""How often somebody who found it picks another one of those they read."""

SPEAKS = 0.25
"""How often somebody who did not find it says so in their own words, and not just "none of these"."""

SAYS_ALL = 0.5
"""How often these words name all that is meant; else one value."""

PRAISES = 0.7
"""How often somebody who got what they mean says so. Who did not always says so."""

REMARKS = 0.3
"""How often somebody remarks on the style of an answer."""

GUESSED = 0.5
"""How often an assistant that is left with the input takes the first reading, as `app.domain.decisions` assumes; else
it takes any."""

_REMARKS = {
    ("concise", 1): ("too long", "keep it short", "get to the point"),
    ("concise", -1): ("too brief", "more detail please", "not enough detail"),
    ("formal", 1): ("too casual", "more formal please", "more professional please"),
    ("formal", -1): ("too formal", "too stiff", "friendlier please"),
    ("code_first", 1): ("show me the code", "code first please", "more code please"),
    ("code_first", -1): ("less code please", "too much code", "too technical"),
    ("step_by_step", 1): ("walk me through it", "one step at a time please", "hard to follow"),
    ("step_by_step", -1): ("skip the steps", "just the result", "too many steps"),
}


@dataclass(frozen=True)
class Reply:
    """What somebody answers: the position of an option, or their own words, or neither: none of these."""

    picked: int | None = None
    words: str = ""


def names(text: str, intent: Intent, goal: Goal) -> bool:
    """Whether a text names what is meant: all its values, and no other value of the intent's slots."""
    said = text.lower()
    return {value for value in intent.values if value.lower() in said} == set(goal.values)


def found(options: Sequence[str], intent: Intent, goal: Goal) -> int | None:
    """The first option that names what is meant."""
    return next((at for at, text in enumerate(options) if names(text, intent, goal)), None)


def reply(options: Sequence[str], intent: Intent, goal: Goal, dice: Dice, question: int) -> Reply:
    """The answer to a question, read from the top: what is further down may stay unread, and is then turned down with
    the rest."""
    read = len(options)
    for at in range(1, len(options)):
        if dice.roll("read", question, at) >= READS_ON:
            read = at
            break
    at = found(options[:read], intent, goal)
    if at is not None:
        others = [other for other in range(read) if other != at]
        if others and dice.roll("slip", question) < SLIPS:
            return Reply(others[int(dice.roll("slip to", question) * len(others))])
        return Reply(at)
    return Reply(words=words(goal, dice, question)) if dice.roll("speak", question) < SPEAKS else Reply()


def words(goal: Goal, dice: Dice, question: int) -> str:
    """What somebody says in place of picking an option."""
    if dice.roll("say all", question) < SAYS_ALL:
        return goal.words
    return f"something with {goal.values[int(dice.roll('say', question) * len(goal.values))]}"


def guess(options: Sequence[str], intent: Intent, goal: Goal, dice: Dice) -> bool:
    """Whether an assistant that is left with the input does what is meant."""
    if options and dice.roll("guess") < GUESSED:
        return names(options[0], intent, goal)
    return intent.goals[int(dice.roll("guess of any") * len(intent.goals))] == goal


def remark(person: Person, dice: Dice) -> str:
    """What somebody says of the style of an answer; nothing more often than not."""
    cares = [(name, way) for name, way in person.style.items() if way]
    if not cares or dice.roll("remark") >= REMARKS:
        return ""
    said = _REMARKS[cares[int(dice.roll("remark on") * len(cares))]]
    return said[int(dice.roll("remark in") * len(said))]
