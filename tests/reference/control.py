from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

import httpx

OAuthPath: TypeAlias = Literal["/oauth/par", "/oauth/token", "/oauth/revoke"]
FaultKind: TypeAlias = Literal["delay", "drop", "error", "hold"]


class _Entry(TypedDict):
    at: int
    ended: int | None
    path: OAuthPath
    grant_type: str | None
    client_id: str | None
    kid: str | None
    token: str | None
    status: int | None
    error: str | None
    fault: FaultKind | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthRequest:
    """One POST that reached the authorization server; times are seconds since the epoch.

    `token` is the `fingerprint` of the refresh token (or of the token to revoke), `kid` names the
    key of the client assertion, `error` is the OAuth error of the answer, `fault` what was done to
    it. `status` is what the server answered, even when that answer was dropped; None while it has
    not answered.
    """

    at: float
    ended: float | None
    path: OAuthPath
    grant_type: str | None
    client_id: str | None
    kid: str | None
    token: str | None
    status: int | None
    error: str | None
    fault: FaultKind | None


def fingerprint(token: str) -> str:
    """Return what `OAuthRequest.token` holds for `token`: never enough to use it."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


class Control:
    """Reads what reached the OAuth endpoints of one PDS, and puts faults on them.

    The log outlives a restart in good order; faults do not.
    """

    def __init__(self) -> None:
        self._http: httpx.Client | None = None
        self._earlier: list[OAuthRequest] = []

    def attach(self, url: str) -> None:
        """Talk to the PDS process whose control address is `url`."""
        self._http = httpx.Client(base_url=url, timeout=20, trust_env=False)

    def detach(self) -> None:
        """Keep the log of a PDS that is about to stop; that of a dead one is lost."""
        if self._http is not None:
            try:
                self._earlier += self._read()
            except httpx.TransportError:
                pass
            finally:
                self._http.close()
                self._http = None

    def log(
        self, path: OAuthPath | None = None, *, grant_type: str | None = None
    ) -> list[OAuthRequest]:
        """Return the requests so far, oldest first, nonce challenges (400) included."""
        return [
            entry
            for entry in [*self._earlier, *self._read()]
            if path in {None, entry.path} and grant_type in {None, entry.grant_type}
        ]

    def refreshes(self) -> list[OAuthRequest]:
        """Return the refresh requests that got past the nonce challenge."""
        return [
            entry
            for entry in self.log("/oauth/token", grant_type="refresh_token")
            if entry.error != "use_dpop_nonce"
        ]

    def clear_log(self) -> None:
        """Forget the requests so far."""
        self._earlier.clear()
        if self._http is not None:
            self._http.delete("/log").raise_for_status()

    def delay_answers(
        self,
        seconds: float,
        *,
        count: int = 1,
        path: OAuthPath = "/oauth/token",
        grant_type: str | None = None,
    ) -> None:
        """Keep the next `count` successful answers back for `seconds`, after processing."""
        self._fault("delay", count, path, grant_type, ms=round(seconds * 1000))

    def hold_answers(
        self,
        *,
        count: int = 1,
        path: OAuthPath = "/oauth/token",
        grant_type: str | None = None,
    ) -> None:
        """Keep the next `count` successful answers back until `release`, after processing."""
        self._fault("hold", count, path, grant_type)

    def release(self) -> None:
        """Send the answers that are held back, and hold no more."""
        if self._http is not None:
            self._http.post("/release").raise_for_status()

    def drop_answers(
        self,
        *,
        count: int = 1,
        path: OAuthPath = "/oauth/token",
        grant_type: str | None = None,
    ) -> None:
        """Close the connection instead of the next `count` successful answers: a lost response."""
        self._fault("drop", count, path, grant_type)

    def fail_requests(
        self,
        status: int = 500,
        *,
        count: int = 1,
        path: OAuthPath = "/oauth/token",
        grant_type: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Answer the next `count` requests with `status` before the server sees them."""
        self._fault("error", count, path, grant_type, status=status, retry_after=retry_after)

    def move(self, did: str, pds: str) -> None:
        """Sign, with the PDS's own key, that the account's home is `pds`."""
        if self._http is None:
            raise RuntimeError("the PDS is stopped: start it before it can sign")
        self._http.post("/move", json={"did": did, "pds": pds}).raise_for_status()

    def clear_faults(self) -> None:
        """Take back the faults that were not used up, and send the answers that are held back."""
        if self._http is not None:
            self._http.delete("/faults").raise_for_status()

    def _fault(
        self,
        kind: FaultKind,
        count: int,
        path: OAuthPath,
        grant_type: str | None,
        **more: int | None,
    ) -> None:
        if self._http is None:
            raise RuntimeError("the PDS is stopped: start it before putting a fault on it")
        fault = {"kind": kind, "count": count, "path": path, "grant_type": grant_type, **more}
        self._http.post("/faults", json=fault).raise_for_status()

    def _read(self) -> list[OAuthRequest]:
        if self._http is None:
            return []
        entries: list[_Entry] = self._http.get("/log").raise_for_status().json()
        return [
            OAuthRequest(
                at=entry["at"] / 1000,
                ended=None if entry["ended"] is None else entry["ended"] / 1000,
                path=entry["path"],
                grant_type=entry["grant_type"],
                client_id=entry["client_id"],
                kid=entry["kid"],
                token=entry["token"],
                status=entry["status"],
                error=entry["error"],
                fault=entry["fault"],
            )
            for entry in entries
        ]
