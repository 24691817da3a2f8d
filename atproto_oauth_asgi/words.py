"""What another server says about an error, made fit for logs and messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: What an error code may look like where we repeat it (RFC 6749 §5.2; XRPC: Error Responses).
ERROR_CODE = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_LIMIT = 300
# Shorter texts are no secrets of ours, and may well stand in a sentence by chance.
_SHORTEST_SECRET = 16


def harmless(text: str, sent: Iterable[str]) -> str:
    """Return a server's words, short and printable, without the secrets that it was sent.

    Debug pages and some servers repeat a request in their answer. This is for such mishaps: a
    server that wants to give away what it was sent does not need our log for it.
    """
    # Cut twice: what is left of a secret that the first cut parted is behind the second.
    text = text[: _LIMIT * 100]
    for secret in sent:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "…")
    return "".join(character if character.isprintable() else " " for character in text[:_LIMIT])


def error_code(text: str | None, sent: Iterable[str]) -> str | None:
    """Return what looks like an error code, and not like something that the server was sent."""
    if text is None or not ERROR_CODE.fullmatch(text) or harmless(text, sent) != text:
        return None
    return text
