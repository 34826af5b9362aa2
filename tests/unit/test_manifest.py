"""The manifest: what its short and long forms mean, aliases, overrides."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import InvalidInput, NotFound
from app.domain.manifest import Manifest, Model, parse_manifest, parse_overrides
from app.domain.sampling import Sampling
from app.services.models.manifest_file import CHECKOUT_MANIFEST

ROOT = Path(__file__).parents[2]


def parsed(roles: dict[str, Any], overrides: dict[str, Any] | None = None, **profiles: Any) -> Manifest:
    """A manifest whose profile `default` has these roles."""
    document = {"profiles": {"default": {"models": roles}, **profiles}}
    return parse_manifest(json.dumps(document).encode(), "default", overrides)


def test_the_documented_manifest_means_what_it_says() -> None:
    page = (ROOT / "docs/models.md").read_text("utf8")
    active = parse_manifest(page.split("```json\n", 1)[1].split("```", 1)[0].encode(), "default").active

    general, coding = active.role("general"), active.role("coding")
    assert general.model == Model("dolphin-x1", "ollama", auto_download=True)
    assert general.sampling == Sampling(top_p=0.9, max_tokens=512)
    assert coding.model == Model("dolphin-x1-llm2vec", "ollama")
    assert coding.alias_of is None


def test_the_checkouts_manifest_is_usable_in_every_profile() -> None:
    content = CHECKOUT_MANIFEST.read_bytes()
    names = parse_manifest(content, "default").profiles

    assert names[0] == "default"
    for name in names:
        active = parse_manifest(content, name).active
        assert active.roles
        assert not any(role.model.auto_download for role in active.roles.values()), "a start connects to nobody unasked"


def test_a_text_is_an_alias_where_it_names_a_role_else_a_model_of_ollama() -> None:
    active = parsed(
        {"general": {"name": "a", "provider": "vllm"}, "coding": "general", "chat": "coding", "x": "y"}
    ).active

    assert active.role("chat").model == active.role("coding").model == Model("a", "vllm")
    assert (active.role("chat").alias_of, active.role("coding").alias_of) == ("general", "general")
    assert active.role("x").model == Model("y", "ollama")


@pytest.mark.parametrize("word", ["max_tokens", "num_predict", "max_new_tokens"])
def test_the_words_for_the_most_tokens_are_one_parameter(word: str) -> None:
    assert parsed({"a": {"name": "m", "parameters": {word: 7}}}).active.role("a").sampling == Sampling(max_tokens=7)


def test_overrides_change_single_fields_and_are_named() -> None:
    roles = {"general": {"name": "a", "parameters": {"temperature": 0.5, "top_p": 0.9}}, "coding": "general"}

    active = parsed(roles, {"general": {"parameters": {"temperature": 0.1}, "url": "http://gpu:11434"}}).active

    general, coding = active.role("general"), active.role("coding")
    assert general.sampling == Sampling(temperature=0.1, top_p=0.9)
    assert general.model == Model("a", url="http://gpu:11434")
    assert general.overridden == ("parameters.temperature", "url")
    assert (coding.model, coding.sampling) == (general.model, general.sampling), "an alias stays one"


def test_an_override_of_an_alias_leaves_its_role_alone() -> None:
    active = parsed({"general": {"name": "a"}, "coding": "general"}, {"coding": "b"}).active

    assert (active.role("general").model.name, active.role("coding").model.name) == ("a", "b")
    assert active.role("general").overridden == ()


def test_an_override_is_checked_as_the_manifest_is() -> None:
    with pytest.raises(InvalidInput, match=r"^LLM_MODELS_OVERRIDES\.a\.parameters\.temperature is 3: it has to be"):
        parsed({"a": "m"}, {"a": {"parameters": {"temperature": 3}}})
    with pytest.raises(InvalidInput, match=r"^LLM_MODELS_OVERRIDES\.b is no role of the profile default, which has a$"):
        parsed({"a": "m"}, {"b": "m"})
    with pytest.raises(InvalidInput, match="LLM_MODELS_OVERRIDES"):
        parse_overrides('{"a": 7}')


def test_only_the_active_profile_is_overridden_and_all_are_named() -> None:
    made = parsed({"a": "m"}, {"a": "n"}, other={"models": {"b": "m"}})

    assert made.profiles == ("default", "other")
    assert made.active.role("a").model.name == "n"
    with pytest.raises(NotFound, match=r"^the profile default has no such role; it has a$"):
        made.active.role("b")
