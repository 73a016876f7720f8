"""A gRPC channel to one address."""

from typing import Any

from .settings import Settings

_ROUND_ROBIN = '{"loadBalancingConfig": [{"round_robin": {}}]}'


def open_channel(library: Any, address: str, settings: Settings) -> Any:
    """Return a channel of `library`: `grpc`, or `grpc.aio` for the running event loop. It connects when it is used."""
    options = channel_options(settings)
    if settings.tls is None:
        return library.insecure_channel(address, options=options)
    return library.secure_channel(address, settings.tls.credentials(), options=options)


def channel_options(settings: Settings) -> list[tuple[str, Any]]:
    """Return gRPC's arguments for a channel; `grpc_types.h` documents them."""
    options: list[tuple[str, Any]] = [
        # gRPC's default limit is 4 MiB: three videos of the 7B model.
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", -1),
        # Balances over all addresses behind one name, such as a headless service of Kubernetes.
        ("grpc.service_config", _ROUND_ROBIN),
        # Also the limit of one attempt to connect. The default delays between attempts grow to two minutes.
        ("grpc.min_reconnect_backoff_ms", int(settings.connect_timeout_seconds * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5000),
        # `Retry` sends again. With gRPC's own retries a stream whose connection fails may never end, whatever its
        # deadline: it gets its status, but not the end of its messages (seen in gRPC 1.85.1).
        ("grpc.enable_retries", 0),
        # By default the clients of one process share connections, and one client's close affects the others.
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
