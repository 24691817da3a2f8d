"""The parts of a DID document that a login needs (atproto: DID Documents)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

from atproto_oauth_asgi.errors import InvalidDIDDocument
from atproto_oauth_asgi.identifiers import Did, Handle
from atproto_oauth_asgi.origins import is_domain_name, parse_origin

_PDS_TYPE = "AtprotoPersonalDataServer"


@dataclass(frozen=True, slots=True, kw_only=True)
class DidDocument:
    """Is what a DID document says; `claimed_handle` is only a claim until it resolves back."""

    did: Did
    claimed_handle: Handle | None
    pds: str


def read_did_document(
    did: Did,
    document: Mapping[str, object],
    *,
    allow_insecure: bool = False,
    plain_hosts: Collection[str] = (),
) -> DidDocument:
    """Read the claimed handle and the PDS out of a DID document.

    Args:
        did: The DID that was asked for.
        document: The JSON object that came back.
        allow_insecure: Whether an `http` PDS on loopback is welcome.
        plain_hosts: One-label host names that are welcome.

    Raises:
        InvalidDIDDocument: It is another DID's document, or names no usable PDS.
    """
    if document.get("id") != did:
        raise InvalidDIDDocument(
            f"The DID document served for {did} is another DID's; its operator must mend it.",
            identifier=did,
        )
    endpoint = _pds_endpoint(did, document.get("service"))
    pds = (
        parse_origin(endpoint, allow_insecure=allow_insecure, plain_hosts=plain_hosts)
        if endpoint is not None
        else None
    )
    if pds is None:
        raise InvalidDIDDocument(
            f"The DID document of {did} names no usable PDS; it needs a service #atproto_pds of "
            f"type {_PDS_TYPE} whose endpoint is a bare https origin.",
            identifier=did,
        )
    return DidDocument(
        did=did, claimed_handle=_claimed_handle(document.get("alsoKnownAs")), pds=pds
    )


def _pds_endpoint(did: Did, services: object) -> str | None:
    ids = ("#atproto_pds", f"{did}#atproto_pds")
    for service in _objects(services):
        if service.get("id") in ids and service.get("type") == _PDS_TYPE:
            endpoint = service.get("serviceEndpoint")
            return endpoint if isinstance(endpoint, str) else None
    return None


def _claimed_handle(names: object) -> Handle | None:
    if not isinstance(names, list):
        return None
    for name in cast("list[object]", names):
        if isinstance(name, str) and name.startswith("at://"):
            handle = name.removeprefix("at://")
            if is_domain_name(handle):
                return Handle(handle.lower())
    return None


def _objects(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list):
        return []
    entries = cast("list[object]", value)
    return [cast("dict[str, object]", entry) for entry in entries if isinstance(entry, dict)]
