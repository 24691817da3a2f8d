"""What a form or a script sends to our routes."""

from __future__ import annotations

import json
from typing import cast
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request

from atproto_oauth_asgi.errors import LoginError

_BODY_LIMIT = 65_536


async def read_fields(request: Request) -> dict[str, str]:
    """Read a form or a JSON object of strings, up to 64 KiB; of a repeated field the first value.

    Raises:
        LoginError: it is neither, or too large, or did not come to its end.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _BODY_LIMIT:
                raise LoginError("The request body is larger than 64 KiB.")
    except ClientDisconnect as exc:
        raise LoginError("The browser went away in the middle of its request.") from exc
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            document: object = json.loads(body or b"{}")
            if not isinstance(document, dict):
                raise LoginError("Send a JSON object.")
            # A lone surrogate would only fail later, where it is stored or shown.
            json.dumps(document, ensure_ascii=False).encode()
            fields = cast("dict[str, object]", document)
            return {
                name: "1" if value is True else str(value)
                for name, value in fields.items()
                if isinstance(value, str | int) and value is not False
            }
        return {name: values[0] for name, values in parse_qs(body.decode()).items()}
    except (ValueError, RecursionError) as exc:
        raise LoginError("The request body is neither a form nor a JSON object.") from exc
