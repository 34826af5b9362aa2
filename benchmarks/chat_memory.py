"""What a fact told in one conversation does to an answer in another, on a real small model, counted.

    python -m benchmarks.chat_memory [--gguf FILE] [--json FILE] [--results FILE] [--quick]

50 users each tell the chat proxy a fact about themselves among two others, and ask about it in a conversation of its
own, once with memory off and once with memory on, at temperature 0. An answer counts as right where it holds the
expected word. The model is the packaged one (SmolLM2, 135 million parameters) behind `SLM_IMPL=builtin`, or FILE; the
service is the real one, a process of its own with its embedded database. What it remembers is what it takes out of the
conversation by itself. Nothing is drawn by chance: the same model gives the same counts.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress

from app.clients.slm.builtin import find_model
from app.logs import configure_logs
from benchmarks.model_servers import ModelServer, Wire, running_service
from benchmarks.report import Figure, arguments, describe_machine, new_progress, publish

MAX_TOKENS = 40
REMEMBERED_S = 60.0

FACTS = (
    ("My dog is called {}.", "What is the name of my dog?", "Biscuit Rollo Pepper Ziggy Marlow"),
    ("I live in {}.", "Which city do I live in?", "Lisbon Krakow Bergen Osaka Quito"),
    ("My sister works as a {}.", "What is the job of my sister?", "carpenter surgeon pilot florist judge"),
    ("I am allergic to {}.", "What am I allergic to?", "peanuts shellfish penicillin pollen latex"),
    ("My favourite colour is {}.", "What is my favourite colour?", "turquoise crimson indigo amber violet"),
    ("I play the {} in an orchestra.", "Which instrument do I play?", "oboe cello harp bassoon trumpet"),
    ("My car is a {}.", "What car do I drive?", "Volvo Peugeot Subaru Skoda Honda"),
    ("I am learning {}.", "Which language am I learning?", "Hungarian Swahili Korean Welsh Finnish"),
    ("My daughter is called {}.", "What is the name of my daughter?", "Ingrid Noemi Astrid Paloma Beatrix"),
    ("My flight leaves on {}.", "On which day does my flight leave?", "Tuesday Thursday Saturday Monday Sunday"),
)
OTHERS = ("I have two brothers.", "My office is on the third floor.", "I went to the cinema last week.")


@dataclass(frozen=True)
class Case:
    """What a user tells, what they ask in another conversation, and the word that answers it."""

    user_id: str
    told: str
    asked: str
    expected: str


def cases() -> list[Case]:
    """Ten kinds of facts with five values each; the fact stands among two others, at every place."""
    made: list[Case] = []
    for kind, (fact, question, values) in enumerate(FACTS):
        for number, value in enumerate(values.split()):
            others = [other for other in OTHERS if other != OTHERS[(kind + number) % len(OTHERS)]]
            place = number % 3
            told = [*others[:place], fact.format(value), *others[place:]]
            made.append(Case(f"user-{kind}-{number}", " ".join(told), question, value))
    return made


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gguf", type=Path)
    own, rest = parser.parse_known_args()
    options = arguments(__doc__, rest)
    machine = describe_machine(("xllamacpp",))
    folder = Path(tempfile.mkdtemp(prefix="embed-bench-")).resolve()
    folder.chmod(0o711)  # a database server that is not root has to reach its files
    configure_logs(folder / "logs", "WARNING", to_stdout=False)
    chosen = cases()[::10] if options.quick else cases()
    try:
        with new_progress(Console(stderr=True)) as progress:
            figures = uvloop.run(run(own.gguf, chosen, folder, progress, machine))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    note = f"{len(chosen)} users; an answer is right where it holds the expected word, whatever else it says."
    publish(options, "A fact of one conversation in another", figures, machine, note)


async def run(
    gguf: Path | None, chosen: list[Case], folder: Path, progress: Progress, machine: dict[str, str]
) -> list[Figure]:
    """All figures."""
    model = find_model(gguf, folder)
    machine["model"] = f"{model.stem}, llama.cpp, one thread"
    settings = {"SLM_IMPL": "builtin", "BUILTIN_MODEL": str(model), "CHAT_CLARIFY": "off"}
    server = ModelServer("", None, "")
    right = {"on": 0, "off": 0}
    found = 0
    async with running_service(folder, "", server, settings) as address:
        wire = Wire(address)
        bar = progress.add_task("conversations", total=len(chosen))
        for case in chosen:
            await chat(wire, model.stem, case.user_id, case.told, "on", 8)
            found += await remembered(wire, case)
            for mode in right:
                answer = await chat(wire, model.stem, case.user_id, case.asked, "read" if mode == "on" else "off")
                right[mode] += case.expected.lower() in answer.lower()
            progress.advance(bar)
        await wire.aclose()
    share = len(chosen)
    return [
        Figure("right/on", right["on"], f"of {share}", note="memory on"),
        Figure("right/off", right["off"], f"of {share}", note="memory off"),
        Figure("accuracy/on", right["on"] / share),
        Figure("accuracy/off", right["off"] / share),
        Figure("remembered", found, f"of {share}", note="the fact was found among the first three memories"),
    ]


async def chat(wire: Wire, model: str, user_id: str, text: str, memory: str, max_tokens: int = MAX_TOKENS) -> str:
    """The answer to one message, a conversation of its own."""
    body = json.dumps(
        {
            "model": model,
            "user": user_id,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "seed": 1,
            "max_tokens": max_tokens,
        }
    ).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += f"x-memory: {memory}\r\ncontent-length: {len(body)}\r\n\r\n"
    reply = await wire.send(head.encode() + body)
    if reply.status != 200:
        raise SystemExit(f"the proxy answered {reply.status}: {reply.body[:300]!r}")
    return json.loads(reply.body)["choices"][0]["message"]["content"]


async def remembered(wire: Wire, case: Case) -> bool:
    """Whether what was told is held and found; it is written after the answer, so it is waited for."""
    deadline = time.monotonic() + REMEMBERED_S
    while time.monotonic() < deadline:
        reply = await wire.post("/v1/memories/search", {"user_id": case.user_id, "query": case.asked, "limit": 3})
        if reply.status == 200 and json.loads(reply.body)["results"]:
            return case.expected in reply.body.decode()
        await asyncio.sleep(0.1)
    return False


if __name__ == "__main__":
    main()
