"""The compose file against the Compose specification's own schema, and what it says against the files it names."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.kubernetes import flags, quantity, render

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/compose"


@pytest.fixture
def compose():
    return yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schema():
    text = Path(__file__).with_name("compose-spec.json").read_text(encoding="utf-8")
    return jsonschema.Draft7Validator(json.loads(text))  # by name: the file writes the draft's address with https


def test_is_valid(compose, schema):
    schema.validate(compose)


def test_the_schema_finds_a_slip_of_the_pen(compose, schema):
    compose["services"]["cpu"]["read_olny"] = True
    with pytest.raises(jsonschema.ValidationError, match="read_olny"):
        schema.validate(compose)


def test_what_it_mounts_is_there(compose):
    for name, service in compose["services"].items():
        for volume in service["volumes"]:
            if isinstance(volume, str) and volume.startswith("."):
                assert (FOLDER / volume.split(":")[0]).exists(), (name, volume)
                assert volume.endswith(":ro"), (name, volume)


def test_what_it_builds_is_there(compose):
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
    for name in ("gpu", "cpu"):
        build = compose["services"][name]["build"]
        assert (FOLDER / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert re.search(rf"^FROM .* AS {build['target']}$", dockerfile, re.MULTILINE)


def test_one_server_at_a_time(compose):
    servers = [compose["services"][name] for name in ("gpu", "cpu")]
    assert [server["profiles"] for server in servers] == [["gpu"], ["cpu"]]
    assert all(server["networks"]["default"]["aliases"] == ["server"] for server in servers)


def test_nothing_has_rights_or_is_open_to_the_network(compose):
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert not re.search(r"(:latest|^[^:]+)$", service["image"]), name


def test_images_and_bounds_are_those_of_kubernetes(compose):
    for name in ("gpu", "cpu"):
        service = compose["services"][name]
        pod = render("overlays/gpu" if name == "gpu" else "overlays/cpu-dev").server()
        (triton,) = pod["spec"]["containers"]
        assert triton["image"].endswith(service["image"])
        minutes = int(service["stop_grace_period"].removesuffix("m"))
        assert 60 * minutes >= pod["spec"]["terminationGracePeriodSeconds"]
    assert quantity(compose["services"]["gpu"]["mem_limit"].replace("g", "Gi")) == quantity(
        render("overlays/gpu").server()["spec"]["containers"][0]["resources"]["limits"]["memory"]
    )
    command = compose["services"]["cpu"]["command"]
    cpu = render("overlays/cpu-dev").server()["spec"]["containers"][0]
    assert command[command.index("--exit-timeout-seconds") + 1] == flags(cpu["args"])["exit-timeout-seconds"]


def test_prometheus_asks_the_server():
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in configuration["scrape_configs"]}
    assert targets["video-llava"] == ["server:8002"]
    assert configuration["rule_files"] == ["/etc/prometheus/rules/*.yml"]


def test_grafana_finds_prometheus_and_the_dashboards(compose):
    provisioning = FOLDER / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text(encoding="utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/dashboards.yml").read_text(encoding="utf-8"))["providers"]
    path = provider["options"]["path"]
    assert f"../monitoring/dashboards:{path}:ro" in compose["services"]["grafana"]["volumes"]
