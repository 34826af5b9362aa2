"""deploy/: the image, compose.yaml and the chart's schema name only what the project has."""

import json
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from app.cli import cli
from app.main import create_app
from app.services.jobs.worker import Pulse
from app.settings import Settings, load_settings
from app.store.engine import OLDEST_PGVECTOR, OLDEST_POSTGRES
from serving.command import STOP_TIMEOUT_S
from serving.main import create_app as create_server
from serving.settings import PREFIX, ServeSettings
from tests.serving.fakes import FakeBackend

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text("utf8"))
PAGE = (ROOT / "docs/deployment.md").read_text("utf8")
SETTINGS = {name.upper() for name in Settings.model_fields}
SERVE_SETTINGS = {PREFIX + name.upper() for name in ServeSettings.model_fields}
OURS = ("api", "worker", "embedding")
GIVEN = {"EMBED_PASSWORD": "one", "POSTGRES_PASSWORD": "two"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def interpolated(value: Any) -> Any:
    """A value of compose.yaml with `${NAME}`, `${NAME:-default}` and `${NAME:?why}` replaced, as Compose does it: after
    the file was read, so that an empty text stays one."""
    match value:
        case str():
            return _VARIABLE.sub(lambda match: GIVEN.get(match[1]) or _default(match), value)
        case dict():
            return {name: interpolated(each) for name, each in value.items()}
        case list():
            return [interpolated(each) for each in value]
        case _:
            return value


def _default(match: re.Match[str]) -> str:
    assert match[2] == "-", f"{match[1]} has to be given: {match[3]}"
    return match[3]


@cache
def services() -> dict[str, dict[str, Any]]:
    return interpolated(yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf8"))["services"])


def instructions(name: str) -> list[str]:
    """What follows `name` in the Dockerfile, stage by stage; continued lines are one."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def image_environment() -> dict[str, str]:
    return dict(each.split("=", 1) for line in instructions("ENV") for each in shlex.split(line))


def copied() -> list[str]:
    """Files and folders of the checkout that are in the image, the Dockerfile's last stage."""
    lines = re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE.rsplit("\nFROM ", 1)[1], re.MULTILINE)
    pairs = [line.split() for line in lines]
    assert all(source == target for source, target in pairs), pairs
    return [source for source, _ in pairs]


def environment(service: str) -> dict[str, str]:
    """What a process of ours finds set, by the image and by compose.yaml."""
    return image_environment() | services()[service]["environment"]


def probed(service: str) -> tuple[int, str]:
    """Port and path that a service's health check asks for."""
    test = services()[service].get("healthcheck", {}).get("test")
    text = " ".join(test) if test else instructions("HEALTHCHECK")[0]
    match = re.search(r"127\.0\.0\.1:(?:(\d+)|' \+ os\.environ\['PORT'\] \+ ')(/\w+)", text)
    assert match, text
    return int(match[1] or image_environment()["PORT"]), match[2]


def test_the_image_has_every_file_it_copies_and_nothing_keeps_it_out() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf8").splitlines()
    let_in = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    wanted = [*copied(), "requirements/service.txt", "scripts/link_project.py"]

    assert "*" in ignored
    for source in wanted:
        assert (ROOT / source).exists(), source
        assert any(source == path or source.startswith(f"{path}/") for path in let_in), source
    assert all(any(source == path or source.startswith(f"{path}/") for source in wanted) for path in let_in)


def test_every_package_of_the_project_is_in_the_image() -> None:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["tool"]["setuptools"]["packages"]["find"]

    assert {name.removesuffix("*") for name in found["include"]} <= set(copied())


def test_the_image_runs_as_nobody_in_particular() -> None:
    assert instructions("USER") == ["10001:10001"]
    assert "useradd --uid 10001 " in DOCKERFILE


@pytest.mark.parametrize("service", ["api", "worker"])
def test_the_service_takes_the_variables_it_is_given(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(service)
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    settings = load_settings(_env_file=None)

    assert set(services()[service]["environment"]) <= SETTINGS
    assert set(image_environment()) - {"PATH", "PYTHONUNBUFFERED"} <= SETTINGS
    assert (settings.host, settings.worker_inside) == ("0.0.0.0", False)
    assert settings.database_url == "postgresql://embed:one@postgres:5432/embed"
    assert settings.embed_endpoint is None
    assert settings.slm_api_key is None


def test_the_embedding_server_takes_the_variables_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = services()["embedding"]["environment"]
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    settings = ServeSettings(_env_file=None)

    assert set(given) <= SERVE_SETTINGS
    assert (settings.host, settings.port) == ("0.0.0.0", probed("embedding")[0])
    assert str(settings.model).startswith(image_environment()["LOCAL_MODELS_DIR"])


def test_no_variable_is_left_without_a_word_about_it() -> None:
    used = {match[1] for match in _VARIABLE.finditer((DEPLOY / "compose.yaml").read_text("utf8"))}
    table = PAGE.split("\n## One machine, with Compose\n")[1].split("\n## ")[0]
    listed = set(re.findall(r"`([A-Z_]+)`", " ".join(re.findall(r"^\| (`[^|]+)\|", table, re.MULTILINE))))

    assert listed == used


def test_commands_exist() -> None:
    commands = typer.main.get_command(cli).commands  # pyright: ignore[reportAttributeAccessIssue]

    assert instructions("ENTRYPOINT") == ['["embed-service"]']
    for name in ("api", "worker"):
        command, *rest = services()[name]["command"]
        options = {option for each in commands[command].params for option in each.opts}
        assert {word for word in rest if word.startswith("--")} <= options
    assert services()["embedding"]["entrypoint"][0] == "python"
    assert (ROOT / services()["embedding"]["entrypoint"][1]).is_file()


def test_health_checks_ask_for_routes_that_are_there() -> None:
    api = set(create_app().openapi()["paths"])
    server = set(create_server(FakeBackend, ServeSettings(_env_file=None)).openapi()["paths"])

    assert probed("api") == (8080, "/healthz")
    assert probed("api")[1] in api
    assert probed("embedding")[1] in server
    command = services()["worker"]["command"]
    assert probed("worker") == (int(command[command.index("--metrics-port") + 1]), "/metrics")


def test_addresses_and_ports_agree() -> None:
    given = environment("api")
    nginx = (DEPLOY / "nginx.conf").read_text("utf8")
    vllm = {flag.split("=")[0]: flag.split("=", 1)[-1] for flag in services()["vllm"]["command"]}
    port, (listened,) = image_environment()["PORT"], re.findall(r"listen (\d+);", nginx)

    assert instructions("EXPOSE") == [port]
    assert f"http://api:{port};" in nginx
    assert services()["gateway"]["ports"] == [f"127.0.0.1:8080:{listened}"]
    assert given["VLLM_BASE_URL"] == f"http://vllm:{vllm['--port']}/v1"
    assert given["VLLM_MODEL_NAME"] == vllm["--model"] == vllm["--served-model-name"]
    assert f"http://embedding:{probed('embedding')[0]}/embed" in PAGE
    assert probed("vllm") == (int(vllm["--port"]), "/health")


def test_what_a_process_writes_lies_on_a_volume() -> None:
    given = environment("api")
    places = {given[name] for name in ("DATA_DIR", "LOG_DIR", "LOCAL_MODELS_DIR", "TRAINING_DATA_DIR")}
    made = re.search(r"install --directory --owner=embed .*?((?: /\w+)+)$", DOCKERFILE, re.MULTILINE)

    assert made
    assert set(made[1].split()) == places
    for name in ("api", "worker"):
        mounted = [each if isinstance(each, dict) else each.split(":")[1] for each in services()[name]["volumes"]]
        alone = {each["target"] for each in mounted if isinstance(each, dict) and "source" not in each}
        assert alone == {given["DATA_DIR"], given["LOG_DIR"]}
        assert alone | {each for each in mounted if isinstance(each, str)} == places
    assert f"models:{given['LOCAL_MODELS_DIR']}:ro" in services()["vllm"]["volumes"]


@pytest.mark.parametrize("service", OURS)
def test_our_processes_have_few_rights(service: str) -> None:
    found = services()[service]

    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["tmpfs"] == ["/tmp"]


def test_nothing_is_stopped_before_it_can_end_gently() -> None:
    assert int(services()["worker"]["stop_grace_period"].removesuffix("s")) >= 2 * Pulse().stop_s
    assert int(services()["embedding"]["stop_grace_period"].removesuffix("s")) > STOP_TIMEOUT_S


def test_a_graphics_card_is_needed_for_its_profile_only() -> None:
    always = {name for name, each in services().items() if not each.get("profiles")}

    assert always == {"gateway", "api", "worker", "postgres"}
    assert [name for name, each in services().items() if "deploy" in each] == ["vllm"]
    needed = {name: each for one in always for name, each in services()[one].get("depends_on", {}).items()}
    assert {name for name, each in needed.items() if each.get("required", True)} <= always


def test_images_have_a_version_that_the_service_takes() -> None:
    images = {name: each["image"] for name, each in services().items()}
    vllm = re.search(r"`vllm` (\d+\.\d+\.\d+)", (ROOT / "docs/vllm.md").read_text("utf8"))
    pgvector = re.search(r":(\d+)\.(\d+)\.\d+-pg(\d+)", images["postgres"])

    assert all(re.search(r":.*\d", image) for image in images.values())
    assert vllm
    assert images["vllm"] == f"vllm/vllm-openai:v{vllm[1]}"
    assert pgvector
    assert (int(pgvector[1]), int(pgvector[2])) >= OLDEST_PGVECTOR
    assert int(pgvector[3]) >= OLDEST_POSTGRES
    assert len({images[name] for name in OURS}) == 1


def test_vllm_gets_what_start_vllm_gives_it() -> None:
    script = (ROOT / "start_vllm.sh").read_text("utf8")
    found = services()["vllm"]

    for flag in found["command"]:
        name, _, value = flag.partition("=")
        assert re.search(rf"{name}(?![\w-])", script), flag
        assert not value.startswith("{") or value in script, flag
    assert set(found["environment"]) <= {*re.findall(r"\b([A-Z_]+)=", script), "HF_TOKEN", "HF_HOME"}
    assert found["environment"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert "vllm.entrypoints.openai.api_server" in script
    assert "vllm.entrypoints.openai.api_server" in found["entrypoint"]


def test_the_schema_of_the_chart_knows_every_setting() -> None:
    schema = json.loads((DEPLOY / "helm/embed-service/values.schema.json").read_text("utf8"))["properties"]
    pods = {"HOST", "PORT", "DATA_DIR", "LOG_DIR", "LOCAL_MODELS_DIR", "WORKER_INSIDE", "TRAIN_VENV"}
    secret = {"DATABASE_URL", "DATABASE_REPLICA_URL", "DATABASE_SHARD_URLS", "SLM_API_KEY", "HF_TOKEN"}
    secret |= {"UPSTREAM_API_KEY"}
    training = {"ENABLE_TRAINING_DATA_COLLECTION", "TRAINING_DATA_DIR"}

    assert set(schema["settings"]["propertyNames"]["enum"]) == SETTINGS - pods - secret - training
    assert set(schema["embedding"]["properties"]["settings"]["propertyNames"]["enum"]) == SERVE_SETTINGS - {
        "SERVE_MODEL",
        "SERVE_HOST",
        "SERVE_PORT",
    }
