"""What must hold of every overlay's manifests. A rule raises AssertionError, KeyError, TypeError or ValueError else."""

import json
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from google.protobuf import text_format
from video_llava_serve import _drain, _process

from .kubernetes import ROOT, Manifests, flags, quantity

model_config_pb2: Any = import_module("tritonclient.grpc.model_config_pb2")  # generated, without types

RULES: dict[str, Callable[[Manifests], None]] = {}

# A drain that ran into its timeout waits so long for the errors of what it ended, models and engine then take so long
# to unload.
DRAIN_GRACE_SECONDS = _drain._GRACE_SECONDS
UNLOAD_SECONDS = _process._UNLOAD_SECONDS


def rule(check: Callable[[Manifests], None]) -> Callable[[Manifests], None]:
    RULES[check.__name__] = check
    return check


def container(pod, name=None):
    return next(c for c in pod["spec"]["containers"] if name in (None, c["name"]))


def containers(manifests):
    for name, pod in manifests.pods():
        for each in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])):
            yield f"{name}/{each['name']}", pod, each


def find(pattern, text):
    """The first group of the first match."""
    match = re.search(pattern, text, re.MULTILINE)
    assert match is not None, f"no {pattern} in {text}"
    return match[1]


def vicuna_config():
    text = (ROOT / "model_repository/vicuna/config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def selects(selector, labels):
    return selector.items() <= labels.items()


@rule
def images_have_a_version(manifests):
    version = find(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for name, _, each in containers(manifests):
        repository, _, tag = each["image"].rpartition(":")
        assert repository, f"{name} has no tag: {each['image']}"
        assert tag != "latest", name
        if repository.endswith("video-llava"):
            assert re.fullmatch(rf"{re.escape(version)}-(gpu|cpu)", tag), f"{name} is {tag}, the package is {version}"


@rule
def nothing_runs_with_rights(manifests):
    for name, pod, each in containers(manifests):
        whole, own = pod["spec"].get("securityContext", {}), each["securityContext"]
        both = {**whole, **own}
        assert both["runAsNonRoot"] is True, name
        assert both["runAsUser"] > 0, name
        assert both["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert own["allowPrivilegeEscalation"] is False, name
        assert own["readOnlyRootFilesystem"] is True, name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert not any("hostPath" in volume for volume in pod["spec"]["volumes"]), name


@rule
def namespace_is_restricted(manifests):
    labels = manifests.get("Namespace")["metadata"]["labels"]
    assert labels.get("pod-security.kubernetes.io/enforce") == "restricted"


@rule
def nobody_has_a_token(manifests):
    for account in manifests.of("ServiceAccount"):
        assert account.get("automountServiceAccountToken") is False
    for name, pod in manifests.pods():
        assert pod["spec"]["serviceAccountName"] == "video-llava", name
        assert pod["spec"].get("automountServiceAccountToken") is False, name


@rule
def probes_know_the_engine(manifests):
    triton = container(manifests.server(), "triton")
    startup, readiness, liveness = (triton[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
    assert startup["httpGet"]["path"] == readiness["httpGet"]["path"] == "/v2/health/ready"
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 900
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= 10
    if triton["image"].endswith("-cpu"):
        # video-llava-serve starts a dead engine anew; a start must fit in, or it would be cut short for ever.
        assert liveness["httpGet"]["path"] == "/v2/health/live"
        assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 300
    else:
        assert liveness["httpGet"]["path"] == "/v2/models/vicuna/ready"
        assert 15 <= liveness["periodSeconds"] * liveness["failureThreshold"] <= 60
    ports = {port["name"]: port["containerPort"] for port in triton["ports"]}
    assert {probe["httpGet"]["port"] for probe in (startup, readiness, liveness)} == {"http"}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}


@rule
def requests_may_end_before_the_pod_does(manifests):
    pod = manifests.server()
    triton = container(pod, "triton")
    script = " ".join(triton["lifecycle"]["preStop"]["exec"]["command"])
    pause = int(find(r"(?:sleep|--announce) (\d+)", script))
    assert pause >= 10
    given = flags(triton["args"])
    if triton["image"].endswith("-cpu"):
        drain = int(given["exit-timeout-seconds"])
        rest = UNLOAD_SECONDS
    else:
        drain = int(find(r"video-llava-drain .*--timeout (\d+)", script))
        rest = int(given["exit-timeout-secs"]) + UNLOAD_SECONDS
        # A channel too old is closed when its streams have ended, not before.
        assert int(given["grpc-max-connection-age-grace"]) >= 1000 * drain
    assert pod["spec"]["terminationGracePeriodSeconds"] >= pause + drain + DRAIN_GRACE_SECONDS + rest


@rule
def few_go_at_a_time(manifests):
    budgets = [b["spec"] for b in manifests.of("PodDisruptionBudget")]
    for name, pod in manifests.pods():
        if name.startswith("Job/") or name.endswith("workerTemplate"):
            continue
        (budget,) = (b for b in budgets if selects(b["selector"]["matchLabels"], pod["metadata"]["labels"]))
        assert budget["maxUnavailable"] == 1, name


@rule
def replicas_are_spread(manifests):
    for deployment in manifests.of("Deployment"):
        pod = deployment["spec"]["template"]
        keys = {spread["topologyKey"]: spread for spread in pod["spec"].get("topologySpreadConstraints", [])}
        assert "kubernetes.io/hostname" in keys, deployment["metadata"]["name"]
        for spread in keys.values():
            assert selects(spread["labelSelector"]["matchLabels"], pod["metadata"]["labels"])
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@rule
def memory_has_a_ceiling_that_holds_what_is_bounded(manifests):
    for name, _, each in containers(manifests):
        assert each["resources"]["limits"]["memory"] == each["resources"]["requests"]["memory"], name
    pod = manifests.server()
    triton = container(pod, "triton")
    shm = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "shm")["emptyDir"]
    assert shm["medium"] == "Memory"
    assert {"name": "shm", "mountPath": "/dev/shm"} in triton["volumeMounts"]
    limit = quantity(triton["resources"]["limits"]["memory"])
    if triton["image"].endswith("-gpu"):
        cache = int(flags(triton["args"])["cache-config"].rpartition("=")[2])
        prompts = int(vicuna_config().parameters["max_prompt_bytes"].string_value)
        assert limit >= quantity("6Gi") + cache + 2 * prompts + quantity(shm["sizeLimit"])
    for _, other in manifests.pods():
        for volume in other["spec"]["volumes"]:
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), volume["name"]


@rule
def the_model_is_read_only_and_never_changes(manifests):
    triton = container(manifests.server(), "triton")
    mount = next(mount for mount in triton["volumeMounts"] if mount["name"] == "models")
    assert mount["readOnly"] is True
    if triton["image"].endswith("-gpu"):
        given = flags(triton["args"])
        assert given["model-control-mode"] == "none"
        assert given["allow-client-shm"] == "false"
        assert given["strict-readiness"] == given["exit-on-error"] == "true"
    # What the pods wait for is what the export writes, and what is served.
    folder = flags(triton["args"])["model-repository" if "-gpu" in triton["image"] else "repository"]
    job = manifests.get("Job", "video-llava-export")["spec"]["template"]
    assert folder in " ".join(container(job)["args"])
    assert folder in manifests.server()["spec"]["initContainers"][0]["args"][0]


@rule
def services_find_the_servers_and_nobody_else(manifests):
    assert manifests.get("Service", "video-llava-headless")["spec"]["clusterIP"] == "None"
    for name, pod in manifests.pods():
        for service in ("video-llava", "video-llava-headless"):
            selector = manifests.get("Service", service)["spec"]["selector"]
            assert selects(selector, pod["metadata"]["labels"]) == (pod is manifests.server()), (service, name)


@rule
def each_pod_is_scraped_once(manifests):
    if container(manifests.server(), "triton")["image"].endswith("-cpu"):
        assert not manifests.of("ServiceMonitor")
        return
    monitor = manifests.get("ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"]
    found = [s for s in manifests.of("Service") if selects(wanted, s["metadata"].get("labels", {}))]
    ports = [port["name"] for service in found for port in service["spec"]["ports"]]
    assert [ports.count(endpoint["port"]) for endpoint in monitor["endpoints"]] == [1]


@rule
def the_network_is_closed(manifests):
    policies = [policy["spec"] for policy in manifests.of("NetworkPolicy")]
    for name, pod in manifests.pods():
        own = [p for p in policies if selects(p["podSelector"].get("matchLabels", {}), pod["metadata"]["labels"])]
        kinds = {kind for policy in own for kind in policy["policyTypes"]}
        assert kinds == {"Ingress", "Egress"}, f"{name} is open"
    server = manifests.get("NetworkPolicy")["spec"]
    assert [[port["port"] for port in way["ports"]] for way in server["egress"]] == [[53, 53]]
    opened = {port["port"] for way in server["ingress"] for port in way["ports"]}
    assert opened <= {"grpc", "metrics", "http"}
    for way in server["ingress"]:
        assert way.get("from"), "open to everybody"
        # HTTP is for probes, which need no rule; the proxy asks as they do.
        if "http" in [port["port"] for port in way["ports"]]:
            (proxy,) = way["from"]
            assert proxy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "video-llava-proxy"}


@rule
def gpus_are_as_many_as_the_model_is_split_over(manifests):
    triton = container(manifests.server(), "triton")
    count = int(triton["resources"]["limits"].get("nvidia.com/gpu", 0))
    arguments = container(manifests.get("Job", "video-llava-export")["spec"]["template"])["args"]
    if not count:
        assert not any("--profile" in text for text in arguments)
        return
    given = flags(arguments)
    pipeline = json.loads(given.get("vllm-arguments", "{}")).get("pipeline_parallel_size", 1)
    tensor = int(find(r"^(?:(\d+)x)?24gb$", given["profile"]) or 1)
    nodes = [s["spec"]["leaderWorkerTemplate"]["size"] for s in manifests.of("LeaderWorkerSet")] or [1]
    assert (count, nodes) == (tensor, [pipeline])


@rule
def names_mean_something(manifests):
    claims, maps = (
        {item["metadata"]["name"] for item in manifests.of(kind)} for kind in ("PersistentVolumeClaim", "ConfigMap")
    )
    for name, pod, each in containers(manifests):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert {mount["name"] for mount in each.get("volumeMounts", [])} <= volumes.keys(), name
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "") in {"", *claims}, name
            assert volume.get("configMap", {}).get("name", "") in {"", *maps}, name
        ports = {port["name"] for port in each.get("ports", [])}
        probes = [value["httpGet"]["port"] for key, value in each.items() if key.endswith("Probe")]
        assert ports.issuperset(probes), name
        manifests.get("ServiceAccount", pod["spec"]["serviceAccountName"])
    for service in manifests.of("Service"):
        pods = [p for _, p in manifests.pods() if selects(service["spec"]["selector"], p["metadata"]["labels"])]
        named = {port["name"] for pod in pods for each in pod["spec"]["containers"] for port in each["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named, service["metadata"]["name"]


@rule
def autoscalers_ask_for_what_the_engine_exports(manifests):
    scalers = [*manifests.of("HorizontalPodAutoscaler"), *manifests.of("ScaledObject")]
    for scaler in scalers:
        spec = scaler["spec"]
        assert "replicas" not in manifests.get("Deployment")["spec"], "each apply would set it back"
        assert spec["scaleTargetRef"]["name"] == "video-llava"
        least = spec.get("minReplicas", spec.get("minReplicaCount"))
        assert least >= 2
        asked = set(re.findall(r"vllm[:_]\w+", json.dumps(spec)))
        assert {name.replace("vllm_", "vllm:") for name in asked} == {
            "vllm:num_requests_waiting",
            "vllm:kv_cache_usage_perc",
        }
        assert {name.replace("vllm_", "vllm:") for name in asked} <= engine_gauges()


def engine_gauges():
    text = (ROOT / "model_repository/vicuna/1/metrics.py").read_text(encoding="utf-8")
    return set(re.findall(r'"(vllm:\w+)"', text))
