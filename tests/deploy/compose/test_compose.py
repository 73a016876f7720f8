"""The compose file against the Compose specification's schema, and against the files that it must agree with."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.kubernetes import flags, quantity, render

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/compose"
OVERLAY = {"gpu": "overlays/gpu", "cpu": "overlays/cpu-dev"}


@pytest.fixture
def services():
    return load(FOLDER / "compose.yaml")["services"]


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_schema_accepts_it_and_finds_a_typo():
    schema = json.loads(Path(__file__).with_name("compose-spec.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(schema)  # by name: the file writes the draft's address with https
    compose = load(FOLDER / "compose.yaml")
    validator.validate(compose)
    compose["services"]["cpu"]["read_olny"] = True
    with pytest.raises(jsonschema.ValidationError, match="read_olny"):
        validator.validate(compose)


def test_what_it_mounts_and_builds_is_there(services):
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
    for service in services.values():
        for volume in service.get("volumes", []):
            if isinstance(volume, str) and volume.startswith("."):
                assert (FOLDER / volume.split(":")[0]).exists()
                assert volume.endswith(":ro")
        if build := service.get("build"):
            assert (FOLDER / build["context"]).resolve() == ROOT
            assert (ROOT / build["dockerfile"]).is_file()
            assert re.search(rf"^FROM .* AS {build['target']}$", dockerfile, re.MULTILINE)


def test_nothing_has_rights_or_is_open_to_the_network(services):
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert not re.search(r"(:latest|^[^:]+)$", service["image"]), name


@pytest.mark.parametrize("name", OVERLAY)
def test_a_server_is_as_in_kubernetes(services, name):
    service = services[name]
    pod, triton = render(OVERLAY[name]).server(), render(OVERLAY[name]).triton()
    assert service["profiles"] == [name]  # one at a time, since both have the same alias
    assert service["networks"]["default"]["aliases"] == ["server"]
    assert triton["image"].endswith(service["image"])
    assert "--model=/models/${MODEL_ID:-video-llava}" in service["command"]
    minutes = int(service["stop_grace_period"].removesuffix("m"))
    assert 60 * minutes >= pod["spec"]["terminationGracePeriodSeconds"]


def test_running_answers_end_before_a_stop(services):
    (hook,) = services["gpu"]["pre_stop"]
    in_pod = render("overlays/gpu").triton()["lifecycle"]["preStop"]["exec"]["command"]
    # Exit code 1 says that some answers were cut; Compose would then not stop the container.
    assert hook["command"] == ["sh", "-c", f"video-llava-drain --timeout {in_pod[-1]} || true"]
    cpu = flags(services["cpu"]["command"])["exit-timeout-seconds"]
    assert cpu == flags(render("overlays/cpu-dev").triton()["args"])["exit-timeout-seconds"]


def test_the_memory_limit_is_that_of_kubernetes(services):
    limit = render("overlays/gpu").triton()["resources"]["limits"]["memory"]
    assert quantity(services["gpu"]["mem_limit"].replace("g", "Gi")) == quantity(limit)


def test_the_gateway_is_as_in_kubernetes_and_asks_the_server(services):
    service, cluster = services["gateway"], render("overlays/gateway").get("Deployment", "video-llava-gateway")
    pod = cluster["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"].endswith(f"/{service['image']}")
    command, args = flags(service["command"]), flags(container["args"])
    assert command["url"] == "server:8001"
    assert (command["drain-seconds"], command["host"]) == (args["drain-seconds"], args["host"])
    assert 60 * int(service["stop_grace_period"].removesuffix("m")) >= pod["terminationGracePeriodSeconds"]
    assert quantity(service["mem_limit"].replace("g", "Gi")) == quantity(container["resources"]["limits"]["memory"])


def test_prometheus_and_grafana_find_what_they_show(services):
    prometheus = load(FOLDER / "prometheus.yml")
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]}
    assert targets["video-llava"] == ["server:8002"]
    assert targets["video-llava-gateway"] == ["gateway:8080"]
    assert prometheus["rule_files"] == ["/etc/prometheus/rules/*.yml"]
    (source,) = load(FOLDER / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = load(FOLDER / "grafana/provisioning/dashboards/dashboards.yml")["providers"]
    assert f"../monitoring/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
