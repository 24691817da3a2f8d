"""What a granted scope lets a client do at the PDS, and what is granted at all."""

from __future__ import annotations

import httpx

from tests.network.walker import JSON
from tests.parity.client import POST, Client, Grant
from tests.parity.scenario import Rows, scenario
from tests.parity.world import World

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 50


async def _grant(world: World, scope: str) -> Grant:
    return await Client(world, await world.account("alice.test"), scope=scope).grant()


async def _upload(grant: Grant, mime: str, data: bytes = PNG) -> httpx.Response:
    return await grant.client.xrpc(
        "com.atproto.repo.uploadBlob",
        grant.access,
        method="POST",
        data=data,
        content_type=mime,
    )


async def _procedure(grant: Grant, nsid: str, body: JSON) -> httpx.Response:
    return await grant.client.xrpc(nsid, grant.access, method="POST", body=body)


async def _delete(grant: Grant, collection: str = POST) -> httpx.Response:
    body: JSON = {"repo": grant.client.person.did, "collection": collection, "rkey": "x"}
    return await _procedure(grant, "com.atproto.repo.deleteRecord", body)


async def _put(grant: Grant, collection: str = POST) -> httpx.Response:
    record = {"$type": collection, "text": "hello", "createdAt": "2026-01-01T00:00:00.000Z"}
    body: JSON = {
        "repo": grant.client.person.did,
        "collection": collection,
        "rkey": "3jzfcijpj2z2a",
        "record": record,
    }
    return await _procedure(grant, "com.atproto.repo.putRecord", body)


async def _service_auth(grant: Grant, **query: str) -> httpx.Response:
    nsid = "com.atproto.server.getServiceAuth"
    return await grant.client.xrpc(nsid, grant.access, query=query)


async def _proxied(grant: Grant, nsid: str = "app.bsky.actor.getProfile") -> httpx.Response:
    return await grant.client.xrpc(nsid, grant.access, query={"actor": "alice.test"})


APPVIEW = "did:web:api.bsky.app"


@scenario(
    "scope atproto: getSession",
    "scope atproto: createRecord",
    "scope atproto: putRecord",
    "scope atproto: deleteRecord",
    "scope atproto: uploadBlob",
    "scope atproto: proxied rpc",
    "scope atproto: updateHandle",
    "scope atproto: getServiceAuth",
    "scope atproto: deactivateAccount",
    "scope atproto: requestEmailUpdate",
    "scope atproto: applyWrites",
    "scope atproto: getPreferences",
)
async def atproto_alone(world: World, row: Rows) -> None:
    grant = await _grant(world, "atproto")
    client = grant.client
    row.answer("scope atproto: getSession", await grant.session())
    row.answer("scope atproto: createRecord", await client.create_record(grant.access))
    row.answer("scope atproto: putRecord", await _put(grant))
    row.answer("scope atproto: deleteRecord", await _delete(grant))
    row.answer("scope atproto: uploadBlob", await _upload(grant, "image/png"))
    row.answer("scope atproto: proxied rpc", await _proxied(grant))
    nsid = "com.atproto.identity.updateHandle"
    row.answer("scope atproto: updateHandle", await _procedure(grant, nsid, {"handle": "x.test"}))
    auth = await _service_auth(grant, aud=APPVIEW, lxm="app.bsky.actor.getProfile")
    row.answer("scope atproto: getServiceAuth", auth)
    nsid = "com.atproto.server.deactivateAccount"
    row.answer("scope atproto: deactivateAccount", await _procedure(grant, nsid, {}))
    nsid = "com.atproto.server.requestEmailUpdate"
    update = await client.xrpc(nsid, grant.access, method="POST")
    row.answer("scope atproto: requestEmailUpdate", update)
    write: JSON = {
        "$type": "com.atproto.repo.applyWrites#create",
        "collection": POST,
        "value": dict[str, object](),
    }
    body: JSON = {"repo": client.person.did, "writes": [write]}
    nsid = "com.atproto.repo.applyWrites"
    row.answer("scope atproto: applyWrites", await _procedure(grant, nsid, body))
    row.answer(
        "scope atproto: getPreferences", await _proxied(grant, "app.bsky.actor.getPreferences")
    )


@scenario(
    "repo create: createRecord post",
    "repo create: other collection",
    "repo create: delete",
    "repo create: putRecord",
    "repo *: createRecord",
    "repo of another account",
    "repo record of another $type",
    "repo body that is no JSON",
)
async def repositories(world: World, row: Rows) -> None:
    grant = await _grant(world, f"atproto repo:{POST}?action=create")
    client = grant.client
    row.answer("repo create: createRecord post", await client.create_record(grant.access))
    other = await client.create_record(grant.access, "app.bsky.feed.like")
    row.answer("repo create: other collection", other)
    row.answer("repo create: delete", await _delete(grant))
    row.answer("repo create: putRecord", await _put(grant))
    grant = await _grant(world, "atproto repo:*")
    client = grant.client
    row.answer("repo *: createRecord", await client.create_record(grant.access))
    nsid = "com.atproto.repo.createRecord"
    bob = (await world.account("bob.test")).did
    record = {"$type": POST, "text": "x", "createdAt": "2026-01-01T00:00:00.000Z"}
    body: JSON = {"repo": bob, "collection": POST, "record": record}
    row.answer("repo of another account", await _procedure(grant, nsid, body))
    body = {"repo": client.person.did, "collection": POST, "record": {"$type": "a.b.c"}}
    row.answer("repo record of another $type", await _procedure(grant, nsid, body))
    broken = await client.xrpc(
        nsid, grant.access, method="POST", data=b"{", content_type="application/json"
    )
    row.answer("repo body that is no JSON", broken)


@scenario(
    "account:email getSession",
    "transition:email getSession",
    "blob:image/* upload text",
    "blob:image/* upload png",
    "blob two types: the second",
    "identity:handle: updateHandle to a taken one",
    "rpc granted: getServiceAuth",
    "rpc granted: getServiceAuth for another method",
    "rpc granted: proxied call",
    "transition:generic: getServiceAuth for chat",
    "transition:generic: updateHandle",
    "transition:generic: uploadBlob",
    "transition:generic: putRecord",
    "transition:generic: deactivateAccount",
    "transition:generic: getSession",
    "transition:generic: getServiceAuth without lxm",
)
async def other_permissions(world: World, row: Rows) -> None:
    for scope in ("account:email", "transition:email"):
        grant = await _grant(world, f"atproto {scope}")
        row.answer(f"{scope} getSession", await grant.session())
    grant = await _grant(world, "atproto blob:image/*")
    row.answer("blob:image/* upload text", await _upload(grant, "text/plain", b"text"))
    row.answer("blob:image/* upload png", await _upload(grant, "image/png"))
    grant = await _grant(world, "atproto blob?accept=image/png&accept=text/plain")
    row.answer("blob two types: the second", await _upload(grant, "text/plain", b"text"))
    grant = await _grant(world, "atproto identity:handle")
    nsid = "com.atproto.identity.updateHandle"
    taken = await _procedure(grant, nsid, {"handle": "bob.test"})
    row.answer("identity:handle: updateHandle to a taken one", taken)

    method = "app.bsky.actor.getProfile"
    grant = await _grant(world, f"atproto rpc:{method}?aud=did:web:api.bsky.app%23bsky_appview")
    aud = f"{APPVIEW}#bsky_appview"
    auth = await _service_auth(grant, aud=aud, lxm=method)
    row.answer("rpc granted: getServiceAuth", auth)
    auth = await _service_auth(grant, aud=aud, lxm="app.bsky.feed.getTimeline")
    row.answer("rpc granted: getServiceAuth for another method", auth)
    row.answer("rpc granted: proxied call", await _proxied(grant))

    grant = await _grant(world, "atproto transition:generic")
    auth = await _service_auth(grant, aud=APPVIEW, lxm="chat.bsky.convo.listConvos")
    row.answer("transition:generic: getServiceAuth for chat", auth)
    handle = await _procedure(grant, nsid, {"handle": "x.test"})
    row.answer("transition:generic: updateHandle", handle)
    row.answer("transition:generic: uploadBlob", await _upload(grant, "image/png"))
    row.answer("transition:generic: putRecord", await _put(grant))
    off = await _procedure(grant, "com.atproto.server.deactivateAccount", {})
    row.answer("transition:generic: deactivateAccount", off)
    row.answer("transition:generic: getSession", await grant.session())
    auth = await _service_auth(grant, aud=APPVIEW)
    row.answer("transition:generic: getServiceAuth without lxm", auth)


@scenario(
    "trap 14: unknown and ill-formed scopes are dropped",
    "trap 14: include: is expanded",
    "include: createRecord in set",
    "include: createRecord outside set",
    "include: unresolvable",
    "include: permissions outside the authority are dropped",
    "include: with an audience",
    "trap 14: the scope after a refresh",
)
async def granted_scopes(world: World, row: Rows) -> None:
    asked = "atproto foo:bar repo:not_an_nsid rpc:*?aud=* repo:app.bsky.feed.post"
    grant = await _grant(world, asked)
    scope = grant.tokens["scope"]
    row.effect("trap 14: unknown and ill-formed scopes are dropped", scope=scope)
    await grant.renew()
    row.effect("trap 14: the scope after a refresh", scope=grant.tokens["scope"])

    await world.publish_permission_set(
        "arpa.home.app.basic",
        [
            {"resource": "repo", "collection": ["arpa.home.app.post", "arpa.home.app.like"]},
            {"resource": "rpc", "lxm": ["arpa.home.app.get"], "inheritAud": True},
        ],
    )
    grant = await _grant(world, "atproto include:arpa.home.app.basic")
    row.effect("trap 14: include: is expanded", scope=grant.tokens["scope"])
    client = grant.client
    inside = await client.create_record(grant.access, "arpa.home.app.post")
    row.answer("include: createRecord in set", inside)
    row.answer("include: createRecord outside set", await client.create_record(grant.access))

    audience = "include:arpa.home.app.basic?aud=did:web:app.home.arpa%23app"
    grant = await _grant(world, f"atproto {audience}")
    row.effect("include: with an audience", scope=grant.tokens["scope"])

    await world.publish_permission_set(
        "arpa.home.app.greedy",
        [
            {"resource": "repo", "collection": ["app.bsky.feed.post"]},
            {"resource": "repo", "collection": ["arpa.home.app.post"], "action": ["create"]},
            {"resource": "blob", "accept": ["image/*"]},
            {"resource": "account", "attr": "email"},
        ],
    )
    grant = await _grant(world, "atproto transition:email include:arpa.home.app.greedy")
    name = "include: permissions outside the authority are dropped"
    row.effect(name, scope=grant.tokens["scope"])
    alice = await world.account("alice.test")
    nothing = Client(world, alice, scope="atproto include:arpa.home.app.nothing")
    row.answer("include: unresolvable", await nothing.par())
