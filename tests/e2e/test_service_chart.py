"""deploy/helm/embed-service: Helm's linter takes it, and what it renders is what Kubernetes and the service ask for."""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from helm_python import Chart, HelmError, HelmValuesError, lint

from app.cli import cli
from app.main import create_app
from app.services.jobs.worker import Pulse
from app.settings import Settings, load_settings
from serving.command import STOP_TIMEOUT_S
from serving.main import create_app as create_server
from serving.settings import ServeSettings
from tests.serving.fakes import FakeBackend
from tests.serving.running import ROOT

pytestmark = pytest.mark.slow

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "embed-service"
KUBERNETES = ("1.25", "1.30", "1.34")
PRODUCTION: dict[str, Any] = {"database": {"existingSecret": "database"}}
TRIAL: dict[str, Any] = {"postgres": {"enabled": True, "existingSecret": "postgres"}}
PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "somewhere"}}}
EVERYTHING: dict[str, Any] = {
    **TRIAL,
    "image": {"repository": "example/embed-service", "tag": "1"},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": {"LOG_LEVEL": "DEBUG", "TOKEN_BUDGET": 1_000_000, "BUDGET_WEIGHTS": {"goal_summary": 0.3}},
    "files": {"intents.yaml": "intents: {}\n"},
    "secrets": {"existingSecret": "keys"},
    "models": {"existingClaim": "models"},
    "trainingData": {"enabled": True, "existingClaim": "samples"},
    "api": {"autoscaling": {"enabled": True}, "service": {"type": "LoadBalancer", "annotations": {"a": "b"}}},
    "worker": {"replicaCount": 3, "concurrency": 4},
    "vllm": {
        "enabled": True,
        "model": "/models/mine",
        "extraArgs": ["--dtype=half"],
        "cache": {"existingClaim": "cache"},
        "runtimeClassName": "nvidia",
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    },
    "embedding": {"enabled": True, "replicaCount": 2, "model": "bge", "settings": {"SERVE_QUEUE_TOKENS": 4_000_000}},
    "serviceAccount": {"annotations": {"a": "b"}},
    "ingress": {"enabled": True, "className": "nginx", "tlsSecretName": "tls", "annotations": {"a": "b"}},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {"enabled": True, "callers": [PEER], "monitoring": [PEER]},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}
SHARDED: dict[str, Any] = {
    "database": {"existingSecret": "database", "replicaKey": "REPLICA", "shardKeys": ["ONE", "TWO"]},
    "migration": {"enabled": True},
    "networkPolicy": {"enabled": True, "monitoring": [PEER]},
    "vllm": {"enabled": True},
}
VALUES: dict[str, dict[str, Any]] = {
    "production": PRODUCTION,
    "users in three databases": SHARDED,
    "to try it out": TRIAL,
    "migrating first": {**PRODUCTION, "migration": {"enabled": True}, "serviceAccount": {"create": False}},
    "closed to everybody": {**PRODUCTION, "networkPolicy": {"enabled": True}},
    "a model without adapters": {**PRODUCTION, "vllm": {"enabled": True, "maxLoras": 0}},
    "everything": EVERYTHING,
}

Object = dict[str, Any]


def objects(values: dict[str, Any]) -> dict[tuple[str, str], Object]:
    """The rendered objects by kind and component."""
    with Chart.load(CHART) as chart:
        rendered = chart.render(values, name="demo", namespace="spaces")
    texts = [text for name, text in rendered.items() if name.endswith(".yaml")]
    documents = [document for text in texts for document in yaml.safe_load_all(text) if document]
    named = {(each["kind"], each["metadata"]["name"].removeprefix("demo-embed-service-")): each for each in documents}
    assert len(named) == len(documents)
    return named


def pods(values: dict[str, Any]) -> dict[str, Object]:
    """The pods' templates by component."""
    found = objects(values)
    return {name: each["spec"]["template"] for (_, name), each in found.items() if "template" in each.get("spec", {})}


def container(values: dict[str, Any], name: str) -> Object:
    (found,) = pods(values)[name]["spec"]["containers"]
    return found


def plain(found: Object) -> dict[str, str]:
    """The variables of a container that do not come from a Secret."""
    return {each["name"]: each["value"] for each in found["env"] if "value" in each}


def is_selected(selector: dict[str, str], template: Object) -> bool:
    return selector.items() <= template["metadata"]["labels"].items()


def probes(found: Object) -> Iterator[tuple[str, Object]]:
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        if "httpGet" in found.get(name, {}):
            yield name, found[name]["httpGet"]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_helm_lint_finds_nothing(values: dict[str, Any]) -> None:
    report = lint(CHART, values, strict=True)

    assert report["errors"] == []
    assert [each for each in report["messages"] if each["severity"] >= 2] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_kubernetes_schemas_take_what_is_rendered(values: dict[str, Any], version: str) -> None:
    found = objects(values)

    assert found.keys() >= {("Deployment", "api"), ("Deployment", "worker"), ("Service", "api")}
    for (kind, _), document in found.items():
        if kind != "ServiceMonitor":  # of the Prometheus operator, no part of Kubernetes
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**PRODUCTION, "worker": {"replicas": 2}}, "replicas"),
        ({**PRODUCTION, "settings": {"LOG_LEVLE": "DEBUG"}}, "LOG_LEVLE"),
        ({**PRODUCTION, "settings": {"HOST": "127.0.0.1"}}, "HOST"),
        ({**PRODUCTION, "postgres": {"image": "pgvector/pgvector:latest"}}, "image"),
        ({**PRODUCTION, "worker": {"terminationGracePeriodSeconds": 5}}, "terminationGracePeriodSeconds"),
        ({**PRODUCTION, "settings": {"DATABASE_SHARD_URLS": "postgresql://a:b@c/d"}}, "DATABASE_SHARD_URLS"),
        ({"database": {"existingSecret": "database", "shardKeys": ["ONE", "ONE"]}}, "shardKeys"),
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, Any], said: str) -> None:
    with Chart.load(CHART) as chart, pytest.raises(HelmValuesError, match=said):
        chart.render(values, name="demo")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, r"database\.existingSecret is needed"),
        ({"postgres": {"enabled": True}}, r"needs postgres\.existingSecret"),
        ({**TRIAL, "migration": {"enabled": True}}, "database outside"),
        ({**TRIAL, "database": {"shardKeys": ["ONE"]}}, "databases outside"),
        ({**PRODUCTION, "trainingData": {"enabled": True}}, r"needs trainingData\.existingClaim"),
        ({**PRODUCTION, "embedding": {"enabled": True}}, r"needs embedding\.model"),
        ({**PRODUCTION, "embedding": {"enabled": True, "model": "bge"}}, r"needs models\.existingClaim"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(values: dict[str, Any], said: str) -> None:
    with Chart.load(CHART) as chart, pytest.raises(HelmError, match=said):
        chart.render(values, name="demo")


@pytest.mark.parametrize("name", ["api", "worker"])
def test_the_service_takes_the_variables_it_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = container(EVERYTHING, name)
    given = plain(found) | {"SLM_API_KEY": "key", "UPSTREAM_API_KEY": "key", "HF_TOKEN": "token"}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value.replace("$(EMBED_PASSWORD)", "secret"))

    settings = load_settings(_env_file=None)

    variables = [each["name"] for each in found["env"]]
    assert len(variables) == len(set(variables))
    assert set(variables) - {"EMBED_PASSWORD"} <= {each.upper() for each in Settings.model_fields}
    assert variables.index("EMBED_PASSWORD") < variables.index("DATABASE_URL")
    assert settings.database_url == "postgresql://embed:secret@demo-embed-service-postgres:5432/embed"
    assert (settings.host, settings.worker_inside, settings.slm_impl) == ("0.0.0.0", False, "vllm")
    assert (settings.token_budget, settings.budget_weights) == (1_000_000, {"goal_summary": 0.3})
    assert (str(settings.training_dir), settings.enable_training_data_collection) == ("/training", True)


def secrets(found: Object) -> dict[str, tuple[str, str]]:
    """The variables of a container that come from a Secret: its name and the key."""
    held = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in found["env"] if "valueFrom" in each}
    return {name: (each["name"], each["key"]) for name, each in held.items()}


def test_every_database_is_known_to_the_api_and_has_workers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    api = container(SHARDED, "api")
    given = secrets(api)
    put_together = plain(api)["DATABASE_SHARD_URLS"]
    names = re.findall(r"\$\((\w+)\)", put_together)
    urls = {name: f"postgresql://embed:{name}@host/embed" for name in names}
    monkeypatch.setenv("DATABASE_SHARD_URLS", re.sub(r"\$\((\w+)\)", lambda one: urls[one[1]], put_together))
    variables = [each["name"] for each in api["env"]]

    assert load_settings(_env_file=None).database_shard_urls == tuple(urls.values())
    assert [given[name] for name in names] == [("database", "ONE"), ("database", "TWO")]
    assert all(variables.index(name) < variables.index("DATABASE_SHARD_URLS") for name in names)
    assert given["DATABASE_URL"] == ("database", "DATABASE_URL")
    assert given["DATABASE_REPLICA_URL"] == ("database", "REPLICA")
    for kind in ("worker", "migration"):
        for component, key in ((kind, "DATABASE_URL"), (f"{kind}-1", "ONE"), (f"{kind}-2", "TWO")):
            found = container(SHARDED, component)
            assert secrets(found)["DATABASE_URL"] == ("database", key)
            assert not {"DATABASE_SHARD_URLS", "DATABASE_REPLICA_URL"} & {each["name"] for each in found["env"]}
    assert "DATABASE_SHARD_URLS" not in plain(container(PRODUCTION, "api"))
    assert pods(PRODUCTION).keys() == {"api", "worker"}


def test_the_workers_of_every_database_reach_the_models_and_are_watched() -> None:
    found, templates = objects(SHARDED), pods(SHARDED)
    workers = {"worker", "worker-1", "worker-2"}

    peers = [rule["from"] for rule in found["NetworkPolicy", "vllm"]["spec"]["ingress"]]
    chosen = [peer["podSelector"]["matchLabels"] for one in peers for peer in one if "podSelector" in peer]
    assert {each for each in templates for one in chosen if is_selected(one, templates[each])} == {"api", *workers}
    for name in workers:
        for kind, field in (("Service", "selector"), ("NetworkPolicy", "podSelector")):
            selector = found[kind, name]["spec"][field]
            labels = selector.get("matchLabels", selector)
            assert [each for each in templates if is_selected(labels, templates[each])] == [name]
        assert found["NetworkPolicy", name]["spec"]["ingress"][0]["from"] == [PEER]


def test_what_is_set_goes_before_what_the_chart_would_set() -> None:
    values = {**EVERYTHING, "settings": {"SLM_IMPL": "local"}}

    assert plain(container(values, "api"))["SLM_IMPL"] == "local"


def test_the_embedding_server_takes_the_variables_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in plain(container(EVERYTHING, "embedding")).items():
        monkeypatch.setenv(variable, value)

    settings = ServeSettings(_env_file=None)

    assert (str(settings.model), settings.host, settings.port) == ("/models/bge", "0.0.0.0", 8000)
    assert (settings.normalize, settings.queue_tokens) == (True, 4_000_000)


def test_vllm_is_started_as_compose_starts_it() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf8"))["services"]
    found = container({**PRODUCTION, "vllm": {"enabled": True}}, "vllm")
    without = container(VALUES["a model without adapters"], "vllm")

    default = re.compile(r"\$\{\w+:-([^}]*)\}")
    assert found["args"] == [default.sub(r"\1", each) for each in compose["vllm"]["command"]]
    assert found["command"] == compose["vllm"]["entrypoint"]
    assert found["image"] == compose["vllm"]["image"]
    assert "--enable-lora" not in without["args"]
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in plain(without)
    assert container(TRIAL, "postgres")["image"] == compose["postgres"]["image"]


def test_addresses_are_those_of_services() -> None:
    found = objects(EVERYTHING)
    addresses = re.findall(r"demo-embed-service-(\w+):(\d+)", " ".join(plain(container(EVERYTHING, "api")).values()))

    assert {name for name, _ in addresses} == {"postgres", "vllm", "embedding"}
    for name, port in addresses:
        assert found["Service", name]["spec"]["ports"][0]["port"] == int(port)


def test_services_budgets_and_policies_choose_the_pods_of_their_name() -> None:
    found, templates = objects(EVERYTHING), pods(EVERYTHING)

    for (kind, name), document in found.items():
        spec = document.get("spec", {})
        selector = spec.get("selector") if kind == "Service" else spec.get("podSelector", spec.get("selector", {}))
        if kind not in {"Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment", "StatefulSet"}:
            continue
        chosen = selector.get("matchLabels", selector)
        assert [each for each, template in templates.items() if is_selected(chosen, template)] == [name], (kind, name)
        ports = {port["name"] for each in templates[name]["spec"]["containers"] for port in each["ports"]}
        if kind == "Service":
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        if kind == "NetworkPolicy":
            assert {port["port"] for rule in spec["ingress"] for port in rule["ports"]} <= ports


def test_only_the_service_reaches_the_database_and_the_models() -> None:
    found, templates = objects(EVERYTHING), pods(EVERYTHING)

    for name in ("postgres", "vllm", "embedding"):
        peers = [peer for rule in found["NetworkPolicy", name]["spec"]["ingress"] for peer in rule["from"]]
        chosen = [peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer]
        assert {each for each in templates for one in chosen if is_selected(one, templates[each])} == {"api", "worker"}
        assert (PEER in peers) is (name != "postgres")
    closed = objects(VALUES["closed to everybody"])
    assert "ingress" not in closed["NetworkPolicy", "worker"]["spec"]
    assert "from" not in closed["NetworkPolicy", "api"]["spec"]["ingress"][0]


def test_probes_ask_for_routes_that_are_there() -> None:
    routes = {
        "api": set(create_app().openapi()["paths"]),
        "worker": {"/metrics"},
        "embedding": set(create_server(FakeBackend, ServeSettings(_env_file=None)).openapi()["paths"]),
        "vllm": {"/health"},
    }
    for name, known in routes.items():
        asked = dict(probes(container(EVERYTHING, name)))
        assert asked.keys() >= {"startupProbe", "livenessProbe"}
        assert {each["path"] for each in asked.values()} <= known
    ready = dict(probes(container(EVERYTHING, "api")))["readinessProbe"]
    assert ready["path"] == "/readyz"


def test_commands_exist() -> None:
    commands = typer.main.get_command(cli).commands  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("api", "worker"):
        command, *rest = container(EVERYTHING, name)["args"]
        options = {option for each in commands[command].params for option in each.opts}
        assert {word for word in rest if word.startswith("--")} <= options
    worker = container(EVERYTHING, "worker")
    assert worker["args"][-1] == str(worker["ports"][0]["containerPort"])
    assert (ROOT / container(EVERYTHING, "embedding")["command"][1]).is_file()
    assert container(VALUES["migrating first"], "migration")["command"] == ["alembic", "upgrade", "heads"]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_pods_have_few_rights_and_ask_for_what_they_need(values: dict[str, Any]) -> None:
    for name, template in pods(values).items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        for each in pod["containers"]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert each["resources"]["requests"].keys() == {"cpu", "memory"}
            assert each["resources"]["limits"]["memory"]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_what_a_process_writes_lies_on_a_volume(values: dict[str, Any]) -> None:
    for name in ("api", "worker"):
        given, mounts = plain(container(values, name)), container(values, name)["volumeMounts"]
        places = {given[variable] for variable in given if variable.endswith("_DIR")}
        assert places | {"/tmp"} <= {each["mountPath"] for each in mounts if not each.get("readOnly")}
    for document in objects(values).values():
        if "template" not in (spec := document.get("spec", {})):
            continue
        pod, claims = spec["template"]["spec"], spec.get("volumeClaimTemplates", [])
        volumes = {each["name"] for each in pod["volumes"]} | {each["metadata"]["name"] for each in claims}
        assert {each["name"] for one in pod["containers"] for each in one["volumeMounts"]} == volumes


def test_adapters_lie_under_one_path_for_the_service_and_vllm() -> None:
    def where(name: str) -> tuple[str, Object]:
        mount = next(each for each in container(EVERYTHING, name)["volumeMounts"] if each["name"] == "models")
        volume = next(each for each in pods(EVERYTHING)[name]["spec"]["volumes"] if each["name"] == "models")
        return mount["mountPath"], volume["persistentVolumeClaim"]

    assert (
        where("api") == where("worker") == where("vllm") == where("embedding") == ("/models", {"claimName": "models"})
    )


def test_processes_have_time_to_end_gently() -> None:
    assert pods(PRODUCTION)["worker"]["spec"]["terminationGracePeriodSeconds"] >= 2 * Pulse().stop_s
    assert pods(EVERYTHING)["embedding"]["spec"]["terminationGracePeriodSeconds"] > STOP_TIMEOUT_S


def test_replicas_are_the_autoscalers_where_there_is_one() -> None:
    assert objects(PRODUCTION)["Deployment", "api"]["spec"]["replicas"] == 2
    found = objects(EVERYTHING)
    assert "replicas" not in found["Deployment", "api"]["spec"]
    assert found["HorizontalPodAutoscaler", "api"]["spec"]["scaleTargetRef"]["name"] == "demo-embed-service-api"


def test_a_changed_file_makes_new_pods() -> None:
    def annotations(text: str) -> Object:
        return pods({**PRODUCTION, "files": {"a.yaml": text}})["api"]["metadata"]["annotations"]

    assert annotations("a") == annotations("a")
    assert annotations("a") != annotations("b")


def test_the_database_is_made_by_the_script_of_the_chart() -> None:
    data = objects(TRIAL)["ConfigMap", "postgres"]["data"]

    assert data["create-database.sh"].strip() == (CHART / "files/create-database.sh").read_text("utf8").strip()
