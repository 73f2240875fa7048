"""The manifests for Kubernetes, built as `kubectl apply -k` builds them, against the schemas and the images."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import ValidationError

from service.cli import app as service
from service.http.routes import health
from service.operations.keys import KeyStore, create_key, revoke_key
from service.system.settings import Settings
from tests.support.paths import REPOSITORY
from training.cli import app as training

FOLDER = REPOSITORY / "docker/kubernetes"
KUBERNETES = "1.34"
SITES = ("service", "index", "train")
MADE_BY_HAND = {"foley-api-keys", "foley-qdrant"}  # secrets: docs/operations.md says how

Document = dict[str, Any]


def read(path: Path) -> list[Document]:
    return list(yaml.safe_load_all(path.read_text()))


MANIFESTS = {
    str(path.relative_to(FOLDER)): read(path)
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name not in ("kustomization.yaml", "qdrant-values.yaml")
}


def of_kind(*kinds: str, among: list[Document] | None = None) -> list[Document]:
    documents = [one for manifest in MANIFESTS.values() for one in manifest] if among is None else among
    return [one for one in documents if one["kind"] in kinds]


def pods(among: list[Document] | None = None) -> dict[str, Document]:
    """Specification of every pod, by the name of what makes it."""
    made = of_kind("StatefulSet", "Job", among=among)
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in made}


def containers(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def every_container() -> Iterator[tuple[str, Document]]:
    for name, pod in pods().items():
        for container in containers(pod):
            yield f"{name}/{container['name']}", container


def given_to(container: Document) -> dict[str, str]:
    return {one["name"]: one.get("value", "secret") for one in container.get("env", [])}


def in_image(name: str) -> dict[str, str]:
    return dict(re.findall(r"(FOLEY_[A-Z_]+)=([^ \\\n]+)", (REPOSITORY / "docker" / name).read_text()))


def build(path: Path) -> list[Document]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    built = subprocess.run(
        ["kubectl", "kustomize", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def check(document: Document) -> None:
    pytest.importorskip("kubernetes_validate").validate(document, KUBERNETES, strict=True)


# What Kubernetes accepts


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_what_the_schema_says(name: str) -> None:
    for document in MANIFESTS[name]:
        check(document)


def test_a_misspelt_field_is_found() -> None:
    (policy,) = of_kind("PodDisruptionBudget")
    with pytest.raises(Exception, match="maxUnavailible"):
        check({**policy, "spec": {**policy["spec"], "maxUnavailible": 1}})


@pytest.mark.parametrize("site", SITES)
def test_the_example_is_built_for_its_cluster(site: str) -> None:
    documents = build(FOLDER / "example" / site)
    for document in documents:
        check(document)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "foley"
    for pod in pods(documents).values():
        for container in containers(pod):
            assert container["image"].startswith("registry.example.com/foley")
    claims = [one["metadata"]["name"] for one in of_kind("PersistentVolumeClaim")]
    maps = [one["metadata"]["name"] for one in of_kind("ConfigMap", among=documents)]
    for name in references(documents, "claimName"):
        assert name in claims
    for one in references(documents, "configMapRef"):
        assert one["name"] in maps
    secrets = {one["name"] for one in references(documents, "secretKeyRef")}
    assert secrets | set(references(documents, "secretName")) <= MADE_BY_HAND


def references(value: Any, key: str) -> list[Any]:
    """What stands under a key, at any depth."""
    if isinstance(value, list):
        return [found for one in value for found in references(one, key)]
    if isinstance(value, dict):
        here = [value[key]] if key in value else []
        return here + references(list(value.values()), key)
    return []


def test_service_and_bulk_job_share_their_settings() -> None:
    names = [
        one["metadata"]["name"]
        for site in ("service", "index")
        for one in of_kind("ConfigMap", among=build(FOLDER / site))
    ]
    assert len(names) == 2
    assert len(set(names)) == 1


def test_a_gpu_is_one_component_more(tmp_path: Path) -> None:
    copied = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, copied)
    path = copied / "example/index/kustomization.yaml"
    path.write_text(path.read_text().replace("components:", "components:\n  - ../../gpu"))
    documents = build(copied / "example/index")
    (job,) = of_kind("Job", among=documents)
    check(job)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert given_to(container)["FOLEY_DEVICE"] == "cuda"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"].split("/")[-1].startswith("foley-gpu:")


# What the pods may do


def test_pods_have_no_rights_they_do_not_need() -> None:
    assert set(pods()) == {"foley", "foley-index", "foley-train"}
    for name, pod in pods().items():
        identity = pod["securityContext"]
        assert identity["runAsNonRoot"], name
        assert {identity[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {10001}, name
        assert identity["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        (media,) = [one for one in pod["volumes"] if one["name"] == "media"]
        assert media["persistentVolumeClaim"]["readOnly"], name
    for name, container in every_container():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
        assert {"/data", "/tmp"} <= set(mounts), name
        assert mounts["/media"]["readOnly"], name
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name


def test_every_mount_is_of_a_volume() -> None:
    claimed = {
        one["metadata"]["name"]
        for document in of_kind("StatefulSet")
        for one in document["spec"]["volumeClaimTemplates"]
    }
    for name, pod in pods().items():
        volumes = {one["name"] for one in pod["volumes"]} | (claimed if name == "foley" else set())
        mounted = {one["name"] for container in containers(pod) for one in container["volumeMounts"]}
        assert mounted == volumes, name


def test_every_selector_finds_its_pods() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in of_kind("StatefulSet", "Job")]
    selectors = [one["spec"]["selector"] for one in of_kind("Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind("PodDisruptionBudget")]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of_kind("NetworkPolicy")]
    for selector in selectors:
        assert [one for one in labels if selector.items() <= one.items()], selector
    for one in labels:  # no pod is without a policy
        policies = of_kind("NetworkPolicy")
        assert [p for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= one.items()], one


# What Foley knows


def shared_settings() -> dict[str, str]:
    lines = (FOLDER / "settings/settings.env").read_text().split()
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("name", ["foley", "foley-index"])
def test_environment_is_made_of_settings(name: str) -> None:
    (container,) = pods()[name]["containers"]
    given = {**in_image("Dockerfile"), **shared_settings(), **given_to(container)}
    fields = {k.removeprefix("FOLEY_").lower(): v for k, v in given.items() if k.startswith("FOLEY_")}
    settings = Settings(**fields)
    mounts = [Path(one["mountPath"]) for one in container["volumeMounts"]]
    paths = [settings.data, settings.release_folder, settings.keys_path, *settings.library_roots]
    for path in paths:
        assert any(path == mount or mount in path.parents for mount in mounts), path
    assert settings.needs_keys


def test_no_variable_of_a_service_is_taken_for_a_setting() -> None:
    """Kubernetes would name the port of the service `foley` as we name our setting, as an address."""
    for name, pod in pods().items():
        assert pod["enableServiceLinks"] is False, name
    with pytest.raises(ValidationError):
        Settings(port="tcp://10.96.0.1:8000")  # type: ignore[arg-type]


def test_ports_and_probes_are_those_of_the_service() -> None:
    routes = {getattr(route, "path", "") for route in health.router.routes}
    (container,) = pods()["foley"]["containers"]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == in_image("Dockerfile")["FOLEY_PORT"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        request = container[probe]["httpGet"]
        assert request["path"] in routes
        assert request["port"] == port["name"]
    for reached in of_kind("Service"):
        assert [one["targetPort"] for one in reached["spec"]["ports"]] == [port["name"]]
    for policy in of_kind("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            assert [one["port"] for one in rule["ports"]] == [port["name"]]


def test_a_replica_has_the_time_it_takes_to_stop() -> None:
    pod = pods()["foley"]
    waits = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > waits + Settings().graceful_stop_seconds


def words_of(container: Document, *, index: int = 0) -> list[str]:
    """What a container runs, as its shell and Kubernetes expand it."""
    if "command" not in container:
        return [*container.get("args", ["serve"])]
    shell, option, script = container["command"]
    given = {**given_to(container), "JOB_COMPLETION_INDEX": str(index)}
    printed = subprocess.run(
        [shell, option, re.sub("^exec foley ", r"printf '%s\\n' ", script)],
        env=given,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return printed.stdout.split()


def test_bulk_job_has_a_pod_for_every_part() -> None:
    (job,) = [one for one in of_kind("Job") if one["metadata"]["name"] == "foley-index"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert job["spec"]["completionMode"] == "Indexed"
    num_parts = job["spec"]["completions"]
    parts = {words_of(container, index=i)[2] for i in range(num_parts)}
    assert parts == {f"{i}/{num_parts}" for i in range(1, num_parts + 1)}


@pytest.mark.parametrize("name", [name for name, _ in every_container()])
def test_arguments_are_those_of_the_commands(name: str) -> None:
    container = dict(every_container())[name]
    words = words_of(container)
    commands = training if "train" in name else service
    chosen = typer.main.get_command(commands).commands[words[0]]  # type: ignore[attr-defined]
    options = {option for one in chosen.params for option in one.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_keys_of_a_secret_are_read_and_noticed_when_they_change(tmp_path: Path) -> None:
    """Kubernetes mounts a secret as links, readable by the pod's group, and swaps a folder when it changes."""
    keys = tmp_path / "api-keys.json"
    kept = create_key(keys, name="kept", scope="read")
    gone = create_key(keys, name="gone", scope="read")
    mount = tmp_path / "mount"

    def publish(version: str) -> None:
        (mount / version).mkdir(parents=True)
        shutil.copy(keys, mount / version / keys.name)
        (mount / version / keys.name).chmod(0o440)
        (mount / "new").symlink_to(version)
        (mount / "new").rename(mount / "..data")

    publish("..1")
    (mount / keys.name).symlink_to(f"..data/{keys.name}")
    store = KeyStore(mount / keys.name)
    assert store.identify(gone.key)
    revoke_key(keys, gone.stored.key_id)
    publish("..2")
    assert store.identify(gone.key) is None
    assert store.identify(kept.key)


# Beside it


def test_qdrant_is_the_one_that_foley_asks() -> None:
    (values,) = read(FOLDER / "qdrant-values.yaml")
    (container,) = pods()["foley"]["containers"]
    (asked,) = [one for one in container["env"] if one["name"] == "FOLEY_QDRANT_API_KEY"]
    assert values["apiKey"]["valueFrom"] == asked["valueFrom"]
    assert values["replicaCount"] > int(shared_settings()["FOLEY_QDRANT_REPLICAS"]) > 1
    compose = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    assert compose["services"]["qdrant"]["image"].endswith(":" + values["image"]["tag"])
    assert "helm upgrade --install qdrant " in (FOLDER / "qdrant-values.yaml").read_text()
    assert shared_settings()["FOLEY_QDRANT_URL"] == "http://qdrant:6333"
    ports = [one["port"] for rule in references(MANIFESTS, "egress") for one in rule[0]["ports"]]
    assert ports == [6333, Settings().qdrant_grpc_port]
