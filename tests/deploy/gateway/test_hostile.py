"""A load of broken uploads: it is refused, within bounds, and all others are answered."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from deploy.gateway.helpers import BIKES, RunningGateway, ask, data_url, text_part, video_part
from deploy.gateway.hostile import Hostility, hostile_files
from deploy.gateway.test_command import serving
from deploy.gateway.test_files import named, names, peak_bytes, upload
from support.waiting import wait_until
from video_llava_client import MediaLimits, SourcePolicy
from video_llava_client.testing import FakeServer
from video_llava_gateway.file_store import FileStore

UNTRUSTED = {"isolated": True, "media_limits": MediaLimits(sources=SourcePolicy.untrusted(hosts=()))}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    with FakeServer() as server:
        store = FileStore(folder, max_bytes=10**9, max_file_bytes=10**8)
        gateway = RunningGateway(server.url, files=store, client=UNTRUSTED)
        yield gateway
        gateway.stop()


def test_a_load_of_broken_uploads(tmp_path, server):
    folder = tmp_path / "files"
    with serving(tmp_path, "--url", server.url, "--files-dir", str(folder), "--decoders", "2") as (process, url):

        def answered(number=0):
            # Another one each time, so that it has to be decoded.
            body = ask(video_part(BIKES.read_bytes() + bytes(number)), text_part("What?"))
            return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == 200

        assert answered()
        before = peak_bytes(process)
        hostility = Hostility(url, pause_seconds=0)
        with ThreadPoolExecutor(1) as threads:
            attack = threads.submit(asyncio.run, hostility.run(1000))
            number = 0
            while not attack.done() or number < 5:
                number += 1
                assert answered(number)
            attack.result()
        assert set(hostility.statuses) == {400}
        assert sum(hostility.statuses.values()) == 800
        # Eight of at most 3 MB at a time, of 380 MB in all.
        assert peak_bytes(process) - before < 200 * 2**20
        wait_until(lambda: "video_llava_gateway_requests_in_flight 0.0" in httpx.get(f"{url}/metrics").text)
        wait_until(lambda: names(folder) == [])
        assert len(psutil.Process(process.pid).children()) <= 2


@pytest.mark.parametrize("name", hostile_files())
def test_a_broken_file_is_refused_by_name(shared, name):
    content = hostile_files()[name]
    file_id = upload(shared, content).json()["id"]
    for kind in ("video_url", "image_url"):
        for url in (file_id, data_url(content)):
            part = named(url, kind)
            error = shared.post(ask(part, text_part("What?"))).json()["error"]
            assert (error["param"], error["code"]) == ("messages[0].content[0]", "invalid_media")
            assert not any(secret in error["message"] for secret in ("/proc", " at 0x", "/tmp"))
