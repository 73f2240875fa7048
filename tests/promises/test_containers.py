"""The images and what runs beside them, as far as it can be known without a container engine."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.system.settings import Settings
from tests.support.paths import REPOSITORY

DOCKER = REPOSITORY / "docker"
SERVICE_METRIC = re.compile(r"\b(?:foley|process|python)_[a-z0-9_]+")
PROMETHEUS_OWN = {"up"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    return document


# compose.yaml


def check_schema(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_compose_is_what_the_specification_says(tmp_path: Path) -> None:
    found = check_schema(REPOSITORY / "compose.yaml")
    assert found.returncode == 0, found.stdout + found.stderr
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((REPOSITORY / "compose.yaml").read_text().replace("cap_drop:", "cap_dorp:"))
    assert "cap_dorp" in check_schema(wrong).stdout  # the control


def test_every_image_has_one_version(compose: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values()]
    images += [base_of(name) for name in ("Dockerfile", "Dockerfile.train")]
    for image in images:
        assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z-]*", image), image


def test_services_have_no_rights_they_do_not_need(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to other machines: {port}"
    for name in ("foley", "foley-gpu"):
        service = compose["services"][name]
        assert service["read_only"]
        assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])
        assert service["depends_on"]["qdrant"]["condition"] == "service_healthy"
        (media,) = [volume for volume in service["volumes"] if "/media" in volume]
        assert media.endswith(":ro")


def test_profiles_differ_in_the_accelerator_alone(compose: dict[str, Any]) -> None:
    cpu, gpu = (compose["services"][name] for name in ("foley", "foley-gpu"))
    assert (cpu["profiles"], gpu["profiles"]) == (["cpu"], ["gpu"])
    assert cpu["build"]["args"] == {"ACCELERATOR": "cpu"}
    assert gpu["build"]["args"] == {"ACCELERATOR": "gpu"}
    assert gpu["environment"] == {**cpu["environment"], "FOLEY_DEVICE": "cuda"}
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert {k for k in cpu if k not in gpu} == set()


def test_environment_is_made_of_settings(compose: dict[str, Any], tmp_path: Path) -> None:
    given = dict(compose["services"]["foley-gpu"]["environment"])
    for line in (DOCKER / "Dockerfile").read_text().splitlines():
        given.update(re.findall(r"(FOLEY_[A-Z_]+)=([^ \\]+)", line))
    fields = {name.removeprefix("FOLEY_").lower(): value for name, value in given.items()}
    fields = {name: re.sub(r"\$\{.*\}", "secret", value) for name, value in fields.items()}
    settings = Settings(**fields)
    assert settings.needs_keys
    assert settings.host == "0.0.0.0"
    assert settings.library_roots == (Path("/media"),)
    assert settings.keys_path == Path("/data/api-keys.json")
    assert settings.graceful_stop_seconds < int(
        compose["services"]["foley"]["stop_grace_period"].removesuffix("s")
    )


def test_volumes_and_files_exist(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{[^}]*\}", "/given", volume).split(":")[0]
            if source.startswith("./"):
                assert (REPOSITORY / source).exists(), f"{name}: {source}"
            elif not source.startswith("/"):
                assert source in compose["volumes"], f"{name}: {source}"
        build = service.get("build")
        assert build is None or (REPOSITORY / build["context"] / build["dockerfile"]).exists()


def test_qdrant_health_check_runs(compose: dict[str, Any], tmp_path: Path) -> None:
    """The check is bash: it must say yes to a server that is ready and no where none is."""
    test = compose["services"]["qdrant"]["healthcheck"]["test"]
    assert test[:3] == ["CMD", "bash", "-c"]
    answer = "HTTP/1.0 {} X\\r\\n\\r\\n"
    server = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        f"c, _ = s.accept(); c.recv(1000); c.sendall(b'{answer}'.replace(b'{{}}', sys.argv[1].encode())); c.close()"
    )
    for status, code in (("200 OK", 0), ("503 Service Unavailable", 1)):
        with subprocess.Popen(
            [sys.executable, "-c", server, status], stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout is not None
            port = running.stdout.readline().strip()
            script = test[3].replace("6333", port).replace("$$", "$")
            done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=10, check=False)
            assert (done.returncode == 0) == (code == 0)
    assert (
        subprocess.run(["bash", "-c", script], capture_output=True, timeout=10, check=False).returncode != 0
    )


# Images


def base_of(name: str) -> str:
    """The image that every stage of a Dockerfile starts from, directly or by way of an earlier one."""
    found = instructions(name)
    stages = {value.split()[-1] for word, value in found if word == "FROM" and " AS " in value}
    assert {value.split()[0] for word, value in found if word == "FROM"} <= {"${BASE}", *stages}
    return next(value for word, value in found if word == "ARG").removeprefix("BASE=")


def instructions(name: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n", " ", (DOCKER / name).read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.train"])
def test_final_stage_runs_without_rights(name: str) -> None:
    found = instructions(name)
    final = found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]
    users = [value for word, value in final if word == "USER"]
    assert users == ["10001:10001"]
    copied = [value for word, value in final if word == "COPY"]
    # What others wrote lies below our own code: a change of ours is a small layer.
    ours, others = ["/ours", "/"], ["/opt/foley", "/opt/foley"]
    is_serving = name == "Dockerfile"  # without pip; that of training is built on what it needs
    assert [value.split()[1:] for value in copied] == ([others, ours] if is_serving else [ours])
    assert is_serving or final[0] == ("FROM", "dependencies")
    labels = next(value for word, value in final if word == "LABEL")
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f'org.opencontainers.image.version="{version}"' in labels
    for word, value in found:
        if word in ("ENTRYPOINT", "CMD"):
            assert json.loads(value), "in exec form: a shell would not pass SIGTERM on"


def test_serving_image_has_no_build_tools_and_a_health_check() -> None:
    found = instructions("Dockerfile")
    final = found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]
    assert not [
        value for word, value in final if word == "RUN" and re.search(r"apt|pip install|gcc|g\+\+", value)
    ]
    (removed,) = [value for word, value in final if word == "RUN" and "pip uninstall" in value]
    assert removed.split("--break-system-packages ")[1].split()[:3] == ["pip", "setuptools", "wheel"]
    (check,) = [value for word, value in final if word == "HEALTHCHECK"]
    command = json.loads(check[check.index("[") :])
    assert command[0] == "python"
    compile(command[2], "health check", "exec")
    assert "os.environ['FOLEY_PORT']}/readyz" in command[2]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.train"])
def test_what_is_copied_is_in_the_context(name: str) -> None:
    kept = {
        line.removeprefix("!")
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line[:1] == "!"
    }
    assert (REPOSITORY / ".dockerignore").read_text().splitlines()[1] == "*"
    for word, value in instructions(name):
        if word == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert source in kept
                assert (REPOSITORY / source).exists()


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.train"])
def test_what_builds_the_wheel_is_pinned_and_its_notices_are_there(name: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    pinned = [line.split("==")[0] for line in (REPOSITORY / "constraints.txt").read_text().splitlines()]
    assert {Requirement(one).name for one in project["build-system"]["requires"]} <= set(pinned)
    given = " ".join(value for word, value in instructions(name) if word == "ENV")
    for variable in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):  # older versions of pip, and newer ones
        assert f"{variable}=/src/constraints.txt" in given
    copied = " ".join(value for word, value in instructions(name) if word == "COPY").split()
    assert set(project["project"]["license-files"]) <= set(copied)


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.train"])
def test_run_lines_are_shell(name: str) -> None:
    assert shutil.which("sh")
    for word, value in instructions(name):
        if word == "RUN":
            done = subprocess.run(
                ["sh", "-n", "-c", value], capture_output=True, text=True, timeout=10, check=False
            )
            assert done.returncode == 0, done.stderr


def installed_by(accelerator: str) -> list[str]:
    """What the serving image's pip line installs, as its shell expands it."""
    (line,) = [v for w, v in instructions("Dockerfile") if w == "RUN" and "pip install --constraint" in v]
    script = line.partition("&&")[0].replace("/opt/foley/bin/python -m pip", "printf '%s\\n'")
    done = subprocess.run(
        ["sh", "-c", script],
        env={"ACCELERATOR": accelerator},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert done.returncode == (0 if accelerator in ("cpu", "gpu") else 2), done.stderr
    words = done.stdout.split()
    return words[words.index("constraints.txt") + 1 :] if words else []


def closure(requirement: str) -> set[str]:
    """Names of all packages that a requirement brings, as far as they are installed here."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(requirement)]
    while waiting:
        wanted = waiting.pop()
        key = (wanted.name.lower(), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            needs = requires(wanted.name) or []
        except PackageNotFoundError:
            continue
        for text in needs:
            need = Requirement(text)
            if need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)
            ):
                waiting.append(need)
    return {name for name, _ in seen}


@pytest.mark.parametrize("accelerator", ["cpu", "gpu"])
def test_serving_brings_no_torch(accelerator: str) -> None:
    found: set[str] = set()
    for word in installed_by(accelerator):
        found |= closure(f"foley-av{word[1:]}" if word.startswith(".") else word)
    assert {"fastapi", "onnxruntime-gpu", "av"} <= found
    assert not {name for name in found if re.match(r"torch|triton|onnxscript|tensorboard|pytest", name)}
    assert "torch" in closure("foley-av[train]")  # the control: the way to look finds it
    assert installed_by("tpu") == []


@pytest.mark.parametrize("extras", ["openvino", "train", "openvino,train,pe-av,graph,dev"])
def test_every_package_of_an_image_is_pinned(extras: str) -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    found = {canonicalize_name(name) for name in closure(f"foley-av[{extras}]")} - {"foley-av"}
    installed = {canonicalize_name(one.metadata["Name"]) for one in distributions()}
    assert found & installed <= pinned
    assert not found & installed <= pinned - {"numpy"}  # the control


# What is measured


@pytest.fixture(scope="module")
def measured(server: str, library_files: Path) -> set[str]:
    """Names of every sample a server gives after a search and a miss."""
    content = min(library_files.glob("0*.mp4")).read_bytes()
    httpx.post(f"{server}/v1/search", files={"file": content}, data={"target": "audio"}, timeout=60)
    httpx.get(f"{server}/nothing")
    text = httpx.get(f"{server}/metrics", timeout=30).text
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}


def expressions() -> list[str]:
    dashboard = json.loads((DOCKER / "grafana/dashboards/foley.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = yaml.safe_load((DOCKER / "alerts.yml").read_text())
    return found + [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_that_is_looked_at_exists(measured: set[str], expression: str) -> None:
    names = set(SERVICE_METRIC.findall(expression))
    assert names or PROMETHEUS_OWN & set(re.findall(r"\w+", expression)), "looks at nothing"
    assert names <= measured
    assert expression.count("(") == expression.count(")")


def test_a_metric_that_does_not_exist_is_found(measured: set[str]) -> None:
    assert not set(SERVICE_METRIC.findall("rate(foley_requests_total[5m])")) <= measured


def test_dashboard_is_provisioned(compose: dict[str, Any]) -> None:
    sources = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())
    providers = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/foley.yml").read_text())
    dashboard = json.loads((DOCKER / "grafana/dashboards/foley.json").read_text())
    uids = {source["uid"] for source in sources["datasources"]}
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == uids
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    mounts = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert providers["providers"][0]["options"]["path"] in mounts
    scrape = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    target = job["static_configs"][0]["targets"][0]
    name, port = target.split(":")
    for service in ("foley", "foley-gpu"):
        assert name in compose["services"][service]["networks"]["default"]["aliases"]
    assert f"FOLEY_PORT={port}" in shlex.split(
        (DOCKER / "Dockerfile").read_text().replace("\\\n", " "), comments=True
    )
    assert scrape["rule_files"] == ["alerts.yml"]
