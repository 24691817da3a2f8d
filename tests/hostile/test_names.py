"""Names that break the libraries underneath are refused like any other bad name."""

from __future__ import annotations

import pytest

from atproto_oauth_asgi.errors import AddressRefused
from atproto_oauth_asgi.scopes import covers
from tests.app.world import world
from tests.net_server import opened

pytestmark = pytest.mark.anyio


@pytest.mark.spec("A1", "P2")
@pytest.mark.parametrize(
    "typed",
    ["xn--a.com", "https://xn--a.com", "did:web:xn--a.com", "xn--zzzzzzzzz99999.com", "xn--0.test"],
)
async def test_a_name_that_is_no_internationalised_name_is_refused_with_a_page(typed: str) -> None:
    async with world() as here:
        answer = await here.begin(typed)

        assert answer.status_code in {400, 502, 503}
        assert "<form" in answer.text


@pytest.mark.spec("P2", "P8")
async def test_a_host_is_named_as_it_is_dialled() -> None:
    """A message with the letters of `apple.com` in another alphabet would mislead its reader."""
    async with opened() as net:
        with pytest.raises(AddressRefused) as caught:
            await net.get_json("http://xn--80ak6aa92e.com/")

        assert caught.value.host == "xn--80ak6aa92e.com"
        with pytest.raises(AddressRefused):
            await net.get_json("https://xn--a.com/")


@pytest.mark.spec("M5")
@pytest.mark.parametrize(
    "entry", [{"resource": ["rpc"]}, {"resource": "rpc", "lxm": [], "aud": "*"}]
)
def test_an_entry_of_a_permission_set_that_names_nothing_grants_nothing(
    entry: dict[str, object],
) -> None:
    sets = {"a.b.full": [entry]}
    assert not covers("atproto", "include:a.b.full", permission_sets=sets)
