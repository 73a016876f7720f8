"""What the pods that run Triton are told: the model they serve, their probes, and the sums of memory and stop time."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from support.kubernetes import EXPORTS, FOLDER, KSERVE, OVERLAYS, ROOT, flags, quantity, render
from support.model_7b import DEMAND
from video_llava_export.profiles import DRAIN_SECONDS, Hardware, fit
from video_llava_server.admission import MAX_COMPILES
from video_llava_server.drain import _GRACE_SECONDS as ERRORS_SECONDS
from video_llava_server.features import DEFAULT_MEGABYTES
from video_llava_server.repository import UNLOAD_SECONDS, common_flags

model_config_pb2: Any = import_module("tritonclient.grpc.model_config_pb2")  # generated, without types

GPU_OVERLAYS = [name for name in OVERLAYS if name != "overlays/cpu-dev"]
SET = dict(flag.removeprefix("--").split("=", 1) for flag in common_flags(Path("repository"), admin_key="key"))
"""What video-llava-tritonserver sets."""


def find(pattern, text):
    """The first group of the first match, as a number."""
    match = re.search(pattern, text)
    assert match, f"no {pattern} in {text}"
    return int(match[1])


def exported():
    """The export Jobs' arguments by model id."""
    jobs = [render(name).of("Job") for name in EXPORTS]
    return {job["metadata"]["name"]: job["spec"]["template"]["spec"]["containers"][0]["args"] for (job,) in jobs}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_serves_a_model_that_a_job_exports(folder):
    pod, triton = render(folder).server(), render(folder).triton()
    assert pod["metadata"]["labels"]["video-llava/model"] in exported()
    assert "--model=/models/$(MODEL_ID)" in triton["args"]
    (wait,) = pod["spec"]["initContainers"]
    assert "test -f /models/$(MODEL_ID)/manifest.json" in wait["args"][0]
    for each in (triton, wait):
        reference = each["env"][0]["valueFrom"]["fieldRef"]["fieldPath"]
        assert (each["env"][0]["name"], reference) == ("MODEL_ID", "metadata.labels['video-llava/model']")
        assert {"name": "models", "mountPath": "/models", "readOnly": True} in each["volumeMounts"]


@pytest.mark.parametrize("folder", EXPORTS)
def test_the_export_is_named_after_its_job(folder):
    (container,) = render(folder).of("Job")[0]["spec"]["template"]["spec"]["containers"]
    assert (
        container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/job-name']"
    )
    assert re.search(r"--into=/models --id=\$\(MODEL_ID\)", " ".join(container["args"]))


def test_the_readmes_overlays_name_another_model(tmp_path):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    made = {}
    for name, text in re.findall(r"```yaml\n# (\w+)/kustomization.yaml\n(.+?)```", readme, re.DOTALL):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "kustomization.yaml"
        path.write_text(text.replace("../deploy", os.path.relpath(FOLDER.parent, path.parent)), encoding="utf-8")
        made[name] = render(str(path.parent))
    (job,) = made["export"].of("Job")
    assert job["metadata"]["name"] == made["serve"].server()["metadata"]["labels"]["video-llava/model"]
    assert job["metadata"]["name"] not in exported()
    (image,) = {each["image"] for name in ("export", "serve") for each, _ in made[name].containers()}
    assert image.startswith("your.registry/video-llava:")


@pytest.mark.parametrize("folder", GPU_OVERLAYS)
def test_gpus_are_as_many_as_the_model_is_split_over(folder):
    manifests = render(folder)
    triton = manifests.triton()
    export = exported()[manifests.server()["metadata"]["labels"]["video-llava/model"]]
    profile = re.fullmatch(r"(?:(\d+)x)?24gb", flags(export)["profile"])
    assert profile
    assert int(triton["resources"]["limits"]["nvidia.com/gpu"]) == int(profile[1] or 1)
    engine = json.loads(flags(triton["args"]).get("engine-arguments", "{}"))
    nodes = [group["spec"]["leaderWorkerTemplate"]["size"] for group in manifests.of("LeaderWorkerSet")]
    assert engine.get("pipeline_parallel_size", 1) == (nodes or [1])[0]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_probes_notice_a_dead_engine(folder):
    triton = render(folder).triton()
    startup, readiness, liveness = (triton[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
    lasts = {id(probe): probe["periodSeconds"] * probe["failureThreshold"] for probe in (startup, readiness, liveness)}
    assert startup["httpGet"]["path"] == readiness["httpGet"]["path"] == "/v2/health/ready"
    assert lasts[id(startup)] >= 900
    assert lasts[id(readiness)] <= 10
    if folder == "overlays/cpu-dev":
        # video-llava-serve restarts a dead engine, which takes minutes.
        assert liveness["httpGet"]["path"] == "/v2/health/live"
        assert lasts[id(liveness)] >= 300
    else:
        assert liveness["httpGet"]["path"] == "/v2/models/vicuna/ready"
        assert 15 <= lasts[id(liveness)] <= 60
    assert {probe["httpGet"]["port"] for probe in (startup, readiness, liveness)} == {"http"}
    assert {port["name"]: port["containerPort"] for port in triton["ports"]} == {
        "http": 8000,
        "grpc": 8001,
        "metrics": 8002,
    }


@pytest.mark.parametrize("folder", OVERLAYS)
def test_running_requests_end_before_the_pod(folder):
    pod, triton = render(folder).server(), render(folder).triton()
    before_stop = " ".join(triton["lifecycle"]["preStop"]["exec"]["command"])
    announced = find(r"(?:sleep|--announce) (\d+)", before_stop)
    assert announced >= 10
    given = flags(triton["args"])
    if folder == "overlays/cpu-dev":
        drain = int(given["exit-timeout-seconds"])
    else:
        drain = find(r"video-llava-drain .*--timeout (\d+)", before_stop)
        assert int(given["grpc-max-connection-age-grace"]) >= 1000 * drain
    assert pod["spec"]["terminationGracePeriodSeconds"] >= announced + drain + ERRORS_SECONDS + UNLOAD_SECONDS


def test_the_drain_is_a_command_of_this_package():
    done = subprocess.run(
        [Path(sys.executable).with_name("video-llava-drain"), "--help"],
        capture_output=True,
        check=True,
        env={"COLUMNS": "200"},
        text=True,
        timeout=60,
    )
    assert {"--announce", "--timeout", "VIDEO_LLAVA_RUNTIME_DIR"} <= set(re.findall(r"[-\w]+", done.stdout))
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
    assert "VIDEO_LLAVA_RUNTIME_DIR=/tmp/" in dockerfile, "the pod has a volume there"


FRAME_BYTES, FEATURE_BYTES = 8 * 224 * 224 * 3, 2056 * 4096 * 2
"""Of one video."""


def profile_of(folder):
    """What the export's --profile says for the model that the overlay serves."""
    arguments = exported()[render(folder).server()["metadata"]["labels"]["video-llava/model"]]
    return fit(Hardware.parse(flags(arguments)["profile"]), DEMAND)


@pytest.mark.parametrize("folder", GPU_OVERLAYS)
def test_the_memory_limit_holds_all_that_is_bounded(folder):
    volumes = {volume["name"]: volume.get("emptyDir") for volume in render(folder).server()["spec"]["volumes"]}
    triton = render(folder).triton()
    assert volumes["shm"]["medium"] == "Memory"
    assert {"name": "shm", "mountPath": "/dev/shm"} in triton["volumeMounts"]
    config = (ROOT / "model_repository/vicuna/config.pbtxt").read_text(encoding="utf-8")
    vicuna = text_format.Parse(config, model_config_pb2.ModelConfig())
    assert vicuna.parameters["max_requests"].string_value == "profile"
    needed = [
        quantity("6Gi"),
        DEFAULT_MEGABYTES << 20,
        quantity(volumes["shm"]["sizeLimit"]),
        int(vicuna.parameters["max_prompt_bytes"].string_value),
        MAX_COMPILES * int(vicuna.parameters["max_compile_bytes"].string_value),
        profile_of(folder).max_requests * (FRAME_BYTES + FEATURE_BYTES),
    ]
    assert quantity(triton["resources"]["limits"]["memory"]) >= sum(needed)


@pytest.mark.parametrize("folder", GPU_OVERLAYS)
def test_the_drain_takes_as_long_as_the_profile_says(folder):
    before_stop = " ".join(render(folder).triton()["lifecycle"]["preStop"]["exec"]["command"])
    assert find(r"--timeout (\d+)", before_stop) == DRAIN_SECONDS


def test_the_flags_of_video_llava_tritonserver_are_not_repeated():
    # Of --http-restricted-api Triton takes several, with different groups; test_secure.py starts it with both.
    once = SET.keys() - {"http-restricted-api"}
    for folder in (*GPU_OVERLAYS, KSERVE):
        for each, _ in render(folder).containers():
            assert not once & flags(each.get("args", [])).keys()


def test_leader_and_kserve_run_what_the_deployment_runs():
    single = render("overlays/gpu").triton()
    leader = render("../contrib/multi-node").triton()
    assert leader["args"][:2] == ["sh", "-c"]
    assert leader["args"][2].endswith('exec "$@"')
    assert [text for text in leader["args"][4:] if "--engine-arguments" not in text] == single["args"]
    for same in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "resources", "volumeMounts"):
        assert leader[same] == single[same]
    (runtime,) = render(KSERVE).get("ClusterServingRuntime")["spec"]["containers"]
    assert runtime["args"] == [text.replace("/models/$(MODEL_ID)", "/mnt/models") for text in single["args"]]
    assert (runtime["image"], runtime["lifecycle"]) == (single["image"], single["lifecycle"])
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert runtime[name]["httpGet"]["path"] == single[name]["httpGet"]["path"]
        assert runtime[name]["failureThreshold"] == single[name]["failureThreshold"]
