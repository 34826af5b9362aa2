"""A reward model rates answers in the training environment, as it does where it is trained."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from app.domain.errors import ModelUnavailable
from app.services.training.ratings import check_rating, rate

from .test_train_script import ENVIRONMENT, PYTHON

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

CONVERSATIONS = [
    [{"role": "user", "content": "build api"}, {"role": "assistant", "content": answer}]
    for answer in ("with FastAPI", "with Rails für München", "no")
]

DIRECTLY = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
if sys.argv[2] == "make":
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=1)
    model.save_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=1).eval()
for messages in json.load(sys.stdin):
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    print(model(input_ids=torch.tensor([ids])).logits[0, 0].item())
"""


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random one."""
    folder = tmp_path_factory.mktemp("reward") / "model"
    make = [PYTHON, Path(__file__).with_name("tiny_model.py"), folder]
    texts = "build api with FastAPI\nuse Rails für München\n"
    subprocess.run(make, input=texts, text=True, check=True, capture_output=True, env=ENVIRONMENT)
    return folder


@pytest.fixture(scope="module")
def direct(reward_model: Path) -> list[float]:
    """The ratings that it gives where nothing of the service is between."""
    command = [PYTHON, "-c", DIRECTLY, reward_model, "make"]
    asked = json.dumps(CONVERSATIONS)
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    return [float(line) for line in done.stdout.split()]


def children() -> set[str]:
    """The processes that this one has started."""
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text("utf8").split())


async def test_ratings_are_those_of_the_model(reward_model: Path, direct: list[float]) -> None:
    ratings = await rate(check_rating(PYTHON, reward_model), reward_model, CONVERSATIONS)

    assert len(set(direct)) == 3
    assert ratings == pytest.approx(direct, abs=1e-4)


async def test_a_folder_that_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(ModelUnavailable, match="does not rate"):
        await rate(PYTHON, tmp_path, CONVERSATIONS)


async def test_cancelling_ends_the_process(reward_model: Path) -> None:
    task = asyncio.create_task(rate(PYTHON, reward_model, CONVERSATIONS * 2000))
    await asyncio.sleep(1.0)
    running = children()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert running
    assert not running & children()
