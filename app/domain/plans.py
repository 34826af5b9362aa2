"""Dated facts: what comes on a day that a sentence names (`My flight leaves on 12 June`), and days that return.

English."""

import re

from app.domain.memory import MemoryType
from app.domain.times import names_day_ahead

_EVENT = (
    r"(?:appointment|check-?up|operation|surgery|scan|interview|exam|test|viva|meeting|call|presentation|talk|"
    r"conference|workshop|course|class|flight|train|ferry|bus|trip|holiday|vacation|move|wedding|party|reception|"
    r"funeral|graduation|ceremony|concert|gig|play|match|race|marathon|tournament|game|date|dinner|lunch|"
    r"reservation|booking|visit|hearing|deadline|due date|delivery|viewing|shift|audition|performance|anniversary|"
    r"birthday|ticket)s?"
)
_WORDS = r"(?:[\w'’-]+ ){0,4}?"
_DOING = (
    r"(?:getting|marrying|moving|flying|leaving|travell?ing|going|driving|sailing|graduating|retiring|starting|"
    r"finishing|having|seeing|meeting|visiting|running|hosting|attending|speaking|performing|returning|coming|"
    r"expecting|due)"
)
_RETURNS = re.compile(
    r"\b(?:my|our) (?:[\w'’-]+ ){0,3}?(?:birthday|anniversary|name day)\b[^.]*?\b(?:is|falls|'s)\b|"
    r"\b(?:i|we)(?: was| were) born\b",
    re.IGNORECASE,
)
_BEGINS = r"(?:leaves?|departs?|takes? off|starts?|begins?|arrives?|lands?|expires?|ends?|closes?|opens?|is|are)"
_COMES = re.compile(
    rf"\b(?:my|our) {_WORDS}{_BEGINS}\b|\b(?:my|our) {_WORDS}{_EVENT}\b|\bthe {_WORDS}{_EVENT} {_BEGINS}\b|"
    rf"\b(?:i|we)(?:'ve| have)?(?: got| have| booked| made| scheduled|'ve got) (?:an?|my|our|the|another|two|some) "
    rf"{_WORDS}{_EVENT}\b|\b(?:i|we)(?:'m| am|'re| are|'ll be| will be) {_WORDS}{_DOING}\b|"
    r"\b(?:i|we)(?:'ll| will)? (?:fly|leave|move|marry|travel|graduate|retire|start|return)\b",
    re.IGNORECASE,
)
_OPEN = re.compile(
    r"\b(?:if|would|might|could|wish|unless|maybe|perhaps|every|each|usually|always|was|were|had|not|never|no|"
    r"cancell?ed|called off|today|tonight)\b|n't\b|\?$",
    re.IGNORECASE,
)
"""What keeps a sentence from being a plan; what is over today needs none."""


def plan_in(text: str) -> MemoryType | None:
    """What a sentence that names a day is as a memory: PROFILE where the day returns (a birthday), GOAL where something
    is to come on it; None for no such sentence, for conditions, habits, denials and the past."""
    line = " ".join(text.replace("’", "'").split())
    if not names_day_ahead(line):
        return None
    if _RETURNS.search(line):
        return MemoryType.PROFILE
    return MemoryType.GOAL if _COMES.search(line) and not _OPEN.search(line) else None
