"""No network at all: what `signed_in` gives an app that none is attached to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from starlette.types import ASGIApp

from atproto_oauth_asgi.errors import Unreachable
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.testing.attachment import Attachment
from atproto_oauth_asgi.testing.kit_errors import KitError

#: Where the data of a session lies that was made without a network.
PDS = "https://no-pds.test"
ISSUER = "https://no-authorization-server.test"

_attached: list[Attachment] = []


class NoNetwork(Mapping[str, ASGIApp]):
    """Stands where the servers would be. A PDS call fails the test with a sentence."""

    def __getitem__(self, origin: str) -> ASGIApp:
        if origin == PDS:
            raise KitError(
                "signed_in() made this session without a network, so there is no PDS to call; use"
                " the atproto_network fixture with atproto_network.attach(oauth), and login()."
            )
        raise Unreachable("No network is attached.", host=origin.partition("://")[2])

    def __iter__(self) -> Iterator[str]:
        yield PDS

    def __len__(self) -> int:
        return 1


def offline(oauth: ATProtoOAuth) -> None:
    """Let an `ATProtoOAuth` reach nothing, and keep sessions in memory, until `end_all`."""
    if isinstance(oauth.core.policy.apps, NoNetwork):
        return

    async def nowhere(_name: str) -> tuple[()]:
        return ()

    policy = NetPolicy(
        apps=NoNetwork(), resolve_host=nowhere, resolve_txt=nowhere, plc_url="https://no-plc.test"
    )
    _attached.append(Attachment(oauth, policy))


def end_all() -> None:
    """Put back what `offline` changed; the pytest plugin calls it after each test."""
    while _attached:
        _attached.pop().detach()
