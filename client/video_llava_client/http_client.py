"""GET requests for one file: one deadline over all of them, and IP addresses judged before they are connected to."""

from __future__ import annotations

import base64
import socket
import string
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2

from .errors import MediaNotFound, MediaRefused, UnreadableMedia, VideoLlavaError
from .limits import Budget

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_HOST_CHARACTERS = frozenset(string.ascii_lowercase + string.digits + "-._")


class HttpClient:
    """Asks for one file, with all its ranges and redirects.

    Connections are kept. Proxies are those of the environment (`http_proxy`, `https_proxy`, `no_proxy`).
    """

    def __init__(self, url: str, budget: Budget) -> None:
        self._budget = budget
        self._policy = budget.limits.sources
        self._pool: httpcore2.ConnectionPool | None = None
        self._proxy = ""
        self._num_sent = 0
        with self.errors():
            self._go_to(_Address.parse(url))

    def get(self, **headers: str) -> Response:
        """Send a request and follow redirects; the answer must be closed.

        Raises:
            MediaNotFound: There is no such file.
            MediaError: The server refuses or cannot be reached, or the policy forbids it.
        """
        with self.errors():
            for _ in range(self._policy.max_redirects + 1):
                response = self._send(headers)
                location = response.headers.get("location")
                if response.status not in _REDIRECTS or not location:
                    return self._checked(response)
                response.close()
                # As sent, which may not be ASCII.
                self._follow(quote(location, safe=string.punctuation, encoding="latin-1"))
        raise MediaRefused(
            f"{self._budget.source}: has more than {self._policy.max_redirects} redirects: give the address where "
            "the last one leads, or raise SourcePolicy.max_redirects",
            source=self._budget.source,
        )

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of the connection inside the block into this package's."""
        try:
            yield
        except VideoLlavaError:
            raise
        except httpcore2.TimeoutException as exc:
            raise self._budget.timed_out() from exc
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError, OSError, ValueError) as exc:
            proxy = f", through the proxy {self._proxy}" if self._proxy else ""
            raise self.unreadable(f"{exc}{proxy}") from exc

    def unreadable(self, reason: str) -> UnreadableMedia:
        """Return the error that says why the file cannot be fetched."""
        message = f"{self._budget.source}: cannot be fetched ({reason}): check the address and the network"
        return UnreadableMedia(message, source=self._budget.source)

    def _send(self, headers: dict[str, str]) -> Response:
        address, pool = self._address, self._pool
        assert pool is not None
        sent = {"Host": address.netloc, "User-Agent": "video-llava", "Accept": "*/*", "Accept-Encoding": "identity"}
        sent |= headers
        if address.authorization:
            sent["Authorization"] = address.authorization
        port = None if address.port == _PORTS[address.scheme] else address.port
        url = httpcore2.URL(scheme=address.scheme, host=address.host, port=port, target=address.path)
        extensions = {"sni_hostname": address.host.strip("[]")}
        encoded = [(name.encode(), value.encode()) for name, value in sent.items()]
        request = partial(httpcore2.Request, "GET", url, headers=encoded, extensions=extensions)
        try:
            response = pool.handle_request(request())
        except (httpcore2.NetworkError, httpcore2.RemoteProtocolError):
            if not self._num_sent:
                raise
            # The server may close a kept connection at any time.
            response = pool.handle_request(request())
        self._num_sent += 1
        return Response(self, response)

    def _checked(self, response: Response) -> Response:
        status = response.status
        if status in (200, 206, 416):
            return response
        response.close()
        source = self._budget.source
        if status in (404, 410):
            message = f"{source}: the server has no such file (HTTP {status}): check the address"
            raise MediaNotFound(message, source=source)
        phrase = f" {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else ""
        raise self.unreadable(f"HTTP {status}{phrase}")

    def _follow(self, location: str) -> None:
        old, new = self._address, _Address.parse(urljoin(self._address.url, location))
        source = self._budget.source
        if (old.scheme, new.scheme) == ("https", "http"):
            message = f"{source}: redirects from https to http, which is not followed: give another address"
            raise MediaRefused(message, source=source)
        # Credentials are for the host that they were given for.
        if new.origin == old.origin and not new.authorization:
            new = replace(new, authorization=old.authorization)
        self._go_to(new)

    def _go_to(self, address: _Address) -> None:
        """Make `address` the one that is asked, if it is allowed."""
        source, policy = self._budget.source, self._policy
        policy.check_scheme(address.scheme, source=source)
        policy.check_host(address.host, source=source)
        if self._pool is None or address.origin != self._address.origin:
            self.close()
            self._pool, self._num_sent = self._new_pool(address), 0
        self._address = address

    def _new_pool(self, address: _Address) -> httpcore2.ConnectionPool:
        proxy_url = getproxies().get(address.scheme)
        if not proxy_url or proxy_bypass(address.netloc):
            self._proxy = ""
            return httpcore2.ConnectionPool(network_backend=_Network(self._budget))
        # Often written without a scheme. Whatever it is, proxies are spoken to in plain HTTP.
        proxy = _Address.parse("http://" + proxy_url.rpartition("://")[2])
        self._proxy = proxy.netloc
        if not self._policy.allow_private_networks:
            found = self._budget.wait_for(partial(_look_up, address.host, address.port))
            if not all(map(self._policy.allows_ip, found)):
                raise self._policy.not_public(source=self._budget.source)
        headers = [(b"Proxy-Authorization", proxy.authorization.encode())] if proxy.authorization else []
        url = httpcore2.URL(scheme="http", host=proxy.host, port=proxy.port, target="/")
        network = _Network(self._budget, is_proxy=True)
        return httpcore2.ConnectionPool(proxy=httpcore2.Proxy(url, headers=headers), network_backend=network)


class Response:
    """An answer, with headers by their names in lower case."""

    def __init__(self, client: HttpClient, response: httpcore2.Response) -> None:
        self._client = client
        self._response = response
        self.status: int = response.status
        self.headers: dict[str, str] = {
            name.decode("ascii").lower(): value.decode("latin-1") for name, value in response.headers
        }

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes."""
        with self._client.errors():
            yield from self._response.iter_stream()

    def close(self) -> None:
        """Keep the connection if the body was read to its end."""
        self._response.close()


@dataclass(frozen=True)
class _Address:
    """What a URL names.

    Attributes:
        host: In lower case; IPv6 in brackets.
        path: With the query, in ASCII.
        authorization: The header for the user and password of the URL.
    """

    scheme: str
    host: str
    port: int
    path: str
    authorization: str

    @classmethod
    def parse(cls, url: str) -> _Address:
        """Read a URL by `urllib.parse`; ValueError if it names no file on an HTTP server."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS:
            raise ValueError(f"{parts.scheme[:20]}: is no address of a file on an HTTP server")
        host = parts.hostname or ""
        if ":" in host:
            host = f"[{IPv6Address(host)}]"
        else:
            host = host.encode("idna").decode().lower()
            # Other parsers end the host at a backslash.
            if not host or not _HOST_CHARACTERS.issuperset(host) or "\\" in parts.netloc:
                raise ValueError("the address has no valid host")
        query = f"?{parts.query}" if parts.query else ""
        path = quote(f"{parts.path or '/'}{query}", safe=string.punctuation)
        authorization = ""
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {base64.b64encode(user.encode()).decode()}"
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        return cls(parts.scheme, host, port, path, authorization)

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.path}"


class _Network(httpcore2.NetworkBackend):
    """Connects within the budget, and only to IP addresses that the policy allows."""

    def __init__(self, budget: Budget, *, is_proxy: bool = False) -> None:
        self._budget = budget
        self._is_proxy = is_proxy

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 (the budget has the time)
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        # Neither a look-up nor a connection in the making can be interrupted.
        return self._budget.wait_for(partial(self._connect, host, port, socket_options), discard=_Stream.close)

    def _connect(self, host: str, port: int, socket_options: Iterable[Any] | None) -> _Stream:
        budget, policy = self._budget, self._budget.limits.sources
        allowed = [address for address in _look_up(host, port) if self._is_proxy or policy.allows_ip(address)]
        if not allowed:
            raise policy.not_public(source=budget.source)
        error: Exception | None = None
        for index, address in enumerate(allowed):
            budget.check_time()
            seconds = budget.remaining_seconds
            # A silent one leaves time for the others.
            share = None if seconds is None else seconds / (len(allowed) - index)
            try:
                stream = httpcore2.SyncBackend().connect_tcp(address, port, share, None, socket_options)
                return _Stream(stream, budget)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                error = exc
        assert error is not None
        raise error


class _Stream(httpcore2.NetworkStream):
    """Each operation has what remains of the budget, so a server that sends a byte now and then gains no time."""

    def __init__(self, stream: httpcore2.NetworkStream, budget: Budget) -> None:
        self._stream = stream
        self._budget = budget

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        while True:
            self._budget.check_time()
            try:
                return self._stream.read(max_bytes, self._budget.wait_seconds)
            except httpcore2.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._budget.check_time()
        self._stream.write(buffer, self._budget.remaining_seconds)

    def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        seconds = self._budget.remaining_seconds
        start = partial(self._stream.start_tls, ssl_context, server_hostname, seconds)
        return _Stream(self._budget.wait_for(start, discard=httpcore2.NetworkStream.close), self._budget)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _look_up(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))
