"""deploy/helm/slm-server: Helm's own linter takes it, and what it renders is what Kubernetes' schemas ask for."""

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart, HelmValuesError, lint

from serving.slm.settings import ChatSettings, EmbeddingSettings, load_slm_settings
from tests.serving.running import ROOT

pytestmark = pytest.mark.slow

CHART = ROOT / "deploy" / "helm" / "slm-server"
KUBERNETES = ("1.25", "1.30", "1.34")
VALUES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "models in the image": {"models": {"download": False}, "serviceAccount": {"create": False}},
    "everything": {
        "replicaCount": 2,
        "models": {"existingClaim": "models", "source": {"CHAT_REPO": "someone/chat"}},
        "chat": {"model_path": "/models/a.gguf", "queue": 3, "repack": True, "kv_type": "q8_0"},
        "ingress": {"enabled": True, "className": "nginx", "tlsSecretName": "tls", "annotations": {"a": "b"}},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
    },
}


def objects(values: dict[str, Any]) -> dict[str, Any]:
    """The rendered objects by kind."""
    with Chart.load(CHART) as chart:
        rendered = chart.render(values, name="demo", namespace="spaces")
    texts = [text for name, text in rendered.items() if name.endswith(".yaml")]
    documents = [document for text in texts for document in yaml.safe_load_all(text) if document]
    return {document["kind"]: document for document in documents}


def container(values: dict[str, Any]) -> dict[str, Any]:
    return objects(values)["Deployment"]["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_helm_lint_finds_nothing(values: dict[str, Any]) -> None:
    report = lint(CHART, values, strict=True)

    assert report["errors"] == []
    assert [each for each in report["messages"] if each["severity"] >= 2] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_kubernetes_schemas_take_what_is_rendered(values: dict[str, Any], version: str) -> None:
    found = objects(values)

    assert found.keys() >= {"Deployment", "Service"}
    for document in found.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_value_is_refused() -> None:
    with Chart.load(CHART) as chart, pytest.raises(HelmValuesError, match="modle_path"):
        chart.render({"chat": {"modle_path": "/a.gguf"}}, name="demo")


def test_the_schema_knows_every_setting() -> None:
    with Chart.load(CHART) as chart:
        schema = chart.schema
    assert schema
    for group, settings in (("embedding", EmbeddingSettings), ("chat", ChatSettings)):
        assert set(schema["properties"][group]["propertyNames"]["enum"]) == set(settings.model_fields)


def test_the_server_takes_the_variables_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in container(VALUES["everything"])["env"]:
        monkeypatch.setenv(each["name"], each["value"])

    settings = load_slm_settings()

    assert (settings.host, settings.chat.queue, settings.chat.repack) == ("0.0.0.0", 3, True)
    assert settings.embedding == EmbeddingSettings()
    assert str(settings.models_dir) == "/models"


def test_the_pod_has_the_plan_s_memory_and_few_rights() -> None:
    pod = objects({})["Deployment"]["spec"]["template"]["spec"]
    server = pod["containers"][0]

    assert server["resources"] == {
        "limits": {"cpu": "1", "memory": "1Gi"},
        "requests": {"cpu": "200m", "memory": "750Mi"},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    for each in (server, *pod["initContainers"]):
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert (server["livenessProbe"]["httpGet"]["path"], server["readinessProbe"]["httpGet"]["path"]) == (
        "/healthz",
        "/readyz",
    )


def test_commands_of_the_chart_are_files_of_the_project() -> None:
    pod = objects({})["Deployment"]["spec"]["template"]["spec"]
    scripts = re.findall(
        r"scripts/\w+\.\w+", str([each["command"] for each in (*pod["initContainers"], *pod["containers"])])
    )

    assert len(scripts) == 2
    assert all((ROOT / script).is_file() for script in scripts)
