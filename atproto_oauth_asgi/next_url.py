"""Where a browser may be sent after login or logout: never to a stranger (RFC 9700 §4.11)."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from atproto_oauth_asgi.settings import Settings

# Control characters and `\\` are read differently by browsers than by `urlsplit`.
_PLAIN = re.compile(r"[!-\[\]-~]{1,2000}")


def safe_next(target: str | None, settings: Settings) -> str:
    """Return an absolute URL: the target if it is ours or trusted, else BASE_URL.

    A target is a path under BASE_URL, or a URL whose origin is BASE_URL's (and whose path lies
    under it) or one of TRUSTED_ORIGINS.
    """
    home = settings.base_url
    if target is None or not _PLAIN.fullmatch(target):
        return home
    if target.startswith("/"):
        if target.startswith("//"):
            return home
        target = settings.origin + target
    try:
        parts = urlsplit(target)
        origin = f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        return home
    if origin in settings.trusted_origins:
        return target
    if origin != settings.origin or not _under(parts.path, settings.base_path):
        return home
    return target


def _under(path: str, base: str) -> bool:
    # `/app/../x` would leave the base in the browser's reading.
    if re.search(r"(^|/)(\.|%2e){1,2}(/|$)", path, re.IGNORECASE):
        return False
    return not base or path == base or path.startswith(base + "/")
