"""What becomes of a session when something happens to its account."""

from __future__ import annotations

from tests.parity.client import Client
from tests.parity.scenario import Rows, scenario
from tests.parity.world import World


@scenario(
    "deactivated: getSession",
    "deactivated: createRecord",
    "deactivated: refresh",
    "trap 16: deactivated: a new login",
    "trap 16: activated again: getSession",
    "deactivated: uploadBlob",
)
async def deactivation(world: World, row: Rows) -> None:
    bob = await world.create_account("bob")
    client = Client(world, bob)
    grant = await client.grant()
    await world.deactivate(bob)
    row.answer("deactivated: getSession", await grant.session())
    row.answer("deactivated: createRecord", await client.create_record(grant.access))
    blob = await client.xrpc(
        "com.atproto.repo.uploadBlob", grant.access, method="POST", data=b"x", content_type="a/b"
    )
    row.answer("deactivated: uploadBlob", blob)
    row.answer("deactivated: refresh", await grant.renew())
    url = await client.authorize_url()
    await row.person("trap 16: deactivated: a new login", world.approve(url, bob), client.state)
    await world.activate(bob)
    row.answer("trap 16: activated again: getSession", await grant.session())


@scenario(
    "takendown: getSession",
    "takendown: refresh",
    "trap 16: takendown: a new login",
    "trap 16: takendown: the DID document",
)
async def takedown(world: World, row: Rows) -> None:
    bob = await world.create_account("bob")
    client = Client(world, bob)
    grant = await client.grant()
    await world.take_down(bob)
    row.answer("takendown: getSession", await grant.session())
    row.answer("takendown: refresh", await grant.renew())
    url = await client.authorize_url()
    await row.person("trap 16: takendown: a new login", world.approve(url, bob), client.state)
    document = await world.http.get(f"{world.plc}/{bob.did}")
    row.effect("trap 16: takendown: the DID document", status=document.status_code)


@scenario("password changed: getSession", "password changed: refresh")
async def password_change(world: World, row: Rows) -> None:
    bob = await world.create_account("bob")
    grant = await Client(world, bob).grant()
    await world.change_password(bob)
    row.answer("password changed: getSession", await grant.session())
    row.answer("password changed: refresh", await grant.renew())


@scenario(
    "handle changed: getSession",
    "trap 16: handle changed: the old name",
    "trap 16: handle changed: the DID document",
    "trap 16: handle changed: refresh",
)
async def handle_change(world: World, row: Rows) -> None:
    bob = await world.create_account("bob")
    grant = await Client(world, bob).grant()
    new = bob.handle.replace("bob", "bobby")
    await world.change_handle(bob, new)
    row.answer("handle changed: getSession", await grant.session())
    url = f"{world.pds}/xrpc/com.atproto.identity.resolveHandle"
    old = await world.http.get(url, params={"handle": bob.handle})
    row.answer("trap 16: handle changed: the old name", old)
    document = (await world.http.get(f"{world.plc}/{bob.did}")).json()
    row.effect("trap 16: handle changed: the DID document", known_as=document["alsoKnownAs"])
    row.answer("trap 16: handle changed: refresh", await grant.renew())


@scenario("account deleted: getSession", "account deleted: refresh", "trap 16: deleted: the name")
async def deletion(world: World, row: Rows) -> None:
    bob = await world.create_account("bob")
    grant = await Client(world, bob).grant()
    await world.delete(bob)
    row.answer("account deleted: getSession", await grant.session())
    row.answer("account deleted: refresh", await grant.renew())
    url = f"{world.pds}/xrpc/com.atproto.identity.resolveHandle"
    gone = await world.http.get(url, params={"handle": bob.handle})
    row.answer("trap 16: deleted: the name", gone)
