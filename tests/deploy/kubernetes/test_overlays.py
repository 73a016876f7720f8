"""Every folder that the README applies renders to what Kubernetes' schemas allow, without rights and within bounds."""

import itertools
import os
import re

import pytest
import yaml
from jsonschema import ValidationError
from support.kubernetes import BATCH, EXPORTS, FOLDER, KSERVE, OVERLAYS, ROOT, exported_metrics, render, validate

FOLDERS = [*OVERLAYS, *EXPORTS, BATCH, KSERVE]


@pytest.mark.parametrize("folder", FOLDERS)
def test_renders_and_is_valid(folder):
    manifests = render(folder)
    assert manifests
    validate(manifests)


@pytest.mark.parametrize(
    ("folder", "kind", "path"),
    [
        ("overlays/gpu", "Deployment", ["spec"]),
        ("overlays/autoscale", "ServiceMonitor", ["spec"]),
        ("../contrib/multi-node", "LeaderWorkerSet", ["spec", "leaderWorkerTemplate", "workerTemplate", "spec"]),
    ],
)
def test_a_typo_is_found(folder, kind, path):
    manifests = render(folder)
    node = manifests.get(kind)
    for key in path:
        node = node[key]
    node["replcias"] = 3
    with pytest.raises(ValidationError, match="replcias"):
        validate(manifests)


def test_the_readme_names_every_folder():
    deploy = FOLDER.parent
    made = {path.parent.relative_to(deploy).as_posix() for path in deploy.rglob("kustomization.yaml")}
    parts = {name for name in made if "kind: Component" in (deploy / name / "kustomization.yaml").read_text("utf-8")}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    applied = set(re.findall(r"apply -k deploy/([\w/-]+)", readme))
    inner = {"kubernetes/base", "kubernetes/export/job", "contrib/multi-node/group"}
    assert made - parts - inner == applied
    assert {(FOLDER / name).resolve().relative_to(deploy).as_posix() for name in FOLDERS} == applied
    assert set(re.findall(r"`deploy/([\w/-]+)` \|", readme)) == {name for name in parts if not name.endswith("/core")}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_container_has_rights(folder):
    for each, pod in render(folder).containers():
        own = each["securityContext"]
        context = {**pod.get("securityContext", {}), **own}
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert not any("hostPath" in volume for volume in pod["volumes"])
        if folder != KSERVE:  # there KServe chooses the account
            assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("video-llava", False)


@pytest.mark.parametrize("folder", FOLDERS)
def test_memory_and_volumes_are_bounded(folder):
    for each, pod in render(folder).containers():
        assert each["resources"]["limits"]["memory"] == each["resources"]["requests"]["memory"]
        assert all("sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}) for volume in pod["volumes"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_images_have_a_version(folder):
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    for each, _ in render(folder).containers():
        repository, _, tag = each["image"].rpartition(":")
        if repository.endswith("video-llava"):
            assert tag in {f"{version[1]}-{target}" for target in ("gpu", "gpu-ray", "cpu")}
        elif repository.endswith(("video-llava-gateway", "video-llava-client")):
            assert tag == version[1]
        else:
            assert repository
            assert tag != "latest"


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_refer_to_something(folder):
    manifests = render(folder)
    maps = {item["metadata"]["name"] for item in manifests.of("ConfigMap")}
    for each, pod in manifests.containers():
        variables = {variable["name"] for variable in each.get("env", [])}
        assert set(re.findall(r"\$\((\w+)\)", str(each.get("args")))) <= variables
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        provided = {"models"} if folder == KSERVE else set()
        assert {mount["name"] for mount in each["volumeMounts"]} <= volumes.keys() | provided
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {"claimName": "video-llava-models"})
            assert claim["claimName"] == "video-llava-models"
            assert volume.get("configMap", {}).get("name", "") in {"", *maps}


def selects(selector, pod):
    return selector.items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("folder", OVERLAYS)
def test_services_find_the_servers_and_only_them(folder):
    manifests = render(folder)
    assert manifests.get("Service", "video-llava-headless")["spec"]["clusterIP"] == "None"
    for name in ("video-llava", "video-llava-headless"):
        service = manifests.get("Service", name)["spec"]
        (pod,) = (pod for _, pod in manifests.pods() if selects(service["selector"], pod))
        assert pod == manifests.server()
    for service in manifests.of("Service"):
        pods = [pod for _, pod in manifests.pods() if selects(service["spec"]["selector"], pod)]
        ports = {port["name"] for pod in pods for each in pod["spec"]["containers"] for port in each["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("folder", OVERLAYS)
def test_nodes_and_rollouts_take_one_replica_at_a_time(folder):
    manifests = render(folder)
    for deployment in manifests.of("Deployment"):
        pod = deployment["spec"]["template"]
        spreads = pod["spec"]["topologySpreadConstraints"]
        assert "kubernetes.io/hostname" in [spread["topologyKey"] for spread in spreads]
        assert all(selects(spread["labelSelector"]["matchLabels"], pod) for spread in spreads)
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    for name, pod in manifests.pods():
        if not name.endswith("workerTemplate"):
            budgets = [budget["spec"] for budget in manifests.of("PodDisruptionBudget")]
            (budget,) = (each for each in budgets if selects(each["selector"]["matchLabels"], pod))
            assert budget["maxUnavailable"] == 1


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_network_is_closed(folder):
    manifests = render(folder)
    policies = [policy["spec"] for policy in manifests.of("NetworkPolicy")]
    exports = [pod for name in EXPORTS for _, pod in render(name).pods()]
    for pod in (*(pod for _, pod in manifests.pods()), *exports):
        own = [policy for policy in policies if selects(policy["podSelector"]["matchLabels"], pod)]
        assert {kind for policy in own for kind in policy["policyTypes"]} == {"Ingress", "Egress"}
    server = manifests.get("NetworkPolicy")["spec"]
    assert [[port["port"] for port in rule["ports"]] for rule in server["egress"]] == [[53, 53]]
    for rule in server["ingress"]:
        assert rule["from"]
        ports = {port["port"] for port in rule["ports"]}
        assert ports <= {"grpc", "metrics", "http"}
        # The kubelet's probes need no rule; only the proxy asks over HTTP too.
        if "http" in ports:
            (proxy,) = rule["from"]
            assert proxy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "video-llava-proxy"}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_namespace_admits_only_restricted_pods_without_a_token(folder):
    manifests = render(folder)
    labels = manifests.get("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert manifests.get("ServiceAccount")["automountServiceAccountToken"] is False


def test_prometheus_scrapes_each_pod_once():
    manifests = render("overlays/autoscale")
    monitor = manifests.get("ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = [each for each in manifests.of("Service") if wanted <= each["metadata"].get("labels", {}).items()]
    ports = [port["name"] for service in services for port in service["spec"]["ports"]]
    assert [ports.count(endpoint["port"]) for endpoint in monitor["endpoints"]] == [1]


@pytest.mark.parametrize("folder", ["overlays/autoscale", "../contrib/autoscale-keda"])
def test_autoscalers_ask_for_what_the_engine_exports(folder):
    manifests = render(folder)
    (scaler,) = (*manifests.of("HorizontalPodAutoscaler"), *manifests.of("ScaledObject"))
    assert "replicas" not in manifests.get("Deployment")["spec"], "each apply would reset it"
    assert scaler["spec"]["scaleTargetRef"]["name"] == "video-llava"
    assert scaler["spec"].get("minReplicas", scaler["spec"].get("minReplicaCount")) >= 2
    asked = {name.replace("vllm_", "vllm:") for name in re.findall(r"vllm[:_]\w+", str(scaler))}
    assert asked == {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"}
    assert asked <= exported_metrics()


def test_the_adapter_defines_what_the_autoscaler_asks_for():
    adapter = yaml.safe_load((FOLDER / "components/hpa/prometheus-adapter.yaml").read_text(encoding="utf-8"))
    defined = {rule["seriesQuery"].partition("{")[0]: rule["name"]["as"] for rule in adapter["rules"]["custom"]}
    scaler = render("overlays/autoscale").get("HorizontalPodAutoscaler")["spec"]
    assert {metric["pods"]["metric"]["name"] for metric in scaler["metrics"]} == set(defined.values())
    assert defined.keys() <= exported_metrics()


COMPONENTS = {
    "gateway": "kubernetes/components/gateway",
    "hpa": "kubernetes/components/hpa",
    "keda": "contrib/keda",
    "monitoring": "monitoring",
    "proxy": "kubernetes/components/proxy",
    "rate-limit": "kubernetes/components/rate-limit",
    "secure": "kubernetes/components/secure",
    "secure-proxy": "kubernetes/components/secure-proxy",
    "tracing": "kubernetes/components/tracing",
}
CONTRADICTIONS = [{"hpa", "keda"}, {"proxy", "secure"}, {"proxy", "secure-proxy"}, {"secure", "secure-proxy"}]
PROXIES = {"proxy", "secure-proxy"}
# What the second one changes has to be there.
ORDERED = {("rate-limit", name) for name in COMPONENTS} | {(name, "gateway") for name in (*PROXIES, "secure")}
PAIRS = list(itertools.permutations(COMPONENTS, 2))


def render_with(path, overlay, components):
    """What an overlay of a user's with these components renders to; raises AssertionError with kustomize's text."""
    deploy = os.path.relpath(FOLDER.parent, path)
    lines = ["resources:", f"  - {deploy}/{overlay}", "components:"]
    lines += [f"  - {deploy}/{COMPONENTS[name]}" for name in components]
    (path / "kustomization.yaml").write_text("\n".join(lines), encoding="utf-8")
    return render(str(path))


def gateways_of(manifests):
    return [item for item in manifests.of("Deployment") if item["metadata"]["name"] == "video-llava-gateway"]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_two_components_go_together_or_fail_to_render(tmp_path, pair):
    needs_proxy = pair[1] == "rate-limit" and pair[0] not in PROXIES
    if set(pair) in CONTRADICTIONS or pair in ORDERED or needs_proxy:
        with pytest.raises(AssertionError, match=r"testing value|nonexistent key|already registered|no matches for Id"):
            render_with(tmp_path, "kubernetes/overlays/gpu", pair)
        return
    manifests = render_with(tmp_path, "kubernetes/overlays/gpu", pair)
    validate(manifests)
    kinds = {item["kind"] for item in manifests}
    assert ("ServiceMonitor" in kinds) == ("monitoring" in pair)
    assert ("--grpc-use-ssl=1" in manifests.triton()["args"]) == bool({"secure", "secure-proxy"} & {*pair})
    proxies = [item for item in manifests.of("Deployment") if item["metadata"]["name"] == "video-llava-proxy"]
    assert bool(proxies) == bool(PROXIES & {*pair})
    limits = [item for item in manifests.of("ConfigMap") if "LocalRateLimit" in str(item["data"])]
    assert bool(limits) == ("rate-limit" in pair)
    assert bool(gateways_of(manifests)) == ("gateway" in pair)


@pytest.mark.parametrize("component", sorted(COMPONENTS.keys() - {"monitoring"}))
def test_a_component_without_its_deployment_fails_to_render(tmp_path, component):
    with pytest.raises(AssertionError, match="no matches for Id Deployment"):
        render_with(tmp_path, "contrib/multi-node", [component])


def blocks(text):
    """The README's blocks of YAML with this text."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    return [block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if text in block]


def test_the_readmes_request_log_renders(tmp_path):
    (patches,) = blocks("VIDEO_LLAVA_REQUEST_LOG")
    overlay = os.path.relpath(FOLDER, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{overlay}/overlays/gpu]\n{patches}", encoding="utf-8")
    manifests = render(str(tmp_path))
    validate(manifests)
    assert {"name": "requests", "mountPath": "/requests"} in manifests.triton()["volumeMounts"]


def test_the_picker_is_told_metrics_that_exist_and_their_port():
    (block,) = blocks("EndpointPickerConfig")
    plugins = {each["type"]: each.get("parameters") for each in yaml.safe_load(block)["plugins"]}
    (engine,) = plugins["core-metrics-extractor"]["engineConfigs"]
    assert {value for name, value in engine.items() if name.endswith("Spec")} <= exported_metrics()
    ports = {port["name"]: port["containerPort"] for port in render("overlays/gpu").triton()["ports"]}
    assert plugins["metrics-data-source"]["port"] == ports["metrics"]


def test_the_operators_rules_are_the_rules():
    folder = FOLDER.parent / "monitoring"
    rules = yaml.safe_load((folder / "rules/video-llava.yml").read_text(encoding="utf-8"))
    (made,) = render("overlays/autoscale").of("PrometheusRule")
    assert made["spec"] == rules


@pytest.mark.parametrize("folder", OVERLAYS)
def test_a_rollout_may_take_as_long_as_export_and_start(folder):
    server = render(folder).server()["spec"]
    (wait,) = server["initContainers"]
    jobs = [job["spec"]["activeDeadlineSeconds"] for name in EXPORTS for job in render(name).of("Job")]
    assert int(wait["command"][1]) >= max(jobs)
    probe = render(folder).triton()["startupProbe"]
    start = probe["periodSeconds"] * probe["failureThreshold"]
    for deployment in render(folder).of("Deployment"):
        if deployment["metadata"]["name"] == "video-llava":
            assert deployment["spec"]["progressDeadlineSeconds"] >= int(wait["command"][1]) + start + 600
