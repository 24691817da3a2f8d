from __future__ import annotations

from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from typing import Any, Self

import httpx

_API = "/@atproto/oauth-provider/~api"


class ApprovalRefused(Exception):
    """The authorization server answered a step of the person with an error."""

    def __init__(self, status: int, error: str, description: str, reason: str = "") -> None:
        super().__init__(f"{status} {error}: {description}")
        self.status = status
        self.error = error
        self.description = description
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """A person signed in on the authorization page; remembered when there is no token."""

    did: str
    ephemeral_token: str | None = field(default=None, repr=False)


class HttpUser:
    """A person at the authorization page, without a browser.

    It makes the calls the page's own JavaScript makes, with the cookies and Sec-Fetch headers of a
    browser. One instance is one browser: what is remembered stays with it, or with `cookies`.
    Methods that return a callback URL do not open it: that is the app's.
    """

    def __init__(self, cookies: CookieJar | None = None) -> None:
        self._http = httpx.AsyncClient(timeout=20, trust_env=False, cookies=cookies)
        self._page = httpx.URL()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the browser; what it remembers stays with `cookies`."""
        await self._http.aclose()

    async def approve(
        self,
        authorize_url: str,
        username: str,
        password: str,
        *,
        remember: bool = False,
        scope: str | None = None,
    ) -> str:
        """Open the page, sign in, consent to all (or to `scope`), and return the callback URL.

        Raises `ApprovalRefused` when the page or the password is refused. Where the server asks
        nothing, the callback URL it redirects to is returned at once.
        """
        page = await self.open(authorize_url)
        if page.is_redirect:
            return page.headers["location"]
        return await self.consent(await self.sign_in(username, password, remember), scope=scope)

    async def approve_remembered(
        self, authorize_url: str, did: str, *, scope: str | None = None
    ) -> str:
        """Consent as an account that an earlier `remember=True` left on this device."""
        page = await self.open(authorize_url)
        if page.is_redirect:
            return page.headers["location"]
        return await self.consent(SignedIn(did=did, ephemeral_token=None), scope=scope)

    async def deny(self, authorize_url: str) -> str:
        """Open the page, press cancel, and return the callback URL."""
        page = await self.open(authorize_url)
        if page.is_redirect:
            return page.headers["location"]
        return await self._leave(await self._call("/reject", {}))

    async def open(self, authorize_url: str) -> httpx.Response:
        """Open the authorization page as a link on the app's site does; redirects are returned.

        Raises `ApprovalRefused` when the server shows an error page.
        """
        self._page = httpx.URL(authorize_url)
        response = await self._navigate(authorize_url, site="cross-site")
        if response.is_error:
            raise ApprovalRefused(response.status_code, "error_page", response.text[:200])
        return response

    async def sign_in(self, username: str, password: str, remember: bool = False) -> SignedIn:
        """Type handle (or DID, or e-mail) and password on the open page.

        Raises `ApprovalRefused` when they are wrong; the page then stays open for another try.
        """
        answer = await self._call(
            "/sign-in",
            {"locale": "en", "username": username, "password": password, "remember": remember},
        )
        return SignedIn(did=answer["account"]["did"], ephemeral_token=answer.get("ephemeralToken"))

    async def consent(self, person: SignedIn, *, scope: str | None = None) -> str:
        """Press authorize on the open page and return the callback URL."""
        body = {"did": person.did} if scope is None else {"did": person.did, "scope": scope}
        return await self._leave(await self._call("/consent", body, person.ephemeral_token))

    async def sign_up(self, handle: str, email: str, password: str) -> SignedIn:
        """Make an account on the open page.

        Raises `ApprovalRefused` when something about it is not possible.
        """
        await self._call("/verify-handle-availability", {"handle": handle})
        fields = {"locale": "en", "handle": handle, "email": email, "password": password}
        answer = await self._call("/sign-up", fields)
        return SignedIn(did=answer["account"]["did"], ephemeral_token=answer.get("ephemeralToken"))

    async def decide(self, person: SignedIn | None, *, scope: str | None = None) -> httpx.Response:
        """Press authorize, or cancel as nobody, and return the answer that leads to the app."""
        if person is None:
            answer = await self._call("/reject", {})
        else:
            body = {"did": person.did} if scope is None else {"did": person.did, "scope": scope}
            answer = await self._call("/consent", body, person.ephemeral_token)
        return await self._navigate(answer["url"], site="same-origin")

    async def sign_out(self, did: str) -> None:
        """Make this device forget `did`, from the open page."""
        await self._call("/sign-out", {"did": did})

    def _cookies(self) -> str:
        # httpx keeps Secure cookies from http; browsers send them to localhost.
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._http.cookies.jar)

    async def _navigate(self, url: str, *, site: str) -> httpx.Response:
        headers = {
            "accept": "text/html",
            "sec-fetch-site": site,
            "sec-fetch-mode": "navigate",
            "sec-fetch-dest": "document",
            "cookie": self._cookies(),
        }
        if site == "same-origin":
            headers["referer"] = str(self._page)
        return await self._http.get(url, headers=headers)

    async def _call(
        self, endpoint: str, body: dict[str, Any], bearer: str | None = None
    ) -> dict[str, Any]:
        origin = f"{self._page.scheme}://{self._page.netloc.decode()}"
        headers = {
            "sec-fetch-site": "same-origin",
            "sec-fetch-mode": "same-origin",
            "sec-fetch-dest": "empty",
            "origin": origin,
            "referer": str(self._page),
            "cookie": self._cookies(),
            "x-csrf-token": next(
                (c.value or "" for c in self._http.cookies.jar if c.name == "csrf-token"), ""
            ),
        }
        if bearer is not None:
            headers["authorization"] = f"Bearer {bearer}"
        response = await self._http.post(f"{origin}{_API}{endpoint}", json=body, headers=headers)
        answer: dict[str, Any] = response.json()
        if response.is_error:
            raise ApprovalRefused(
                response.status_code,
                str(answer.get("error", "")),
                str(answer.get("error_description", "")),
                str(answer.get("reason", "")),
            )
        return answer

    async def _leave(self, answer: dict[str, Any]) -> str:
        response = await self._navigate(answer["url"], site="same-origin")
        if not response.is_redirect:
            raise ApprovalRefused(response.status_code, "no_redirect", response.text[:200])
        return response.headers["location"]
