"""Who an account is, and where it lives (atproto OAuth: Identity Authentication)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from atproto_oauth_asgi.did_document import DidDocument, read_did_document
from atproto_oauth_asgi.errors import (
    AddressRefused,
    BadAnswer,
    DIDNotFound,
    FetchError,
    HandleNotFound,
    HandleNotVerified,
    IdentityUnavailable,
    InvalidDIDDocument,
    InvalidIdentifier,
    ResolutionError,
    UnsupportedDID,
)
from atproto_oauth_asgi.handles import HandleResolver, ask_network, ask_service
from atproto_oauth_asgi.identifiers import (
    Did,
    DidInput,
    Handle,
    HandleInput,
    ServerInput,
    is_reserved,
    parse_did,
    parse_handle,
    parse_identifier,
)
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.ttl_cache import TTLCache

__all__ = [
    "Did",
    "DidInput",
    "Handle",
    "HandleInput",
    "HandleResolver",
    "Identity",
    "IdentityResolver",
    "ServerInput",
    "parse_identifier",
]

#: Seconds; the profile allows less than ten minutes where an answer decides who somebody is.
_TTL = 300.0
_KEPT = 2000
_DNS_DEADLINE = 3.0
_DOCUMENT_TYPES = ("application/did+ld+json", "application/json")
_GONE = (404, 410)
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Is an account as its DID document describes it.

    `handle` is set only when the handle points back to the DID. `pds` is an origin.
    """

    did: Did
    handle: Handle | None
    pds: str


class IdentityResolver:
    """Resolves handles and DIDs; safe to share between event loops and threads.

    Args:
        net_for: Returns the `Net` of the running event loop.
        handle_resolver: Is asked instead of DNS, HTTPS and the policy's `handle_resolver_url`.
        clock: A monotonic clock in seconds, for the age of remembered answers.
        dns_deadline: Seconds after which DNS counts as silent.
    """

    def __init__(
        self,
        net_for: Callable[[], Net],
        *,
        handle_resolver: HandleResolver | None = None,
        clock: Callable[[], float] = time.monotonic,
        dns_deadline: float = _DNS_DEADLINE,
    ) -> None:
        self._net_for = net_for
        self._handle_resolver = handle_resolver
        self._dns_deadline = dns_deadline
        self._dids: TTLCache[Handle, Did] = TTLCache(ttl=_TTL, size=_KEPT, clock=clock)
        self._documents: TTLCache[Did, DidDocument] = TTLCache(ttl=_TTL, size=_KEPT, clock=clock)

    async def resolve(self, identifier: str, *, fresh: bool = False) -> Identity:
        """Find the account behind a handle or a DID.

        A handle must be claimed by the account it points to. An account found by its DID is
        returned even when its handle cannot be confirmed; `handle` is None then.

        Args:
            identifier: A handle or a DID as `parse_identifier` returns it.
            fresh: Whether to ask everybody again instead of using answers up to 5 minutes old.

        Raises:
            InvalidIdentifier: It is neither a handle nor a DID, or may not be looked up.
            HandleNotFound: Nobody knows the handle.
            HandleNotVerified: The account does not claim the handle.
            UnsupportedDID: The DID is of a kind that AT Protocol accounts do not have.
            DIDNotFound: The DID does not exist, or not any more.
            InvalidDIDDocument: The DID document is not the DID's or names no usable PDS.
            IdentityUnavailable: DNS, the PLC directory or a host failed in passing.
            AddressRefused: A host lies where the guard does not let this process go.
        """
        if identifier.startswith("did:"):
            document = await self._document(self._parse_did(identifier), fresh=fresh)
            handle = await self._confirmed_handle(document, fresh=fresh)
            return Identity(did=document.did, handle=handle, pds=document.pds)
        policy = self._net_for().policy
        handle = parse_handle(identifier, allow_test=policy.allow_insecure_loopback)
        return await self._by_handle(handle, fresh=fresh)

    async def locate(self, did: str, *, fresh: bool = False) -> str:
        """Return the origin of a DID's PDS and leave its handle alone.

        This is the first half of the check that a server may speak for an account; it raises what
        `resolve` raises for a DID.
        """
        return (await self._document(self._parse_did(did), fresh=fresh)).pds

    async def handle_of(self, did: str, *, shown: str | None) -> Handle | None:
        """Return the handle that a DID has by now, or None: it may have been given to another.

        Args:
            did: The account.
            shown: The handle that it had last.

        Raises:
            ResolutionError: nobody can say now, or the DID is in no use any more.
            FetchError: likewise.
        """
        document = await self._document(self._parse_did(did), fresh=False)
        try:
            return await self._handle_of(document)
        except (ResolutionError, FetchError):
            if shown == document.claimed_handle:
                raise
            # Whatever becomes of the new one, the old one is not claimed any more.
            return None

    async def _by_handle(self, handle: Handle, *, fresh: bool) -> Identity:
        remembered = not fresh and self._dids.get(handle) is not None
        did = await self._did_of(handle, fresh=fresh, claimed=False)
        remembered = remembered or (not fresh and self._documents.get(did) is not None)
        document = await self._document(did, fresh=fresh)
        if document.claimed_handle == handle:
            return Identity(did=did, handle=handle, pds=document.pds)
        if remembered:
            # A person who has just mended a record must not be told for minutes that it is wrong.
            return await self._by_handle(handle, fresh=True)
        raise HandleNotVerified(
            f"The handle {handle} points to {did}, whose DID document names "
            f"{document.claimed_handle or 'no handle'} first; set the handle at the account's "
            "server, or sign in with the DID.",
            identifier=handle,
        )

    async def _confirmed_handle(self, document: DidDocument, *, fresh: bool) -> Handle | None:
        try:
            return await self._handle_of(document, fresh=fresh)
        except (ResolutionError, FetchError):
            return None

    async def _handle_of(self, document: DidDocument, *, fresh: bool = False) -> Handle | None:
        handle = document.claimed_handle
        allow_test = self._net_for().policy.allow_insecure_loopback
        if handle is None or is_reserved(handle, allow_test=allow_test):
            return None
        try:
            did = await self._did_of(handle, fresh=fresh, claimed=True)
        except (HandleNotFound, UnsupportedDID):
            return None
        return handle if did == document.did else None

    async def _did_of(self, handle: Handle, *, fresh: bool, claimed: bool) -> Did:
        known = None if fresh else self._dids.get(handle)
        if known is not None:
            return known
        self._dids.drop(handle)
        asked = self._dids.now()
        found = await self._ask(handle, claimed=claimed)
        try:
            did = self._parse_did(found or "")
        except InvalidIdentifier as exc:
            raise HandleNotFound(
                f"No DID was found for {handle}; check the spelling, the TXT record at "
                f"_atproto.{handle} or https://{handle}/.well-known/atproto-did.",
                identifier=handle,
            ) from exc
        self._dids.put(handle, did, asked=asked)
        return did

    async def _ask(self, handle: Handle, *, claimed: bool) -> str | None:
        if self._handle_resolver is not None:
            return await self._handle_resolver.resolve_handle(handle)
        net = self._net_for()
        if net.policy.handle_resolver_url is not None:
            return await ask_service(net, net.policy.handle_resolver_url, handle)
        return await ask_network(net, handle, dns_deadline=self._dns_deadline, claimed=claimed)

    async def _document(self, did: Did, *, fresh: bool) -> DidDocument:
        known = None if fresh else self._documents.get(did)
        if known is not None:
            return known
        self._documents.drop(did)
        asked = self._documents.now()
        net = self._net_for()
        try:
            answer = await net.get_json(
                _document_url(did, plc=net.policy.plc_url), content_types=_DOCUMENT_TYPES
            )
        except AddressRefused:
            raise
        except FetchError as exc:
            raise _document_error(did, exc) from exc
        document = read_did_document(
            did,
            answer,
            allow_insecure=net.policy.allow_insecure_loopback,
            plain_hosts=net.policy.allow_private_hosts,
        )
        self._documents.put(did, document, asked=asked)
        return document

    def _parse_did(self, text: str) -> Did:
        insecure = self._net_for().policy.allow_insecure_loopback
        return parse_did(text, allow_test=insecure, allow_insecure=insecure)


def _document_url(did: Did, *, plc: str) -> str:
    if did.startswith("did:plc:"):
        return f"{plc.rstrip('/')}/{did}"
    host = did.removeprefix("did:web:")
    # A did:web of localhost has passed `parse_did`, so the policy allows it.
    scheme = "http" if host.partition("%3A")[0] == "localhost" else "https"
    return f"{scheme}://{host.replace('%3A', ':')}/.well-known/did.json"


def _document_error(did: Did, exc: FetchError) -> ResolutionError:
    status = exc.http_status if isinstance(exc, BadAnswer) else None
    if status in _GONE:
        return DIDNotFound(
            f"{did} does not exist, or was deleted; check the spelling.", identifier=did
        )
    if status == _OK:
        return InvalidDIDDocument(
            f"What is served for {did} is not a DID document; its operator must mend it.",
            identifier=did,
        )
    return IdentityUnavailable(
        f"The DID document of {did} could not be fetched right now; try again.", identifier=did
    )
