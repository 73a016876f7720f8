"""The image for CPUs as Kubernetes runs it: asked, broken, drained, upgraded under load and rolled back.

`make image-test`. The tests follow each other: each takes the containers as the one before has left them.
"""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import images
from support.callers import Caller
from support.container_cluster import MODEL_ID, NETWORK, SUBNET, Cluster, Proxy, Server, step
from support.containers import Container, expand, podman, rights_of, volumes_of
from support.kube_play import playable, played, wait_ready
from support.kubernetes import render
from support.launcher import find_engine
from support.questions import Load, Question, known_questions
from support.waiting import wait_until
from video_llava_client import Unavailable, VideoLlava, VideoLlavaError

MAX_IMAGE_BYTES = 2_500_000_000
# In tokens of 50 ms: the drain has to wait.
LONGER_THAN_PRE_STOP = 250
CLIP = Path(__file__).parents[1] / "media" / "bikes.mp4"


@pytest.fixture(scope="module")
def image() -> str:
    if missing := images.what_is_missing():
        pytest.exit(missing, returncode=2)
    step(f"build the target cpu on {images.BASE}")
    images.build()
    return images.IMAGE


@pytest.fixture(scope="module")
def models(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model that the Job of deploy/kubernetes/export/random exports."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run(["chown", "1000:1000", folder], check=True)
    ((_, pod),) = render("export/random").pods()
    (job,) = pod["spec"]["containers"]
    entrypoint, *command = [*job["command"], *expand(job["args"], MODEL_ID=MODEL_ID)]
    step("export the small random model by the image")
    options = [
        *rights_of(pod, job),
        *volumes_of(pod, job, models=folder),
        f"--entrypoint={entrypoint}",
        "--network=none",
    ]
    with Container("vl-export", image, options, command) as exporting:
        assert podman("wait", exporting.name, timeout_seconds=300) == "0", exporting.log()
    return folder


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    """A network in which nothing but `--dns` knows names."""
    podman("network", "create", "--disable-dns", f"--subnet={SUBNET}.0/24", NETWORK)
    yield
    podman("network", "rm", "--force", NETWORK)


@pytest.fixture(scope="module")
def cluster(image: str, models: Path, network: None) -> Iterator[Cluster]:  # noqa: ARG001
    with ExitStack() as stack:
        started = Cluster(image, models, stack)
        with started.names:
            yield started


@pytest.fixture
def server(cluster: Cluster) -> Server:
    return cluster.servers[0]


def test_the_image_is_small_and_has_its_health_check(image: str) -> None:
    size = int(podman("image", "inspect", "--format={{.Size}}", image))
    list_parts = "cd /opt/video-llava/lib/python3*/site-packages && du -sm * | sort -rn | head -12"
    parts = podman("run", "--rm", "--network=none", "--entrypoint=sh", image, "-c", list_parts)
    step(f"{size / 1e9:.2f} GB; the largest packages, in MB:\n{parts}")
    assert size < MAX_IMAGE_BYTES
    assert "/v2/health/ready" in podman("image", "inspect", "--format={{.HealthCheck}}", image)


@pytest.mark.timeout(900)
def test_it_answers_without_rights_and_writes_no_log_file(server: Server) -> None:
    step("ask about a clip")
    with server.client() as client:
        assert client.ask("What happens?", video=CLIP, max_tokens=8).num_output_tokens == 8
    status = server.exec("cat", "/proc/1/status")
    for line in ("Uid:\t1000\t1000\t1000\t1000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"):
        assert line in status
    assert "Read-only file system" in server.exec("sh", "-c", "touch /opt/x 2>&1 || true")
    assert server.exec("sh", "-c", "find /tmp /cache -name '*.log'") == ""
    output, errors = server.log()
    assert "successfully loaded 'vicuna'" in output
    assert "ready after" in errors


@pytest.mark.timeout(900)
def test_a_dead_engine_is_noticed_and_started_again(server: Server) -> None:
    step("kill its engine")
    with server.client() as client:
        caller = Caller(client)
        caller.wait_for_a_token()
        find_engine(server.pid).kill()
        caller.join()
    assert isinstance(caller.error, VideoLlavaError)
    wait_until(lambda: "vLLM's process VLLM::EngineCore has died" in server.log()[1])
    assert not server.is_healthy()
    step(f"ready again after {server.wait_healthy():.0f} s")
    with server.client() as client:
        assert client.ask("What?", max_tokens=4).num_output_tokens == 4


@pytest.mark.timeout(1800)
def test_an_upgrade_and_its_rollback_lose_no_request_and_answer_none_twice(
    cluster: Cluster, image: str, tmp_path: Path
) -> None:
    step("start the proxy")
    with images.next_release() as next_image, Proxy(tmp_path) as proxy, proxy.client() as client:
        wait_until(proxy.is_ready)
        questions = known_questions(client)
        before = cluster.num_arrived()
        with Load(client, questions) as load:

            def begin_long_streams() -> None:
                for _ in range(2):
                    load.begin_long_stream(Question("What happens?", {}, max_tokens=LONGER_THAN_PRE_STOP))

            step("upgrade to the next image under load")
            cluster.roll_out(next_image, before_each_stop=begin_long_streams)
            assert [server.exec("printenv", "RELEASE") for server in cluster.servers] == ["next"] * 2
            step("roll back")
            cluster.roll_out(image, before_each_stop=begin_long_streams)
        step(f"{len(load.asked)} requests, {sum(asked.error is not None for asked in load.asked)} lost")
        assert [asked.error for asked in load.asked if asked.error] == [], proxy.broken_streams()
        assert all(asked.finish_reasons == ["length"] for asked in load.asked)
        assert all(asked.question.token_ids in (asked.token_ids, ()) for asked in load.asked)
        assert cluster.num_arrived() - before == len(load.asked)


def test_a_stop_finishes_answers_and_refuses_new_ones(server: Server) -> None:
    step("stop it while it answers")
    with server.client() as client, ThreadPoolExecutor(1) as thread:
        caller = Caller(client, max_tokens=200)
        caller.wait_for_a_token()
        code = thread.submit(server.stop, timeout_seconds=240)
        wait_until(lambda: is_draining(client))
        caller.join()
        assert (caller.error, caller.num_tokens) == (None, 200)
        assert code.result() == 0
    step("stopped, exit code 0")


def is_draining(client: VideoLlava) -> bool:
    try:
        client.ask("What?", max_tokens=1)
    except Unavailable as exc:
        return exc.reason == "draining"
    return False


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("network")
def test_podman_plays_what_the_overlay_renders(image: str, models: Path, tmp_path: Path) -> None:
    step("podman kube play of overlays/cpu-dev")
    file = tmp_path / "cpu-dev.yaml"
    file.write_text(playable(render("overlays/cpu-dev"), image=image, model_id=MODEL_ID), encoding="utf-8")
    address = f"{SUBNET}.9"
    with played(file, network=f"{NETWORK}:ip={address}", models=models):
        step(f"ready after {wait_ready(address):.0f} s")
        with VideoLlava(f"{address}:8001", timeout_seconds=120) as client:
            assert client.ask("What happens?", video=CLIP, max_tokens=8).num_output_tokens == 8
