"""The rules hold in every overlay, and each notices when it is broken: every mutation breaks one of them."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.kubernetes import FOLDER, OVERLAYS, ROOT, Manifests, flags, render
from support.kubernetes_rules import RULES, container, engine_gauges


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", RULES)
def test_holds(overlay, name):
    RULES[name](render(f"overlays/{overlay}"))


# Each of them notices


@dataclass(frozen=True)
class Mutation:
    """One thing taken away, or set to `value`, in a rendered overlay."""

    rule: str
    target: str
    path: str
    value: Any = None
    overlay: str = "gpu"

    def __str__(self) -> str:
        return f"{self.rule}-{self.overlay}-{self.path}".replace("/", "_")

    def apply(self, manifests: Manifests) -> None:
        kind, _, name = self.target.partition("/")
        node: Any = manifests.get(kind, name or "video-llava")
        *parents, last = (int(k) if k.isdecimal() else k.replace("~", "/") for k in self.path.split("/"))
        for key in parents:
            node = node[key]
        if self.value is None:
            del node[last]
        else:
            assert node[last] != self.value
            node[last] = self.value


POD = "spec/template/spec"
TRITON = f"{POD}/containers/0"
LEADER = "spec/leaderWorkerTemplate/leaderTemplate"
SECURITY = ("allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities")
MUTATIONS = [
    Mutation("images_have_a_version", "Deployment", f"{TRITON}/image", "registry.example.com/video-llava"),
    Mutation("images_have_a_version", "Deployment", f"{TRITON}/image", "registry.example.com/video-llava:latest"),
    Mutation("images_have_a_version", "Deployment", f"{TRITON}/image", "registry.example.com/video-llava:0.0.1-gpu"),
    Mutation("images_have_a_version", "Job/video-llava-export", f"{TRITON}/image", "video-llava:latest"),
    Mutation("images_have_a_version", "Deployment/video-llava-proxy", f"{TRITON}/image", "envoy:latest", "proxy"),
    *(Mutation("nothing_runs_with_rights", "Deployment", f"{TRITON}/securityContext/{key}") for key in SECURITY),
    *(
        Mutation("nothing_runs_with_rights", "Deployment", f"{POD}/securityContext/{key}")
        for key in ("runAsNonRoot", "runAsUser", "seccompProfile")
    ),
    Mutation("nothing_runs_with_rights", "Deployment", f"{POD}/securityContext/runAsUser", 0),
    Mutation("nothing_runs_with_rights", "Job/video-llava-export", f"{POD}/securityContext/runAsNonRoot"),
    Mutation("nothing_runs_with_rights", "Deployment", f"{POD}/initContainers/0/securityContext"),
    Mutation("nothing_runs_with_rights", "LeaderWorkerSet", f"{LEADER}/spec/securityContext", overlay="multi-node"),
    Mutation("nothing_runs_with_rights", "Deployment", f"{POD}/volumes/2", {"name": "tmp", "hostPath": {"path": "/"}}),
    Mutation("namespace_is_restricted", "Namespace", "metadata/labels/pod-security.kubernetes.io~enforce"),
    Mutation("nobody_has_a_token", "ServiceAccount", "automountServiceAccountToken"),
    Mutation("nobody_has_a_token", "Deployment", f"{POD}/automountServiceAccountToken"),
    Mutation("nobody_has_a_token", "Deployment", f"{POD}/serviceAccountName", "default"),
    *(
        Mutation("probes_know_the_engine", "Deployment", f"{TRITON}/{k}Probe")
        for k in ("startup", "readiness", "liveness")
    ),
    Mutation("probes_know_the_engine", "Deployment", f"{TRITON}/livenessProbe/httpGet/path", "/v2/health/live"),
    Mutation("probes_know_the_engine", "Deployment", f"{TRITON}/readinessProbe/httpGet/path", "/v2/health/live"),
    Mutation("probes_know_the_engine", "Deployment", f"{TRITON}/startupProbe/failureThreshold", 3),
    Mutation("probes_know_the_engine", "Deployment", f"{TRITON}/livenessProbe/failureThreshold", 3, "cpu-dev"),
    Mutation("requests_may_end_before_the_pod_does", "Deployment", f"{TRITON}/lifecycle"),
    Mutation("requests_may_end_before_the_pod_does", "Deployment", f"{TRITON}/lifecycle/preStop/exec/command/2", "5"),
    Mutation("requests_may_end_before_the_pod_does", "Deployment", f"{POD}/terminationGracePeriodSeconds", 30),
    Mutation(
        "requests_may_end_before_the_pod_does", "Deployment", f"{POD}/terminationGracePeriodSeconds", 200, "cpu-dev"
    ),
    Mutation("requests_may_end_before_the_pod_does", "Deployment", f"{TRITON}/args/5", "--exit-timeout-secs=90"),
    Mutation("requests_may_end_before_the_pod_does", "Deployment", f"{TRITON}/args/8", "--log-verbose=0"),
    Mutation("few_go_at_a_time", "PodDisruptionBudget", "spec/maxUnavailable", 2),
    Mutation("few_go_at_a_time", "PodDisruptionBudget", "spec/selector/matchLabels", {"app.kubernetes.io/name": "x"}),
    Mutation("few_go_at_a_time", "PodDisruptionBudget/video-llava-proxy", "spec/maxUnavailable", 2, "proxy"),
    Mutation("replicas_are_spread", "Deployment", f"{POD}/topologySpreadConstraints"),
    Mutation("replicas_are_spread", "Deployment", "spec/strategy/rollingUpdate/maxUnavailable", 1),
    Mutation("memory_has_a_ceiling_that_holds_what_is_bounded", "Deployment", f"{TRITON}/resources/limits/memory"),
    Mutation("memory_has_a_ceiling_that_holds_what_is_bounded", "Deployment", f"{TRITON}/volumeMounts/3"),
    Mutation("memory_has_a_ceiling_that_holds_what_is_bounded", "Deployment", f"{POD}/volumes/3/emptyDir/medium"),
    Mutation(
        "memory_has_a_ceiling_that_holds_what_is_bounded", "Deployment", f"{POD}/volumes/3/emptyDir/sizeLimit", "9Gi"
    ),
    Mutation("memory_has_a_ceiling_that_holds_what_is_bounded", "Deployment", f"{POD}/volumes/2/emptyDir/sizeLimit"),
    Mutation("the_model_is_read_only_and_never_changes", "Deployment", f"{TRITON}/volumeMounts/0/readOnly"),
    Mutation("the_model_is_read_only_and_never_changes", "Deployment", f"{TRITON}/args/2", "--model-control-mode=poll"),
    Mutation(
        "the_model_is_read_only_and_never_changes", "Job/video-llava-export", f"{TRITON}/args/1", "--into=/models/x"
    ),
    Mutation("services_find_the_servers_and_nobody_else", "Service/video-llava-headless", "spec/clusterIP"),
    Mutation(
        "services_find_the_servers_and_nobody_else",
        "LeaderWorkerSet",
        "spec/leaderWorkerTemplate/workerTemplate/metadata/labels/app.kubernetes.io~name",
        "video-llava",
        "multi-node",
    ),
    Mutation("names_mean_something", "Deployment", f"{POD}/volumes/3"),
    Mutation("names_mean_something", "Deployment", f"{POD}/volumes/0/persistentVolumeClaim/claimName", "models"),
    Mutation("names_mean_something", "Deployment", f"{TRITON}/readinessProbe/httpGet/port", "htpp"),
    Mutation("names_mean_something", "Deployment", f"{POD}/serviceAccountName", "video-lava"),
    Mutation("names_mean_something", "Service", "spec/ports/0/targetPort", "htpp"),
    Mutation("names_mean_something", "Deployment/video-llava-proxy", f"{POD}/volumes/0/configMap/name", "x", "proxy"),
    Mutation("each_pod_is_scraped_once", "ServiceMonitor", "spec/endpoints/0/port", "metric"),
    Mutation("each_pod_is_scraped_once", "Service/video-llava-headless", "spec/ports/1"),
    Mutation("the_network_is_closed", "NetworkPolicy", "spec/policyTypes", ["Ingress"]),
    Mutation("the_network_is_closed", "NetworkPolicy", "spec/egress/0/ports/0/port", 443),
    Mutation("the_network_is_closed", "NetworkPolicy", "spec/ingress/0/from", []),
    Mutation("the_network_is_closed", "NetworkPolicy/video-llava-export", "spec/podSelector/matchLabels", {"a": "b"}),
    Mutation(
        "gpus_are_as_many_as_the_model_is_split_over", "Deployment", f"{TRITON}/resources/limits/nvidia.com~gpu", "2"
    ),
    Mutation(
        "gpus_are_as_many_as_the_model_is_split_over",
        "Job/video-llava-export",
        f"{TRITON}/args/2",
        "--profile=24gb",
        "gpu-multi",
    ),
    Mutation(
        "gpus_are_as_many_as_the_model_is_split_over",
        "LeaderWorkerSet",
        "spec/leaderWorkerTemplate/size",
        3,
        "multi-node",
    ),
    Mutation(
        "autoscalers_ask_for_what_the_engine_exports", "HorizontalPodAutoscaler", "spec/metrics/1", overlay="autoscale"
    ),
    Mutation(
        "autoscalers_ask_for_what_the_engine_exports", "HorizontalPodAutoscaler", "spec/minReplicas", 1, "autoscale"
    ),
    Mutation(
        "autoscalers_ask_for_what_the_engine_exports",
        "ScaledObject",
        "spec/triggers/0/metadata/query",
        "sum(vllm:gpu_cache_usage_perc)",
        "autoscale-keda",
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_rule_notices(mutation):
    manifests = render(f"overlays/{mutation.overlay}")
    RULES[mutation.rule](manifests)
    mutation.apply(manifests)
    with pytest.raises((AssertionError, KeyError, TypeError, ValueError)):
        RULES[mutation.rule](manifests)


def test_every_rule_is_tried():
    assert {mutation.rule for mutation in MUTATIONS} == set(RULES)


# What one overlay is for


def test_the_drain_is_a_command_of_this_package():
    drain = Path(sys.executable).with_name("video-llava-drain")
    done = subprocess.run(
        [drain, "--help"], capture_output=True, check=True, env={"COLUMNS": "200"}, text=True, timeout=60
    )
    assert "--timeout " in done.stdout
    assert "VIDEO_LLAVA_RUNTIME_DIR" in done.stdout
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
    assert "VIDEO_LLAVA_RUNTIME_DIR=/tmp/" in dockerfile, "where the pod has a volume to write to"


def test_secure_closes_what_clients_do_not_need():
    given = flags(container(render("overlays/secure").server(), "triton")["args"])
    assert given["grpc-use-ssl"] == given["grpc-use-ssl-mutual"] == "1"
    for flag in ("grpc-server-cert", "grpc-server-key", "grpc-root-cert"):
        assert given[flag].startswith("/tls/")
    closed = set(given["grpc-restricted-protocol"].partition(":")[0].split(","))
    assert closed == {"model-repository", "shared-memory", "logging", "trace"}
    over_http = set(given["http-restricted-api"].partition(":")[0].split(","))
    assert over_http == closed | {"metadata", "inference", "model-config", "statistics"}, "health is for the probes"
    for flag in ("grpc-restricted-protocol", "http-restricted-api"):
        assert given[flag].endswith(":video-llava-admin=$(VIDEO_LLAVA_ADMIN_KEY)")


def test_secure_takes_its_secrets_from_secrets():
    pod = render("overlays/secure").server()
    (key,) = container(pod, "triton")["env"]
    assert key["valueFrom"]["secretKeyRef"]["name"] == "video-llava-admin"
    assert {"name": "tls", "secret": {"secretName": "video-llava-tls"}} in pod["spec"]["volumes"]


def test_the_group_runs_what_the_deployment_runs():
    leader = container(render("overlays/multi-node").server(), "triton")
    single = container(render("overlays/gpu").server(), "triton")
    assert leader["args"][:2] == ["sh", "-c"]
    assert leader["args"][2].endswith('exec "$@"')
    assert leader["args"][4:] == single["args"]
    for same in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "resources", "volumeMounts"):
        assert leader[same] == single[same]


def test_the_adapter_names_what_the_autoscaler_asks_for():
    adapter = yaml.safe_load((FOLDER / "components/hpa/prometheus-adapter.yaml").read_text(encoding="utf-8"))
    rules = adapter["rules"]["custom"]
    given = {rule["name"]["as"]: rule["seriesQuery"].partition("{")[0] for rule in rules}
    scaler = render("overlays/autoscale").get("HorizontalPodAutoscaler")["spec"]
    assert {metric["pods"]["metric"]["name"] for metric in scaler["metrics"]} == set(given)
    assert set(given.values()) <= engine_gauges()


def test_kserve_runs_what_the_deployment_runs():
    runtime = render("kserve").get("ClusterServingRuntime")["spec"]["containers"][0]
    triton = container(render("overlays/gpu").server(), "triton")
    assert runtime["args"] == [text.replace("/models/video-llava", "/mnt/models") for text in triton["args"]]
    assert runtime["image"] == triton["image"]
    assert runtime["lifecycle"] == triton["lifecycle"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert runtime[probe]["httpGet"]["path"] == triton[probe]["httpGet"]["path"]
        assert runtime[probe]["failureThreshold"] == triton[probe]["failureThreshold"]
