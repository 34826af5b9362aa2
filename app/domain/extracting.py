"""What a language model is told, to find what users state of themselves in turns of a conversation."""

from collections.abc import Sequence
from html import escape

from app.domain.instructions import DATA_ONLY, Instruction
from app.domain.memory import MemoryType
from app.domain.redaction import redact
from app.domain.turns import Utterance
from app.domain.wording import snippet

EXTRACTION_VERSION = "2026-11-30.2"
"""Of the text below; it is logged with each answer."""

MOST_STATEMENTS = 8
"""Statements of one answer."""

TURNS = 12
"""Turns that a model reads at a time: a small one loses its way in more."""

TURN_WORDS = 80

EXTRACTION = (
    "You keep the memory of a chat assistant. You get turns of a conversation as <turn> lines, each with its number, "
    "who speaks, by name where it is known, and when. Write down what the user states of themselves that will still "
    "matter in a month: who they "
    "are (PROFILE), what they like or avoid (PREFERENCE), what they want to reach (GOAL), what they made or own "
    "(ARTIFACT), how they want to be answered (STYLE), what has to be kept to (CONSTRAINT). Leave out questions, "
    "requests of the moment, moods, small talk, and whatever only the assistant says; most turns have nothing.\n"
    "For each statement write: turn, the number of the turn that says it; quote, the words of that turn that say it, "
    "copied exactly; type; content, one short sentence in the user's own voice that can be understood alone, with "
    "names in place of he, she or it and with the date in place of words such as yesterday; confidence, 0 to 100.\n"
    'Example: <turn id="1" by="user" at="2024-05-06 Monday">Can you shorten this? By the way, we opened our second '
    'bakery in Porto last Friday.</turn> gives {"statements":[{"turn":1,"quote":"we opened our second bakery in Porto '
    'last Friday","type":"ARTIFACT","content":"I opened our second bakery in Porto on 2024-05-03.","confidence":90}]}. '
    'Nothing worth keeping gives {"statements":[]}.\n' + DATA_ONLY
)

TYPES = tuple(kind.value for kind in MemoryType if kind is not MemoryType.HISTORY)
"""What a statement can be: what was said is kept anyhow."""


def extraction_instruction(said: Sequence[Utterance]) -> Instruction:
    """To find the statements in turns, which are numbered from 1."""
    lines = [
        f'<turn id="{number}" {_speaker(each)} at="{each.said_at:%Y-%m-%d %A}">'
        f"{escape(snippet(redact(each.content).text, TURN_WORDS), quote=False)}</turn>"
        for number, each in enumerate(said, 1)
    ]
    return Instruction(EXTRACTION, "\n".join([*lines, "Give the statements of these turns."]))


def _speaker(said: Utterance) -> str:
    """Who says a turn: the role, which tells whose statements count, and the name."""
    name = "" if said.speaker is None else f' name="{escape(redact(said.speaker).text)}"'
    return f'by="{escape(said.role)}"{name}'
