"""Clearing away what is over, a little at a time."""

from __future__ import annotations

import asyncio
import random

from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.store import Store

#: Seconds between two sweeps of one worker, give or take half: workers must not meet.
EVERY = 600.0
#: Rows dealt with in one transaction, and transactions in one sweep.
BATCH = 500
BATCHES = 40
#: Longest pause between two transactions, in seconds: others have business with the database too.
PAUSE = 0.02


async def housekeeping(store: Store, events: Events) -> None:
    """Sweep now and then, until cancelled; any number of workers may do so."""
    while True:
        await asyncio.sleep(EVERY * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
        try:
            await sweep(store)
        except StoreUnavailable:
            events.warning("store.not_swept")
        except Exception:  # noqa: BLE001  # told with its traceback
            # A defect here must not end it for as long as the process lives.
            events.exception("store.not_swept")


async def sweep(store: Store) -> int:
    """Delete or end what has expired, in small batches; return how many rows were dealt with.

    Raises:
        StoreUnavailable: the rest waits for the next sweep.
    """
    done = 0
    for _ in range(BATCHES):
        count = await store.purge_expired(BATCH)
        done += count
        if count < BATCH:
            break
        await asyncio.sleep(random.uniform(0.0, PAUSE))  # noqa: S311  # jitter
    return done
