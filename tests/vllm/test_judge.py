"""The judge on a real vLLM: what it finds likely is what transformers computes, and a judgement comes to its end."""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from app.clients.slm.judged import BEGINNING, JudgedModel
from app.domain.instructions import hypotheses_instruction
from app.domain.promotion import parse_policy
from app.services.training.judge import Judge
from app.services.training.report import write_report
from tests.fakes import FakeEmbedder

from .conftest import ROOT, VENV, VllmServer

ADAPTER = "judged"
KNOWN = {"memories": [{"type": "PREFERENCE", "content": "I work with Python and FastAPI", "date": "2026-01-01"}]}
MESSAGES = hypotheses_instruction("build api", KNOWN, 3).messages
REQUESTS = ["Build an API in Python with FastAPI.", 'Write "API" für München 🦊', "Plan it"]

DIRECTLY = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, beginning = sys.argv[1:3]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
asked = json.load(sys.stdin)
prompt = tokenizer.apply_chat_template(asked["messages"], add_generation_prompt=True, tokenize=False) + beginning
start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
means = []
for text in asked["requests"]:
    inside = json.dumps(text, ensure_ascii=False)[1:-1]
    ids = torch.tensor([tokenizer(prompt + inside, add_special_tokens=False).input_ids])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0, start - 1 : -1].float(), -1)
    means.append(logprobs.gather(1, ids[0, start:, None]).mean().item())
print(json.dumps(means))
"""


@pytest.fixture(scope="module")
async def serving(vllm_server: VllmServer) -> AsyncIterator[JudgedModel]:
    model = JudgedModel(vllm_server.base_url, vllm_server.model)
    yield model
    await model.aclose()


@pytest.fixture(scope="module")
def adapter(vllm_server: VllmServer, lora_adapter: Path) -> Iterator[str]:
    """The name of an adapter that was drawn at random."""
    load = {"lora_name": ADAPTER, "lora_path": str(lora_adapter)}
    httpx.post(f"{vllm_server.base_url}/load_lora_adapter", json=load, timeout=120).raise_for_status()
    yield ADAPTER
    httpx.post(f"{vllm_server.base_url}/unload_lora_adapter", json={"lora_name": ADAPTER}, timeout=60)


@pytest.fixture(scope="module")
async def candidate(vllm_server: VllmServer, adapter: str) -> AsyncIterator[JudgedModel]:
    model = JudgedModel(vllm_server.base_url, adapter)
    yield model
    await model.aclose()


@pytest.fixture(scope="module")
def direct(vllm_server: VllmServer) -> list[float]:
    """The likelihoods of REQUESTS as transformers computes them."""
    command = [VENV / "bin/python", "-c", DIRECTLY, ROOT / vllm_server.model, BEGINNING]
    asked = json.dumps({"messages": MESSAGES, "requests": REQUESTS})
    return json.loads(subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout)


async def test_likelihoods_are_those_that_transformers_computes(serving: JudgedModel, direct: list[float]) -> None:
    assert await serving.likelihoods(MESSAGES, REQUESTS) == pytest.approx(direct, abs=0.05, rel=0.01)


async def test_an_adapter_finds_other_things_likely(serving: JudgedModel, candidate: JudgedModel) -> None:
    own, other = await candidate.likelihoods(MESSAGES, REQUESTS[:2]), await serving.likelihoods(MESSAGES, REQUESTS[:2])

    assert all(abs(one - two) > 0.5 for one, two in zip(own, other, strict=True)), (own, other)


async def test_a_judgement_comes_to_its_end(candidate: JudgedModel, serving: JudgedModel, tmp_path: Path) -> None:
    readings = [{"request": text, "question": f"{text}?", "memories": [1], "confidence": 50} for text in REQUESTS[:2]]
    rows = [
        {
            "prompt": hypotheses_instruction(text, KNOWN, 2).messages,
            "completion": [{"role": "assistant", "content": json.dumps({"hypotheses": readings})}],
            "meta": {"user": text},
        }
        for text in ("build api", "write api", "plan api")
    ]
    path = tmp_path / "hypotheses_chat.heldout.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    policy = parse_policy({"rows": {"answered": 1}})

    judgement = await Judge(policy, FakeEmbedder()).judge([path], candidate, serving)

    assert not judgement.is_accepted
    assert "3 held-out choices can be judged: at least 30 are needed, 27 more" in judgement.refusals
    assert (judgement.rows, judgement.users, judgement.answered) == (3, 3, 1)
    assert (judgement.unanswered.candidate, judgement.unanswered.serving) == (0, 0)
    assert judgement.figures["latency"].candidate is not None
    assert write_report(tmp_path, judgement).read_text("utf8").startswith("# Refused")
