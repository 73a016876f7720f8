"""Uploaded files: OpenAI's own package as the caller, quotas, lifetimes, and what may go wrong."""

import json
import random
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from deploy.gateway.helpers import BIKES, ask, data_url, text_part, video_part
from deploy.gateway.test_command import run, serving
from deploy.gateway.test_media import picture
from support.waiting import wait_until
from video_llava_client import MediaLimits, SourcePolicy, VideoLlava
from video_llava_client.testing import Hang
from video_llava_gateway.file_store import FileStore
from video_llava_gateway.keys import new_key

EXTRA = 64 * 1024


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "files"


@pytest.fixture
def open_store(folder):
    """Opens the folder, as a gateway does at its start."""

    opened = []

    def open_store(max_bytes=10**8, max_file_bytes=10**7):
        opened.append(FileStore(folder, max_bytes=max_bytes, max_file_bytes=max_file_bytes))
        return opened[-1]

    yield open_store
    for each in opened:
        each.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def named(file_id, kind="video_url"):
    return {"type": kind, kind: {"url": file_id}}


def form(content, boundary="b", purpose="user_data"):
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n--{boundary}\r\n'
        f'Content-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    ).encode() + content


def head(length):
    return (
        "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def upload(gateway, content=b"abc", **options):
    return httpx.post(
        f"{gateway.url}/v1/files", files={"file": content}, data={"purpose": "user_data"}, timeout=30, **options
    )


def test_upload_once_ask_many_times(start, server, open_store, folder):
    limits = MediaLimits(sources=SourcePolicy.untrusted(hosts=()))
    gateway = start(files=open_store(), client={"isolated": True, "media_limits": limits})
    client = gateway.openai()
    with BIKES.open("rb") as video:
        file = client.files.create(file=video, purpose="user_data")
    assert (file.filename, file.bytes, file.status) == ("bikes.mp4", BIKES.stat().st_size, "processed")
    assert file.expires_at == file.created_at + 24 * 3600
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == BIKES.read_bytes()
    image = client.files.create(
        file=("a.png", picture()), purpose="vision", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert image.expires_at == image.created_at + 3600
    assert [each.id for each in client.files.list()] == [image.id, file.id]
    assert [each.id for each in client.files.list(limit=1, order="asc")] == [file.id, image.id]  # two pages
    assert [each.id for each in client.files.list(purpose="vision")] == [image.id]
    for question in ("What?", "And then?"):
        parts = [named(file.id), named(image.id, "image_url"), text_part(question)]
        client.chat.completions.create(model="video_llava", **ask(*parts))
    # The same content as data is the same medium.
    assert gateway.post(ask(video_part(BIKES.read_bytes()), text_part("What?"))).status_code == 200
    with VideoLlava(server.url) as theirs:
        theirs.ask("What?", video=BIKES, images=[picture()])
    first, second, data, grpc = server.requests
    assert (first.video_frames == grpc.video_frames).all()
    assert (first.image_frames == grpc.image_frames).all()
    assert (data.video_frames == grpc.video_frames).all()
    digest = "x-video-llava-media-digest"
    assert first.metadata[digest] == second.metadata[digest] == grpc.metadata[digest]
    assert (gateway.metric("media_cache_misses_total"), gateway.metric("media_cache_hits_total")) == (2, 3)
    assert gateway.metric("files") == 2
    assert client.files.delete(file.id).deleted
    assert names(folder) == [image.id, f"{image.id}.json"]
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    error = gateway.post(ask(named(file.id), text_part("What?"))).json()["error"]
    assert (error["param"], error["code"]) == ("messages[0].content[0]", "file_not_found")


def test_file_parts_of_openais(start, server, open_store):
    client = start(files=open_store()).openai()
    file = client.files.create(file=BIKES, purpose="user_data")
    for part in (
        {"file_id": file.id},
        {"file_data": data_url(BIKES.read_bytes()), "filename": "bikes.mp4"},
        {"file_data": data_url(picture(), ""), "filename": "a.png"},
        {"file_data": data_url(picture(), "image/png")},
    ):
        client.chat.completions.create(model="", **ask({"type": "file", "file": part}, text_part("What?")))
    assert [request.prompt[6:13] for request in server.requests] == ["<video>", "<video>", "<image>", "<image>"]
    for part in ({"file": {}}, {"file": None}, {}, {"file": {"file_id": 5}}):
        with pytest.raises(openai.BadRequestError, match=r"messages\[0\].content\[0\]"):
            client.chat.completions.create(model="", **ask({"type": "file", **part}, text_part("What?")))


def test_what_is_no_video_is_named_by_its_id(start, open_store):
    gateway = start(files=open_store(), client={"isolated": True})
    file_id = upload(gateway, b"no video").json()["id"]
    error = gateway.post(ask(named(file_id), text_part("What?"))).json()["error"]
    assert error["message"].startswith(f"messages[0].content[0]: {file_id}: ")


def test_a_file_is_its_keys_own(start, open_store, tmp_path):
    keys = {name: new_key() for name in ("joe", "ann")}
    lines = [f'{name} = {{ sha256 = "{key[1]}", max_files_bytes = 200_000 }}' for name, key in keys.items()]
    (tmp_path / "keys.toml").write_text("\n".join(lines))
    gateway = start(files=open_store(), keys=tmp_path / "keys.toml")
    joe, ann = (gateway.openai(key) for key, _ in keys.values())
    file = joe.files.create(file=bytes(100), purpose="user_data")
    assert [each.id for each in joe.files.list()] == [file.id]
    assert list(ann.files.list()) == []
    for call in (ann.files.retrieve, ann.files.delete, ann.files.content):
        with pytest.raises(openai.NotFoundError):
            call(file.id)
    with pytest.raises(openai.BadRequestError, match="there is no file"):
        ann.chat.completions.create(model="video_llava", **ask(named(file.id), text_part("What?")))
    with pytest.raises(openai.APIStatusError, match="the files of this key may have 200000 bytes") as full:
        joe.files.create(file=bytes(100_000), purpose="user_data")
    assert full.value.status_code == 413
    ann.files.create(file=bytes(100_000), purpose="user_data")


def test_without_a_folder_there_are_no_files(gateway):
    response = upload(gateway)
    assert response.status_code == 404
    assert "--files-dir" in response.json()["error"]["message"]
    error = gateway.post(ask(named("file-1"), text_part("What?"))).json()["error"]
    assert error["message"] == "messages[0].content[0]: this gateway keeps no files: send data"


@pytest.mark.parametrize("has_length", [True, False])
def test_a_file_that_is_too_large(start, open_store, folder, has_length):
    gateway = start(files=open_store(max_file_bytes=10**6))
    assert upload(gateway, bytes(10**6)).status_code == 200
    if has_length:
        refused = upload(gateway, bytes(5 * 10**6))
    else:
        parts = iter([form(b""), *[bytes(10**5)] * 50, b"\r\n--b--\r\n"])
        headers = {"content-type": "multipart/form-data; boundary=b"}
        refused = httpx.post(f"{gateway.url}/v1/files", content=parts, headers=headers, timeout=30)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "file_too_large")
    wait_until(lambda: len(names(folder)) == 2)


def test_a_quota_that_is_reached_in_the_middle(start, open_store, folder):
    store = open_store(max_bytes=10**6)
    gateway = start(files=store)
    with socket.create_connection(("127.0.0.1", gateway.port)) as first:
        first.sendall(head(900_000) + form(bytes(600_000)))
        wait_until(lambda: store.num_bytes > 600_000)
        parts = iter([form(bytes(100_000)), *[bytes(10_000)] * 40, b"\r\n--b--\r\n"])
        headers = {"content-type": "multipart/form-data; boundary=b"}
        refused = httpx.post(f"{gateway.url}/v1/files", content=parts, headers=headers, timeout=30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "file_quota_exceeded")
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as second:
            second.sendall(head(500_000))
            assert b" 413 " in second.recv(1000)
    wait_until(lambda: store.num_bytes == 0)
    assert names(folder) == []
    assert upload(gateway, bytes(900_000)).status_code == 200
    assert store.num_bytes == 900_000 + EXTRA


@pytest.mark.parametrize("sent", ["head", "form", "content", "all"])
def test_who_leaves_leaves_nothing(start, open_store, folder, monkeypatch, sent):
    store = open_store()
    gateway = start(files=store)
    content = form(bytes(700_000)) + b"\r\n--b--\r\n"
    many = {"head": 0, "form": 90, "content": 600_000, "all": len(content)}[sent]
    if sent == "all":
        fsync = "video_llava_gateway.file_store.os.fsync"
        monkeypatch.setattr(fsync, lambda _: time.sleep(1))
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(head(len(content)) + content[:many])
        wait_until(lambda: store.num_bytes >= EXTRA + many)
        assert len(names(folder)) == 1
    wait_until(lambda: gateway.metric("requests_total", key="", status="499") == 1)
    assert names(folder) == []
    assert (store.num_files, store.num_bytes) == (0, 0)


def test_an_upload_that_does_not_come(start, open_store, folder):
    for options in ({"body_seconds": 0.5}, {"upload_seconds": 0.5}):
        store = open_store()
        gateway = start(files=store, **options)
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
            connection.sendall(head(10_000) + form(b"abc"))
            assert b" 408 " in connection.recv(1000)
        assert names(folder) == []
        assert store.num_bytes == 0
        gateway.stop()


@contextmanager
def small_files(num_bytes):
    """No file of this process may have more bytes: as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Python ignores SIGXFSZ. With 100 bytes there is no room for what is known about the file.
@pytest.mark.parametrize(("most", "length"), [(300_000, 10**6), (100, 50)])
def test_a_full_disk(start, open_store, folder, most, length):
    store = open_store()
    gateway = start(files=store)
    with small_files(most):
        failed = upload(gateway, bytes(length))
    assert (failed.status_code, failed.json()["error"]["code"]) == (507, "disk_failed")
    assert str(folder) not in failed.text
    assert names(folder) == []
    assert store.num_bytes == 0
    assert upload(gateway, bytes(length)).status_code == 200


def test_files_outlive_a_restart(start, server, open_store, folder):
    store = open_store()
    gateway = start(files=store)
    file_id = upload(gateway, BIKES.read_bytes()).json()["id"]
    broken = upload(gateway, b"abcdef").json()["id"]
    with pytest.raises(OSError, match="another gateway uses this folder"):
        open_store()
    gateway.stop()
    (folder / broken).write_bytes(b"abc")
    killed = f"file-{0:032x}"
    (folder / killed).write_bytes(b"the beginning")
    (folder / "notes.txt").write_text("not ours")
    again = open_store()
    assert names(folder) == sorted([file_id, f"{file_id}.json", "notes.txt"])
    assert again.num_bytes == BIKES.stat().st_size + EXTRA
    gateway = start(files=again)
    assert gateway.post(ask(named(file_id), text_part("What?"))).status_code == 200
    assert len(server.requests) == 1


def test_a_gateway_that_stops_removes_what_is_not_whole(start, open_store, folder):
    gateway = start(files=open_store(), drain_seconds=0.1)
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(head(900_000) + form(bytes(600_000)))
        wait_until(lambda: len(names(folder)) == 1)
        gateway.stop()
    wait_until(lambda: names(folder) == [])


def test_files_expire(start, open_store, folder):
    gateway = start(files=open_store(), file_seconds=1)
    file_id = upload(gateway).json()["id"]
    wait_until(lambda: httpx.get(f"{gateway.url}/v1/files/{file_id}").status_code == 404)
    assert httpx.get(f"{gateway.url}/v1/files").json()["data"] == []
    other = upload(gateway).json()["id"]  # makes room first
    assert names(folder) == [other, f"{other}.json"]
    gateway.stop()
    time.sleep(1.1)
    open_store()
    assert names(folder) == []


def test_expired_files_are_removed_unasked(start, open_store, folder, monkeypatch):
    monkeypatch.setattr("video_llava_gateway.files._SWEEP_SECONDS", 0.1)
    store = open_store()
    upload(start(files=store, file_seconds=1))
    wait_until(lambda: names(folder) == [])
    wait_until(lambda: store.num_bytes == 0)


def test_a_file_that_is_deleted_while_it_is_used(start, server, open_store):
    gateway = start(files=open_store())
    file_id = upload(gateway, BIKES.read_bytes()).json()["id"]
    server.then(Hang(after_tokens=1))
    with httpx.stream(
        "POST", f"{gateway.url}/v1/chat/completions", json=ask(named(file_id), text_part("What?"), stream=True)
    ) as response:
        assert next(response.iter_lines()).startswith("data: ")
        assert httpx.delete(f"{gateway.url}/v1/files/{file_id}").json()["deleted"]
    assert httpx.delete(f"{gateway.url}/v1/files/{file_id}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "purpose: must be a word"),
        ({"purpose": "../a"}, "purpose: must be a word"),
        (
            {"purpose": "vision", "expires_after[seconds]": "999999"},
            "expires_after: its seconds must be from 1 to",
        ),
        ({"purpose": "vision", "expires_after[anchor]": "now"}, "expires_after: its anchor"),
        ({"purpose": "a" * 5000}, "purpose: has more than 4096 bytes"),
        ({str(number): "" for number in range(20)}, "more than 16 fields"),
    ],
)
def test_fields_that_cannot_be_used(start, open_store, folder, fields, message):
    gateway = start(files=open_store())
    response = httpx.post(f"{gateway.url}/v1/files", files={"file": b"abc"}, data=fields)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
    assert names(folder) == []


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"nothing", 400, "the form cannot be read"),
        (form(b"abc"), 400, "the form has no end"),
        (form(b"") + b"\r\n--b--\r\n", 400, "file: is missing or empty"),
        (b"--b--\r\n", 400, "file: is missing or empty"),
        (form(b"a\r\n") + form(b"b") + b"\r\n--b--\r\n", 400, "file: comes twice"),
        (b"--b\r\nA: " + b"a" * 100_000, 400, "the form cannot be read"),
        (b"--b\r\n" + b"A: a\r\n" * 30_000, 400, "the form cannot be read"),
        (b"\r\n" * 100_000, 413, "the form has more than 65536 bytes beside its file"),
        (form(b"a") + b"\r\n--b--\r\n" + bytes(200_000), 413, "the form has more than 65536 bytes beside its file"),
    ],
)
def test_forms_that_cannot_be_used(start, open_store, folder, content, status, message):
    gateway = start(files=open_store())
    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = httpx.post(f"{gateway.url}/v1/files", content=content, headers=headers)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]["message"]
    assert names(folder) == []
    for kind in ("application/json", "multipart/form-data"):
        refused = httpx.post(f"{gateway.url}/v1/files", content=b"{}", headers={"content-type": kind})
        assert refused.status_code == 415


def test_pages_from_elsewhere_upload_nothing(start, open_store, folder):
    gateway = start(files=open_store())
    assert upload(gateway, headers={"origin": "https://example.com"}).status_code == 403
    assert names(folder) == []
    assert upload(gateway, headers={"origin": gateway.url}).status_code == 200


@pytest.mark.parametrize("filename", ["../../etc/passwd", "Fahrräder.mp4", 'a"b.mp4', "a" * 1000])
def test_names_are_never_paths(start, open_store, folder, filename):
    gateway = start(files=open_store())
    file = gateway.openai().files.create(file=(filename, b"abc"), purpose="user_data")
    assert names(folder) == [file.id, f"{file.id}.json"]
    assert file.filename in (filename, filename[-255:], filename.replace('"', "%22"))
    assert gateway.openai().files.content(file.id).read() == b"abc"
    for path in ("..%2f..%2fetc%2fpasswd", "lock", f"{file.id}.json"):
        assert httpx.get(f"{gateway.url}/v1/files/{path}/content").status_code == 404


def test_content_that_looks_like_a_form(start, open_store):
    gateway = start(files=open_store())
    boundary = "0123456789abcdef"
    pieces = [b"\r\n", b"--", b"\r", boundary.encode(), boundary[:7].encode(), b"a", b"\r\n--0123", b"-"]
    content = b"".join(random.Random(0).choices(pieces, k=300_000))
    while (mark := f"\r\n--{boundary}".encode()) in content:
        content = content.replace(mark, b"")
    body = form(content, boundary) + f"\r\n--{boundary}--\r\n".encode()
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    file = httpx.post(f"{gateway.url}/v1/files", content=body, headers=headers, timeout=30).json()
    assert httpx.get(f"{gateway.url}/v1/files/{file['id']}/content").content == content


def test_the_list_has_pages(start, open_store):
    gateway = start(files=open_store())
    ids = [upload(gateway).json()["id"] for _ in range(5)]
    page = httpx.get(f"{gateway.url}/v1/files", params={"limit": 2, "order": "asc", "after": ids[0]}).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (ids[1:3], True)
    for params in ({"limit": "x"}, {"limit": 0}, {"after": "file-1"}):
        assert httpx.get(f"{gateway.url}/v1/files", params=params).status_code == 400


def test_nobody_else_on_the_machine_reads_files(start, open_store, folder):
    gateway = start(files=open_store())
    file_id = upload(gateway).json()["id"]
    assert (folder.stat().st_mode & 0o077, (folder / file_id).stat().st_mode & 0o077) == (0, 0)
    assert json.loads((folder / f"{file_id}.json").read_text())["owner"] == ""


def peak_bytes(process):
    """Return the most memory that the process ever had."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_a_large_upload_needs_little_memory_and_ends_with_sigkill(tmp_path, server, folder):
    options = ("--url", server.url, "--files-dir", str(folder))
    mebibytes, piece = 200, bytes(2**20)
    with serving(tmp_path, *options) as (process, url):
        file_id = httpx.post(f"{url}/v1/files", files={"file": b"abc"}, data={"purpose": "vision"}).json()["id"]
        before = peak_bytes(process)
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60) as connection:
            connection.sendall(head(2**30) + form(b""))
            for _ in range(mebibytes):
                connection.sendall(piece)
            (partial,) = {name for name in names(folder) if file_id not in name}
            wait_until(lambda: (folder / partial).stat().st_size > (mebibytes - 1) * 2**20)
            assert peak_bytes(process) - before < 10 * 2**20
            process.kill()
            process.wait(20)
    with serving(tmp_path, *options) as (_, url):
        assert names(folder) == [file_id, f"{file_id}.json"]
        assert httpx.get(f"{url}/v1/files/{file_id}/content").content == b"abc"


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    refused = run("serve", "--files-dir", str(tmp_path / "file"))
    assert refused.returncode == 2
    assert "--files-dir" in refused.stderr


def test_many_uploads_share_the_quota(start, open_store, folder):
    store = open_store(max_bytes=10**6)
    gateway = start(files=store)
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda _: upload(gateway, bytes(200_000)).status_code, range(24)))
    num_kept = statuses.count(200)
    assert set(statuses) == {200, 413}
    assert num_kept <= 3
    wait_until(lambda: len(names(folder)) == 2 * num_kept)
    assert store.num_bytes == num_kept * (200_000 + EXTRA)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_download_that_nobody_reads(start, open_store, leaves):
    gateway = start(files=open_store(max_file_bytes=10**8))
    file_id = upload(gateway, bytes(50_000_000)).json()["id"]
    gateway.stop()
    gateway = start(files=open_store(), upload_seconds=60 if leaves else 1)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(f"GET /v1/files/{file_id}/content HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert connection.recv(4) == b"HTTP"
        if leaves:
            connection.close()
        wait_until(lambda: gateway.metric("requests_in_flight") == 0)


def test_a_file_that_is_deleted_while_it_is_decoded(start, open_store, monkeypatch):
    """The process that decodes opens it by the descriptor of the gateway, so it may have no name any more."""
    store = open_store()
    gateway = start(files=store, client={"isolated": True})
    file_id = upload(gateway, BIKES.read_bytes()).json()["id"]
    open_file = store.open

    def open_and_delete(file):
        opened = open_file(file)
        store.path(file).unlink()
        return opened

    monkeypatch.setattr(store, "open", open_and_delete)
    assert gateway.post(ask(named(file_id), text_part("What?"))).status_code == 200
    monkeypatch.undo()
    part = {"start_seconds": 1, "end_seconds": 2}
    error = gateway.post(ask(named(file_id), text_part("What?"), mm_processor_kwargs=part)).json()["error"]
    assert error["code"] == "file_not_found"
    with httpx.Client() as client:
        assert client.get(f"{gateway.url}/v1/files/{file_id}/content").status_code == 404
