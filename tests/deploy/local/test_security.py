"""Triton's border: who is let in, and to what."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Authority
from support.export import FREE_PORTS
from tritonclient.utils import InferenceServerException
from video_llava_client import Retry, ServerError, Tls, Unavailable, VideoLlava
from video_llava_serve import LocalServer

grpcclient: Any = import_module("tritonclient.grpc")

KEY = "the-key-of-the-operator"
HEADER = "triton-grpc-protocol-video-llava-admin"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return `pem(name)`: certificates of our authority and of a stranger's."""
    folder = tmp_path_factory.mktemp("certificates")
    for name, authority in (("our", Authority("ours")), ("strange", Authority("a stranger's"))):
        contents = {"ca.pem": authority.certificate}
        for role in ("127.0.0.1", "client"):
            signed = authority.sign(role)
            part = "server" if role == "127.0.0.1" else role
            contents |= {f"{part}.pem": signed.certificate, f"{part}.key": signed.key}
        for file, content in contents.items():
            (folder / f"{name}-{file}").write_bytes(content)
    return folder.joinpath


@pytest.fixture(scope="module")
def secured(small_repository: Path, pem: Callable[[str], Path]) -> Iterator[LocalServer]:
    """A server with mutual TLS whose key we have."""
    with LocalServer(
        repository=small_repository,
        tls_certificate=pem("our-server.pem"),
        tls_key=pem("our-server.key"),
        tls_client_ca=pem("our-ca.pem"),
        admin_key=KEY,
        **FREE_PORTS,
    ) as running:
        yield running
    assert running.stopped_cleanly


@pytest.fixture(scope="module")
def triton(secured: LocalServer, pem: Callable[[str], Path]) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(
        secured.grpc_url,
        ssl=True,
        root_certificates=str(pem("our-ca.pem")),
        private_key=str(pem("our-client.key")),
        certificate_chain=str(pem("our-client.pem")),
    ) as client:
        yield client


def ask(server: LocalServer, tls: Tls | None) -> None:
    """Ask the repository's one model, which has other inputs and says so to whoever is let in."""
    with VideoLlava(server.grpc_url, model="batching", tls=tls, retry=Retry(num_attempts=1)) as client:
        client.ask("What?")


def test_a_client_with_the_right_certificates_reaches_the_model(secured: LocalServer, pem: Any) -> None:
    tls = Tls(root_certificates=pem("our-ca.pem"), certificate=pem("our-client.pem"), key=pem("our-client.key"))
    with pytest.raises(ServerError, match=r"batching"):
        ask(secured, tls)


@pytest.mark.parametrize(
    ("authority", "own"),
    [("our", None), ("our", "strange"), ("strange", "our"), (None, None)],
    ids=["no certificate", "a stranger's certificate", "a server not trusted", "no TLS"],
)
def test_others_do_not(secured: LocalServer, pem: Any, authority: str | None, own: str | None) -> None:
    tls = None
    if authority is not None:
        mine = {} if own is None else {"certificate": pem(f"{own}-client.pem"), "key": pem(f"{own}-client.key")}
        tls = Tls(root_certificates=pem(f"{authority}-ca.pem"), **mine)
    with pytest.raises(Unavailable, match="cannot reach"):
        ask(secured, tls)


CLOSED: dict[str, Callable[..., Any]] = {
    "the repository's index": lambda client, **headers: client.get_model_repository_index(**headers),
    "loading a model": lambda client, **headers: client.load_model("batching", **headers),
    "unloading a model": lambda client, **headers: client.unload_model("batching", **headers),
    "shared memory": lambda client, **headers: client.register_system_shared_memory("a", "/a", 8, **headers),
    "trace settings": lambda client, **headers: client.update_trace_settings(settings={"trace_rate": "1"}, **headers),
    "log settings": lambda client, **headers: client.update_log_settings({"log_verbose_level": 1}, **headers),
}


@pytest.mark.parametrize("call", CLOSED.values(), ids=CLOSED.keys())
@pytest.mark.parametrize("headers", [{}, {HEADER: "a wrong key"}], ids=["no key", "a wrong key"])
def test_what_clients_have_no_use_for_is_closed_to_them(triton: Any, call: Any, headers: dict[str, str]) -> None:
    with pytest.raises(InferenceServerException, match="This protocol is restricted, expecting header"):
        call(triton, headers=headers)


def test_the_key_opens_it_but_models_are_not_changed_under_a_running_server(triton: Any) -> None:
    index = CLOSED["the repository's index"](triton, headers={HEADER: KEY})
    assert [model.name for model in index.models] == ["batching"]
    for change in ("loading a model", "unloading a model"):
        with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed"):
            CLOSED[change](triton, headers={HEADER: KEY})


def test_the_key_is_not_in_the_log(secured: LocalServer) -> None:
    assert KEY not in secured.log_path.read_text(encoding="utf-8")


def get(url: str, path: str, method: str = "GET", **headers: str) -> int:
    with closing(http.client.HTTPConnection(url, timeout=10)) as connection:
        connection.request(method, path, headers=headers)
        return connection.getresponse().status


def test_http_which_is_not_encrypted_answers_health_alone(secured: LocalServer) -> None:
    assert get(secured.http_url, "/v2/health/ready") == 200
    paths = {"/v2": "GET", "/v2/models/batching": "GET", "/v2/models/batching/config": "GET"}
    paths |= {"/v2/models/batching/infer": "POST", "/v2/repository/index": "POST", "/v2/models/stats": "GET"}
    for path, method in paths.items():
        assert get(secured.http_url, path, method) == 403, path
    assert get(secured.http_url, "/v2/models/batching", **{"video-llava-admin": KEY}) == 200


def test_metrics_are_on_their_own_port_alone(secured: LocalServer) -> None:
    metrics = secured.metrics_url.removeprefix("http://").removesuffix("/metrics")
    assert get(metrics, "/metrics") == 200
    assert get(secured.http_url, "/metrics") != 200


def test_tls_without_certificates_of_clients(small_repository: Path, pem: Any) -> None:
    certificate, key = pem("our-server.pem"), pem("our-server.key")
    options: dict[str, Any] = {"tls_certificate": certificate, "tls_key": key, **FREE_PORTS}
    with LocalServer(repository=small_repository, **options) as server:
        with pytest.raises(ServerError, match=r"batching"):
            ask(server, Tls(root_certificates=pem("our-ca.pem")))
        for tls in (Tls(root_certificates=pem("strange-ca.pem")), None):
            with pytest.raises(Unavailable, match="cannot reach"):
                ask(server, tls)
