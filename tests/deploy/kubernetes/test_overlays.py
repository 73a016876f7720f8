"""Every folder that a README row applies renders, and holds nothing that Kubernetes would not know."""

import pytest
from jsonschema import ValidationError
from support.kubernetes import FOLDER, OVERLAYS, render, validate

FOLDERS = [*(f"overlays/{name}" for name in OVERLAYS), "kserve"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_renders_and_is_valid(folder):
    manifests = render(folder)
    assert manifests
    validate(manifests)


@pytest.mark.parametrize(
    ("folder", "kind", "name"),
    [
        ("overlays/gpu", "Deployment", "video-llava"),
        ("overlays/gpu", "ServiceMonitor", "video-llava"),
        ("overlays/multi-node", "LeaderWorkerSet", "video-llava"),
        ("overlays/autoscale-keda", "ScaledObject", "video-llava"),
        ("kserve", "ClusterServingRuntime", "video-llava"),
    ],
)
def test_a_slip_of_the_pen_is_found(folder, kind, name):
    manifests = render(folder)
    manifests.get(kind, name)["spec"]["replcias"] = 3
    with pytest.raises(ValidationError, match="replcias"):
        validate(manifests)


@pytest.mark.parametrize("role", ["leaderTemplate", "workerTemplate"])
def test_pods_inside_of_other_resources_are_checked_too(role):
    manifests = render("overlays/multi-node")
    manifests.get("LeaderWorkerSet")["spec"]["leaderWorkerTemplate"][role]["spec"]["containers"][0]["imgae"] = "x"
    with pytest.raises(ValidationError, match="imgae"):
        validate(manifests)


def test_no_folder_is_forgotten():
    made = {path.parent.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("kustomization.yaml")}
    parts = {name for name in made if name.startswith("components/")} | {"base", "overlays/multi-node/group"}
    assert made == set(FOLDERS) | parts
