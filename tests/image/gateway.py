"""The gateway's image as Kubernetes runs it, before a fake server: asked, and stopped while it answers.

`make image-test`.
"""

import base64
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support import images
from support.container_cluster import step
from support.containers import Container, podman, rights_of
from support.kubernetes import render
from support.waiting import wait_until
from video_llava_client.testing import FakeServer, Reply
from video_llava_gateway.keys import new_key
from video_llava_serve._ports import choose_ports

MAX_IMAGE_BYTES = 500_000_000
CLIP = Path(__file__).parents[1] / "media" / "bikes.mp4"
KEY, SHA256 = new_key()


@pytest.fixture(scope="module")
def image() -> str:
    if missing := images.what_is_missing():
        pytest.exit(missing, returncode=2)
    step(f"build the target gateway on {images.BASE}")
    images.build("gateway", images.GATEWAY_IMAGE)
    return images.GATEWAY_IMAGE


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(Reply("A man rides a bike down the hill.", seconds_per_token=0.5)) as running:
        yield running


@pytest.fixture
def running(image: str, server: FakeServer, tmp_path: Path) -> Iterator[tuple[Container, str]]:
    """The container that the overlay renders, and its address."""
    pod = render("overlays/gateway").get("Deployment", "video-llava-gateway")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "keys.toml").write_text(f'joe = {{ sha256 = "{SHA256}" }}', encoding="utf-8")
    subprocess.run(["chmod", "-R", "a+rX", tmp_path], check=True)
    (port,) = choose_ports([("127.0.0.1", 0)])
    options = [
        *rights_of(pod, container),
        f"--volume={keys}:/keys:ro",
        "--tmpfs=/tmp:mode=1777,size=512m",
        "--network=host",
        f"--env=VIDEO_LLAVA_URL={server.url}",
    ]
    with Container("vl-gateway", image, options, [*container["args"], f"--port={port}"]) as started:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: health(url) == 200)
        yield started, url


def health(url: str) -> int:
    try:
        return httpx.get(f"{url}/health", timeout=10).status_code
    except httpx.TransportError:
        return 0


def ask(url: str) -> httpx.Response:
    data = f"data:video/mp4;base64,{base64.b64encode(CLIP.read_bytes()).decode()}"
    content = [{"type": "video_url", "video_url": {"url": data}}, {"type": "text", "text": "What happens?"}]
    body = {"messages": [{"role": "user", "content": content}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60)


def text(response: httpx.Response) -> str:
    return response.json()["choices"][0]["message"]["content"]


def resident_bytes(container: Container) -> list[int]:
    """Of its processes, the gateway first."""
    found = container.exec("sh", "-c", "grep -h VmRSS /proc/[0-9]*/status")
    return [1024 * int(kilobytes) for kilobytes in re.findall(r"VmRSS:\s+(\d+) kB", found)]


def test_the_image_is_small_and_has_no_torch(image: str) -> None:
    size = int(podman("image", "inspect", "--format={{.Size}}", image))
    list_parts = "cd /opt/video-llava/lib/python3*/site-packages && du -sm * | sort -rn | head -12"
    parts = podman("run", "--rm", "--network=none", "--entrypoint=sh", image, "-c", list_parts)
    step(f"{size / 1e6:.0f} MB; the largest packages, in MB:\n{parts}")
    assert size < MAX_IMAGE_BYTES
    found = podman("run", "--rm", "--network=none", "--entrypoint=sh", image, "-c", "ls /opt/video-llava/lib/*/*")
    assert not {"torch", "vllm", "pytriton", "onnxruntime", "transformers"} & set(found.split())
    assert podman("run", "--rm", "--network=none", image, "key", "joe").startswith("key: vl-")


def test_it_answers_without_rights(running: tuple[Container, str], server: FakeServer) -> None:
    container, url = running
    assert httpx.post(f"{url}/v1/chat/completions", json={}).status_code == 401
    assert text(ask(url)) == "A man rides a bike down the hill."
    frames, metadata = server.requests[-1].video_frames, server.requests[-1].metadata
    assert frames is not None
    assert len(frames) == 8
    assert {"x-video-llava-media-digest", "x-video-llava-caller"} <= metadata.keys()
    status = container.exec("cat", "/proc/1/status")
    for line in ("Uid:\t1000\t1000\t1000\t1000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"):
        assert line in status
    assert "Read-only file system" in container.exec("sh", "-c", "touch /opt/x 2>&1 || true")
    sizes = ", ".join(f"{size / 2**20:.0f}" for size in resident_bytes(container))
    step(f"resident MiB of the gateway, its decoders and the shell: {sizes}")
    output, _errors = container.log()
    step(output.strip())
    assert '"key": "joe"' in output


def test_a_stop_finishes_the_answer(running: tuple[Container, str]) -> None:
    container, url = running
    with ThreadPoolExecutor(2) as threads:
        answer = threads.submit(ask, url)
        wait_until(lambda: "requests_in_flight 1.0" in httpx.get(f"{url}/metrics").text)
        code = threads.submit(container.stop, timeout_seconds=60)
        wait_until(lambda: health(url) == 503)
        refused = ask(url)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert text(answer.result()) == "A man rides a bike down the hill."
        assert code.result() == 0
    step("stopped, exit code 0")
