from __future__ import annotations

from atproto_oauth_asgi.testing.accounts import Account
from atproto_oauth_asgi.testing.web import Answer, Request, json_answer


class Directory:
    """Is the PLC directory: it serves the DID documents of every account of the network."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self._accounts: dict[str, Account] = {}

    def register(self, account: Account) -> None:
        """Add an account's document.

        Raises:
            ValueError: The DID is taken.
        """
        if account.did in self._accounts:
            raise ValueError(f"{account.did} is registered already; choose another handle or DID.")
        self._accounts[account.did] = account

    def accounts(self) -> tuple[Account, ...]:
        """Return every account."""
        return tuple(self._accounts.values())

    async def answer(self, request: Request) -> Answer:
        """Answer `GET /<did>` as `plc.directory` does."""
        if request.method != "GET":
            return Answer(status=405, headers=(("allow", "GET"),))
        if request.path == "/_health":
            return json_answer(200, {"version": "development network"})
        did = request.path.removeprefix("/").replace("%3A", ":")
        if not did.startswith("did:"):
            return json_answer(404, {"message": "Not Found"})
        account = self._accounts.get(did)
        if account is None or not did.startswith("did:plc:"):
            return json_answer(404, {"message": f"DID not registered: {did}"})
        if account.status == "deleted":
            return json_answer(410, {"message": f"DID not available: {did}"})
        return json_answer(200, account.document(), media_type="application/did+ld+json")
