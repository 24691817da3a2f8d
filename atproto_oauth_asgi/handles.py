"""From a handle to the DID it points to (atproto: Handle Resolution)."""

from __future__ import annotations

import asyncio
from typing import Protocol

from atproto_oauth_asgi.errors import (
    AddressRefused,
    ATProtoOAuthError,
    BadAnswer,
    FetchError,
    HandleNotFound,
    IdentityUnavailable,
    InvalidIdentifier,
    Unreachable,
    UnsupportedDID,
)
from atproto_oauth_asgi.identifiers import Handle, parse_did
from atproto_oauth_asgi.net import Net

_DNS_PREFIX = "_atproto."
_MAX_DNS_NAME = 253
_MANY_REQUESTS = 429
_SERVER_ERROR = 500


class HandleResolver(Protocol):
    """Finds the DID of a handle in the place of DNS and HTTPS, for instance in a directory."""

    async def resolve_handle(self, handle: Handle, /) -> str | None:
        """Return the DID that the handle points to, or None when nobody knows the handle.

        The answer is checked against the DID document like any other. Raise `IdentityUnavailable`
        for a failure that will pass.
        """
        ...


async def ask_service(net: Net, service: str, handle: Handle) -> str | None:
    """Ask an XRPC service (`com.atproto.identity.resolveHandle`) for the DID of a handle.

    Raises:
        AddressRefused: The guard does not let us ask the service.
        IdentityUnavailable: The service did not answer, or not as it must.
    """
    url = f"{service.rstrip('/')}/xrpc/com.atproto.identity.resolveHandle?handle={handle}"
    try:
        did = (await net.get_json(url)).get("did")
    except AddressRefused:
        raise
    except BadAnswer as exc:
        if exc.http_status in {400, 404}:
            return None
        raise _unavailable(handle) from exc
    except FetchError as exc:
        raise _unavailable(handle) from exc
    return did if isinstance(did, str) else None


async def ask_network(
    net: Net, handle: Handle, *, dns_deadline: float, claimed: bool
) -> str | None:
    """Ask DNS and the handle's own web server at once; where both answer, DNS is right.

    Args:
        net: The way out.
        handle: A handle whose top-level domain may be looked up.
        dns_deadline: Seconds after which DNS counts as silent.
        claimed: Whether an account says that the handle is its own, so it is no typing error.

    Raises:
        AddressRefused: The handle's web server lies where the guard does not let us go.
        HandleNotFound: DNS names several DIDs, so it names none.
        IdentityUnavailable: One way failed in passing and the other knows nothing.
    """
    async with asyncio.TaskGroup() as ways:
        asking_https = ways.create_task(_over_https(net, handle))
        dns = await _over_dns(net, handle, deadline=dns_deadline)
        if isinstance(dns, (str, HandleNotFound)):
            asking_https.cancel()
    if isinstance(dns, str):
        return dns
    if isinstance(dns, HandleNotFound):
        raise dns
    https = asking_https.result()
    if isinstance(https, str):
        return https
    if dns is not None:
        raise _unavailable(handle) from dns
    if isinstance(https, AddressRefused):
        raise https
    if isinstance(https, BadAnswer) and _passes(https):
        raise _unavailable(handle) from https
    if claimed and isinstance(https, Unreachable) and not https.no_such_name:
        raise _unavailable(handle) from https
    # What was typed by mistake looks like a web server that is down; DNS has answered, so the
    # mistake is likelier.
    return None


async def _over_dns(
    net: Net, handle: Handle, *, deadline: float
) -> str | HandleNotFound | FetchError | None:
    name = _DNS_PREFIX + handle
    if len(name) > _MAX_DNS_NAME:
        return None
    if handle.endswith(".test") and net.policy.resolve_txt is None:
        # No public name server knows `.test` (RFC 6761 §6.2), and a demo has to work unplugged.
        return None
    try:
        records = await net.txt(name, deadline=deadline)
    except FetchError as exc:
        return exc
    named = {record.removeprefix(b"did=") for record in records if record.startswith(b"did=")}
    if len(named) > 1:
        return HandleNotFound(
            f"DNS names {len(named)} different DIDs for {handle}; leave one TXT record at {name}.",
            identifier=handle,
        )
    return _plausible(named.pop().decode("utf-8", "replace")) if named else None


async def _over_https(net: Net, handle: Handle) -> str | ATProtoOAuthError | None:
    try:
        text = await net.get_text(f"https://{handle}/.well-known/atproto-did")
    except FetchError as exc:
        return exc
    return _plausible(text.strip().partition("\n")[0].rstrip())


def _plausible(text: str) -> str | None:
    """Return a DID of any method, or None for something else, such as a page of HTML."""
    try:
        return parse_did(text)
    except UnsupportedDID:
        return text
    except InvalidIdentifier:
        return None


def _passes(answer: BadAnswer) -> bool:
    status = answer.http_status
    return status is not None and (status == _MANY_REQUESTS or status >= _SERVER_ERROR)


def _unavailable(handle: Handle) -> IdentityUnavailable:
    return IdentityUnavailable(
        f"The handle {handle} could not be looked up right now; try again, or sign in with the "
        "DID or the address of the server.",
        identifier=handle,
    )
