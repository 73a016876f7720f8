"""Every folder that the README applies renders to what Kubernetes' schemas allow, without rights and within bounds."""

import re

import pytest
import yaml
from jsonschema import ValidationError
from support.kubernetes import EXPORTS, FOLDER, OVERLAYS, ROOT, exported_metrics, render, validate

FOLDERS = [*OVERLAYS, *EXPORTS, "kserve"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_renders_and_is_valid(folder):
    manifests = render(folder)
    assert manifests
    validate(manifests)


@pytest.mark.parametrize(
    ("folder", "kind", "path"),
    [
        ("overlays/gpu", "Deployment", ["spec"]),
        ("overlays/gpu", "ServiceMonitor", ["spec"]),
        ("overlays/multi-node", "LeaderWorkerSet", ["spec", "leaderWorkerTemplate", "workerTemplate", "spec"]),
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
    made = {path.parent.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("kustomization.yaml")}
    components = {name for name in made if name.startswith("components/")}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    applied = set(re.findall(r"apply -k deploy/kubernetes/([\w/-]+)", readme))
    assert made - components - {"base", "export/job", "overlays/multi-node/group"} == set(FOLDERS) == applied
    assert set(re.findall(r"`(components/[\w-]+)`", readme)) == components


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
        if folder != "kserve":  # there KServe chooses the account
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
            assert tag in (f"{version[1]}-gpu", f"{version[1]}-cpu")
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
        provided = {"models"} if folder == "kserve" else set()
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
    manifests = render("overlays/gpu")
    monitor = manifests.get("ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = [each for each in manifests.of("Service") if wanted <= each["metadata"].get("labels", {}).items()]
    ports = [port["name"] for service in services for port in service["spec"]["ports"]]
    assert [ports.count(endpoint["port"]) for endpoint in monitor["endpoints"]] == [1]


@pytest.mark.parametrize("folder", ["overlays/autoscale", "overlays/autoscale-keda"])
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
