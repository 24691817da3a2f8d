"""The conformance kit: what a store plugin's own tests subclass.

    class TestMyStore(StoreConformance):
        @pytest.fixture
        async def store(self) -> AsyncGenerator[Store]:
            ...

Every sentence of `atproto_oauth_asgi.store.Store` has a test. Call
`pytest.register_assert_rewrite("atproto_oauth_asgi.testing")` in your `conftest.py` first, and
anyio's pytest plugin must be there (it comes with Starlette).
"""

from __future__ import annotations

from atproto_oauth_asgi.testing.conformance_accounts import AccountConformance
from atproto_oauth_asgi.testing.conformance_commit import CommitConformance
from atproto_oauth_asgi.testing.conformance_one_time import OneTimeConformance
from atproto_oauth_asgi.testing.conformance_refresh import LeaseConformance
from atproto_oauth_asgi.testing.conformance_sessions import BrowserConformance
from atproto_oauth_asgi.testing.conformance_upkeep import UpkeepConformance


class StoreConformance(
    OneTimeConformance,
    BrowserConformance,
    AccountConformance,
    LeaseConformance,
    CommitConformance,
    UpkeepConformance,
):
    """Tests a store against the contract; override `store`, and what else your store can do.

    - `store`: an open store on an empty database.
    - `second_store`: another object on the same database, as another process would have.
    - `advance`: lets time pass for the store; without it, tests that need minutes are skipped.
    """
