"""Texts that only this server can make: tickets, and references to features. Clients can see them."""

import hashlib
import hmac

_MAC_BYTES = 16


def seal(key: bytes, purpose: str, body: bytes) -> str:
    """Return `body` as text. `key` is the runtime folder's; what is sealed for one purpose is good for no other."""
    return (body + _mac(key, purpose, body)).hex()


def unseal(key: bytes, purpose: str, text: str) -> bytes | None:
    """Return what was sealed; None for a text that was not made here."""
    try:
        content = bytes.fromhex(text)
    except ValueError:
        return None
    body, mac = content[:-_MAC_BYTES], content[-_MAC_BYTES:]
    return body if hmac.compare_digest(_mac(key, purpose, body), mac) else None


def _mac(key: bytes, purpose: str, body: bytes) -> bytes:
    return hashlib.blake2b(body, key=key, digest_size=_MAC_BYTES, person=purpose.encode()).digest()
