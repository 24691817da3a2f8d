from __future__ import annotations

from itertools import product

import pytest

from tests.app.world import BASE_URL, World, world

pytestmark = pytest.mark.anyio

TRUSTED = "https://www.birdsong.dev"
ORIGINS = {
    "ours": BASE_URL,
    "trusted": TRUSTED,
    "foreign": "https://evil.example",
    "sibling": "https://evil.birdsong.dev",
    "other scheme": "http://app.birdsong.dev",
    "other port": "https://app.birdsong.dev:8443",
    "longer": "https://app.birdsong.dev.evil.example",
    "null": "null",
    "none": None,
}
SITES = ("same-origin", "same-site", "cross-site", "none", None)
KINDS = (
    "application/x-www-form-urlencoded",
    "application/json",
    "Application/JSON ; charset=utf-8",
    "text/plain; a=application/json",
    None,
)
OURS = {"ours", "trusted"}


def headers(origin: str, site: str | None, kind: str | None) -> dict[str, str]:
    given = {"origin": ORIGINS[origin], "sec-fetch-site": site, "content-type": kind}
    return {name: value for name, value in given.items() if value is not None}


def passes(origin: str, site: str | None, kind: str | None) -> bool:
    """Say what design §9 says."""
    if origin in OURS or site == "same-origin":
        return True
    json = kind is not None and kind.lower().startswith("application/json")
    return origin == "none" and site is None and json


async def attached(here: World, method: str, **given: str) -> bool:
    answer = await here.browser.request(method, "/who", headers=given)
    return answer.json()["did"] is not None


@pytest.mark.spec("Q3", "F4")
@pytest.mark.parametrize("origin", ORIGINS)
async def test_our_posts_are_answered_only_to_our_own_pages(origin: str) -> None:
    async with world(trusted_origins=(TRUSTED,)) as here:
        for site, kind in product(SITES, KINDS):
            for path in ("/oauth/login", "/oauth/logout"):
                answer = await here.browser.post(
                    path, headers=headers(origin, site, kind), content=b""
                )
                refused = answer.status_code == 403
                assert refused is not passes(origin, site, kind), (path, site, kind)
                if refused:
                    assert "set-cookie" not in answer.headers
        assert not len(here.network.log)


@pytest.mark.spec("Q3")
async def test_a_refused_post_says_so_to_a_person_and_to_a_script() -> None:
    async with world() as here:
        page = await here.browser.post(
            "/oauth/logout", headers={"origin": "https://evil.example", "accept": "text/html"}
        )
        script = await here.browser.post(
            "/oauth/logout", headers={"origin": "https://evil.example"}, json={}
        )

        assert "did not come from this site" in page.text
        assert script.json()["error"] == "cross_site_refused"


@pytest.mark.spec("Q3", "K6")
async def test_a_foreign_page_cannot_log_anybody_out() -> None:
    async with world() as here:
        await here.login()
        await here.browser.post(
            "/oauth/logout",
            headers={"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        )

        assert await here.who() == here.did()
        assert len(here.network.sessions()) == 1


@pytest.mark.spec("Q3")
async def test_json_from_a_trusted_page_or_a_program_is_taken() -> None:
    async with world(trusted_origins=(TRUSTED,)) as here:
        for given in ({"origin": TRUSTED, "sec-fetch-site": "same-site"}, {}):
            answer = await here.browser.post(
                "/oauth/login",
                json={"identifier": "alice.test"},
                headers={"accept": "application/json", **given},
            )
            assert answer.status_code == 200


@pytest.mark.spec("Q3")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
async def test_unsafe_requests_from_elsewhere_carry_no_session(method: str) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Route

    from tests.app.world import who

    app = Starlette(routes=[Route("/who", who, methods=[method, "GET"])])
    async with world(app=app, trusted_origins=(TRUSTED,)) as here:
        await here.login()
        foreign = {"origin": "https://evil.example"}
        sibling = {"origin": "https://evil.birdsong.dev", "sec-fetch-site": "same-site"}

        assert not await attached(here, method, **foreign)
        assert not await attached(here, method, **foreign, **{"sec-fetch-site": "cross-site"})
        assert not await attached(here, method, **sibling)
        assert not await attached(here, method, **{"sec-fetch-site": "cross-site"})
        assert not await attached(here, method, **{"sec-fetch-site": "same-site"})
        assert not await attached(here, method, origin="null")
        assert await attached(here, method, origin=BASE_URL)
        assert await attached(here, method, origin=TRUSTED, **{"sec-fetch-site": "same-site"})
        assert await attached(here, method, **{"sec-fetch-site": "same-origin"})
        assert await attached(here, method, origin="null", **{"sec-fetch-site": "same-origin"})
        assert await attached(here, method, **{"sec-fetch-site": "none"})
        assert await attached(here, method)


async def test_reading_from_elsewhere_carries_the_session_as_a_link_does() -> None:
    async with world() as here:
        await here.login()

        for site in SITES:
            given = {} if site is None else {"sec-fetch-site": site}
            assert await attached(here, "GET", **given)


async def test_an_app_with_defences_of_its_own_may_opt_out() -> None:
    async with world(cross_site_sessions=True) as here:
        await here.login()

        assert await attached(
            here, "POST", origin="https://evil.example", **{"sec-fetch-site": "cross-site"}
        )
        refused = await here.browser.post(
            "/oauth/logout", headers={"origin": "https://evil.example"}
        )
        assert refused.status_code == 403
