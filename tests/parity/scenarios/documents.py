"""What the servers publish."""

from __future__ import annotations

from tests.parity.scenario import Rows, scenario
from tests.parity.world import World


@scenario(
    "protected resource metadata",
    "authorization server metadata",
    "authorization server metadata: caching",
    "authorization server keys",
    "metadata: POST",
)
async def metadata_documents(world: World, row: Rows) -> None:
    resource = f"{world.pds}/.well-known/oauth-protected-resource"
    row.answer("protected resource metadata", await world.http.get(resource))
    server = await world.http.get(f"{world.issuer}/.well-known/oauth-authorization-server")
    row.answer("authorization server metadata", server)
    row.effect(
        "authorization server metadata: caching",
        cache_control=server.headers["cache-control"],
        media_type=server.headers["content-type"].partition(";")[0],
    )
    row.answer("authorization server keys", await world.http.get(f"{world.issuer}/oauth/jwks"))
    row.effect("metadata: POST", status=(await world.http.post(resource)).status_code)


@scenario(
    "handle by well-known",
    "handle by well-known: nobody",
    "resolveHandle",
    "resolveHandle: nobody",
    "DID document",
    "DID document: nobody",
    "DID document: ill-formed",
)
async def identities(world: World, row: Rows) -> None:
    alice = await world.account("alice.test")
    for name, host in (
        ("handle by well-known", "alice.test"),
        ("handle by well-known: nobody", "nobody.test"),
    ):
        answer = await world.handle_document(host)
        row.effect(name, status=answer.status_code, text=answer.text.strip())
    url = f"{world.pds}/xrpc/com.atproto.identity.resolveHandle"
    row.answer("resolveHandle", await world.http.get(url, params={"handle": "alice.test"}))
    nobody = await world.http.get(url, params={"handle": "nobody.test"})
    row.answer("resolveHandle: nobody", nobody)
    answer = await world.http.get(f"{world.plc}/{alice.did}")
    document = answer.json()
    row.effect(
        "DID document",
        status=answer.status_code,
        media_type=answer.headers["content-type"].partition(";")[0],
        members=sorted(document),
        id=document["id"],
        known_as=document["alsoKnownAs"],
        service=document["service"],
        context=document["@context"],
        method={**document["verificationMethod"][0], "publicKeyMultibase": ""},
    )
    unknown = await world.http.get(f"{world.plc}/did:plc:{'a' * 24}")
    row.effect("DID document: nobody", status=unknown.status_code, body=unknown.json())
    bad = await world.http.get(f"{world.plc}/did:plc:x")
    row.effect("DID document: ill-formed", status=bad.status_code)
