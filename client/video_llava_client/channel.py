"""One gRPC channel to one address: the options of both flavours, blocking and asyncio."""

from __future__ import annotations

from typing import Any

import grpc

from .settings import Settings

_ROUND_ROBIN = '{"loadBalancingConfig": [{"round_robin": {}}]}'


def open_channel(address: str, settings: Settings) -> Any:
    """Return a channel for threads; it connects when the first request is sent."""
    if settings.tls is None:
        return grpc.insecure_channel(address, options=channel_options(settings))
    return grpc.secure_channel(address, _credentials(settings), options=channel_options(settings))


def open_async_channel(address: str, settings: Settings) -> Any:
    """Return a channel for the running event loop."""
    if settings.tls is None:
        return grpc.aio.insecure_channel(address, options=channel_options(settings))
    return grpc.aio.secure_channel(address, _credentials(settings), options=channel_options(settings))


def channel_options(settings: Settings) -> list[tuple[str, Any]]:
    """Return gRPC's arguments for a channel; names and meanings are those of `grpc_types.h`."""
    options: list[tuple[str, Any]] = [
        # gRPC refuses messages over 4 MiB unless told otherwise: four videos.
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", -1),
        # All addresses behind a name take turns: a headless service of Kubernetes is balanced by its clients.
        ("grpc.service_config", _ROUND_ROBIN),
        # Also how long one attempt to connect may take. The waits between attempts would grow to two minutes.
        ("grpc.min_reconnect_backoff_ms", int(settings.connect_timeout_seconds * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5000),
        # Clients in one process would otherwise share connections, and what one closes the other waits for.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if settings.keepalive_seconds is not None:
        options += [
            ("grpc.keepalive_time_ms", int(settings.keepalive_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", 20_000),
        ]
    if settings.tls is not None and settings.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", settings.tls.server_name))
    return options


def _credentials(settings: Settings) -> grpc.ChannelCredentials:
    tls = settings.tls
    assert tls is not None
    return grpc.ssl_channel_credentials(
        root_certificates=tls.read("root_certificates"),
        private_key=tls.read("key"),
        certificate_chain=tls.read("certificate"),
    )
