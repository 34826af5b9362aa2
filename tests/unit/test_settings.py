"""A wrong environment stops the start with a line that names the variable, the value and what it may be."""

import os

import pytest

from app.settings import Settings, SettingsError, load_settings, load_settings_or_exit


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower() in Settings.model_fields:
            monkeypatch.delenv(name)


def test_the_defaults_are_those_of_the_documents() -> None:
    settings = load_settings(_env_file=None)
    assert (settings.host, settings.port, settings.token_budget) == ("127.0.0.1", 8080, 6000)
    assert (settings.auto_advance_confidence, settings.slm_impl) == (0.86, "local")
    assert str(settings.training_dir) == "data/training"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "eighty", "integer"),
        ("PORT", "0", "greater than or equal to 1"),
        ("PORT", "65536", "65535"),
        ("LOG_LEVEL", "chatty", "'DEBUG', 'INFO'"),
        ("TOKEN_BUDGET", "255", "256"),
        ("TOKEN_BUDGET", "1e9", "integer"),
        ("AUTO_ADVANCE_CONFIDENCE", "1.5", "less than or equal to 1"),
        ("AUTO_ADVANCE_CONFIDENCE", "nan", "1"),
        ("K_ANONYMITY", "1", "2"),
        ("EMBED_DIMS", "many", "integer"),
        ("EMBED_ENDPOINT", "localhost:8090", "http://"),
        ("EMBED_REVISION", "a:b", "pattern"),
        ("DATABASE_URL", "mysql://db", "postgresql://"),
        ("SLM_IMPL", "magic", "'local'"),
        ("ENABLE_TRAINING_DATA_COLLECTION", "perhaps", "boolean"),
        ("TRAINING_FILE_MAX_MB", "0", "greater than 0"),
        ("BUDGET_WEIGHTS", "0.5", "JSON object"),
        ("BUDGET_WEIGHTS", "{", "JSON object"),
        ("BUDGET_WEIGHTS", '{"goals": 1}', "goal_summary"),
        ("BUDGET_WEIGHTS", '{"goal_summary": -1}', "zero or more"),
        ("BUDGET_WEIGHTS", '{"goal_summary": NaN}', "zero or more"),
        ("BUDGET_WEIGHTS", '{"goal_summary": Infinity}', "zero or more"),
        ("BUDGET_WEIGHTS", '{"goal_summary": true}', "zero or more"),
        ("BUDGET_WEIGHTS", '{"goal_summary": "1"}', "zero or more"),
        ("LLM_MODELS_OVERRIDES", "{", "a JSON object of roles is wanted: is not JSON"),
        ("LLM_MODELS_OVERRIDES", '{"general": 7}', "LLM_MODELS_OVERRIDES.general has to be an object or text"),
        ("LLM_MODELS_OVERRIDES", "[]", "LLM_MODELS_OVERRIDES has to be an object, not a list"),
        ("HF_ENDPOINT", "hub", "http://"),
    ],
)
def test_a_wrong_value_gives_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(_env_file=None)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{name}={value!r} is not usable: ")
    assert allowed in line.partition("usable: ")[2]
    assert "Value error" not in line


def test_every_wrong_value_has_its_line_and_the_start_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("TOKEN_BUDGET", "1")
    with pytest.raises(SystemExit) as caught:
        load_settings_or_exit(_env_file=None)
    assert caught.value.code == 2
    assert [line.split("=")[0] for line in capsys.readouterr().err.splitlines()] == ["PORT", "TOKEN_BUDGET"]


def test_a_password_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://anna:s3cret@db/x")
    with pytest.raises(SettingsError) as caught:
        load_settings(_env_file=None)
    assert "s3cret" not in str(caught.value)
    assert "mysql://anna:***@db/x" in str(caught.value)


@pytest.mark.parametrize("name", ["PORT", "EMBED_ENDPOINT", "TRAINING_DATA_DIR", "BUDGET_WEIGHTS", "INTENTS_FILE"])
def test_an_empty_value_is_an_unset_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = load_settings(_env_file=None)
    monkeypatch.setenv(name, "")
    assert load_settings(_env_file=None) == default


def test_weights_are_read_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGET_WEIGHTS", '{"constraints": 0, "recent_history": 2.5}')
    assert load_settings(_env_file=None).budget_weights == {"constraints": 0, "recent_history": 2.5}


@pytest.mark.parametrize("name", ["EMBED_REVISION", "EMBED_POOLING", "EMBED_PREFIX"])
def test_what_is_said_of_a_model_needs_its_address(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The built-in model is known; a word about it would make another space of the same vectors."""
    monkeypatch.setenv(name, "v2")
    with pytest.raises(SettingsError, match=f"{name} is about the model of EMBED_ENDPOINT"):
        load_settings(_env_file=None)
    monkeypatch.setenv("EMBED_ENDPOINT", "http://host:1")
    assert "v2" in {getattr(load_settings(_env_file=None).embed_labels, name.removeprefix("EMBED_").lower())}
