"""The way of a person through the authorization endpoint and back."""

from __future__ import annotations

from urllib.parse import parse_qs, urlencode, urlsplit

from tests.network.walker import parameters
from tests.parity.client import Client
from tests.parity.scenario import Rows, scenario
from tests.parity.world import World

_UNKNOWN = "urn:ietf:params:oauth:request_uri:req-" + "0" * 32


async def _client(world: World) -> Client:
    return Client(world, await world.account("alice.test"))


@scenario(
    "approved: the callback",
    "code after request_uri was revisited",
    "trap 7: opened again after consent",
    "trap 7: opened again after the exchange",
    "trap 8: cancelled",
    "trap 8: opened again after it was cancelled",
    "approved without a state: the callback",
)
async def callbacks(world: World, row: Rows) -> None:
    client = await _client(world)
    url = await client.authorize_url()
    first = await world.approve(url, client.person)
    row.callback("approved: the callback", first, client.state)
    again = world.approve(url, client.person)
    await row.person("trap 7: opened again after consent", again, client.state)
    late = await client.exchange(parameters(first)["code"])
    row.answer("code after request_uri was revisited", late)

    url = await client.authorize_url()
    await client.exchange(parameters(await world.approve(url, client.person))["code"])
    again = world.approve(url, client.person)
    await row.person("trap 7: opened again after the exchange", again, client.state)

    url = await client.authorize_url()
    await row.person("trap 8: cancelled", world.deny(url), client.state)
    again = world.approve(url, client.person)
    await row.person("trap 8: opened again after it was cancelled", again, client.state)

    url = await client.authorize_url(state=None)
    back = world.approve(url, client.person)
    await row.person("approved without a state: the callback", back, None)


@scenario(
    "trap 9: the request_uri has expired",
    "trap 9: the request_uri of another client",
    "trap 9: an unknown request_uri",
    "trap 9: a garbage request_uri",
    "trap 9: no request_uri",
    "trap 9: no client_id",
    "trap 9: a page view lets the request live on",
)
async def request_uris(world: World, row: Rows) -> None:
    client = await _client(world)
    person, state = client.person, client.state
    url = await client.authorize_url()
    await world.age(305)
    expired = world.approve(url, person)
    await row.person("trap 9: the request_uri has expired", expired, client.state)

    url = await client.authorize_url()
    uri = parse_qs(urlsplit(url).query)["request_uri"][0]
    other = world.approve(client.request_url(uri, "http://localhost"), person)
    await row.person("trap 9: the request_uri of another client", other, client.state)
    unknown = world.approve(client.request_url(_UNKNOWN), person)
    await row.person("trap 9: an unknown request_uri", unknown, state)
    garbage = world.approve(client.request_url("garbage"), person)
    await row.person("trap 9: a garbage request_uri", garbage, state)
    bare = world.approve(client.url("/oauth/authorize?client_id=http://localhost"), person)
    await row.person("trap 9: no request_uri", bare, state)
    url = await client.authorize_url()
    uri = parse_qs(urlsplit(url).query)["request_uri"][0]
    nameless = world.approve(client.url(f"/oauth/authorize?request_uri={uri}"), person)
    await row.person("trap 9: no client_id", nameless, state)

    url = await client.authorize_url()
    headers = {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    }
    statuses: list[int] = []
    for _ in range(3):
        await world.age(200)
        page = await world.http.get(url, headers=headers)
        headers["cookie"] = "; ".join(f"{c.name}={c.value}" for c in world.http.cookies.jar)
        statuses.append(page.status_code)
    row.effect("trap 9: a page view lets the request live on", statuses=statuses)


@scenario("trap 12: authorization without PAR")
async def without_par(world: World, row: Rows) -> None:
    client = await _client(world)
    await client.par()
    form = {name: value for name, value in client.request_form().items() if value is not None}
    query = urlencode({**form, "client_id": client.client_id})
    back = world.approve(client.url(f"/oauth/authorize?{query}"), client.person)
    await row.person("trap 12: authorization without PAR", back, client.state)


@scenario("trap 14: without the atproto scope granted")
async def no_atproto(world: World, row: Rows) -> None:
    client = await _client(world)
    url = await client.authorize_url()
    back = world.approve(url, client.person, scope="transition:generic")
    await row.person("trap 14: without the atproto scope granted", back, client.state)
