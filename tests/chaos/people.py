"""People who sign in, look at a page, and sign out, whatever happens to the workers."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from atproto_oauth_asgi.testing import Network
from tests.chaos.witness import Witness
from tests.chaos.workers import Workers
from tests.refresh.fleet import LOOPBACK_URL

HOST = urlsplit(LOOPBACK_URL).netloc


@dataclass(slots=True)
class Told:
    """What people did and were told."""

    operations: Counter[str] = field(default_factory=Counter[str])
    statuses: Counter[str] = field(default_factory=Counter[str])
    #: Those who asked to be signed out, and when they did first, by the wall clock.
    left: dict[str, float] = field(default_factory=dict[str, float])
    #: Those who were told that nobody is signed in, and were not asked, and what came before.
    signed_out: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    wrong: list[str] = field(default_factory=list[str])


class Person:
    """One browser; each login is of a new account, so that the log can be read."""

    _numbers = itertools.count()

    def __init__(
        self,
        network: Network,
        witness: Witness,
        workers: Workers,
        told: Told,
        seed: str,
        leaving: float,
    ) -> None:
        self._network = network
        self._witness = witness
        self._workers = workers
        self._told = told
        self._random = random.Random(seed)
        self._leaving = leaving
        self._mine: set[str] = set()
        self._trace: list[str] = []
        #: Handle and DID of the account that the app confirmed.
        self._now: tuple[str, str] | None = None

    async def live(self) -> None:
        """Do one thing after the other until cancelled."""
        async with httpx.AsyncClient(
            headers={"host": HOST}, timeout=4.0, trust_env=False
        ) as browser:
            while True:
                await asyncio.sleep(self._random.uniform(0.1, 0.9))
                worker = self._workers.any()
                if worker is None:
                    continue
                try:
                    await self._do_something(browser, worker.url)
                except httpx.TransportError:
                    # Its worker was killed, paused, or is not up yet.
                    self._told.statuses["no answer"] += 1

    async def _do_something(self, browser: httpx.AsyncClient, url: str) -> None:
        roll = self._random.random()
        if self._now is None:
            await self._log_in(browser, url)
        elif roll < self._leaving:
            await self._log_out(browser, url, self._now[1])
        elif roll < self._leaving + 0.02:
            self._witness.revoke(self._network, self._now[0])
        else:
            await self._call(browser, url)

    async def _log_in(self, browser: httpx.AsyncClient, url: str) -> None:
        handle = f"person{next(self._numbers)}.test"
        did = self._network.add_account(handle).did
        begun = await browser.post(
            f"{url}/oauth/login",
            data={"identifier": handle},
            headers={"origin": LOOPBACK_URL, "accept": "text/html"},
        )
        self._count("login", begun)
        if begun.status_code != 303:
            return
        back = urlsplit(self._network.approve(begun.headers["location"], handle))
        # The answer may come to another worker, and a browser may ask twice.
        self._mine.add(did)
        others = [self._workers.any() for _ in range(self._random.choice((1, 1, 1, 2)))]
        urls = [f"{one.url}{back.path}?{back.query}" for one in others if one is not None]
        # In whatever order the answers come, the browser has the one cookie of this login.
        answers = await asyncio.gather(
            *(browser.get(url, headers={"accept": "text/html"}) for url in urls),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, httpx.Response):
                self._count("callback", answer)
                if answer.headers.get("location") in {LOOPBACK_URL, f"{LOOPBACK_URL}/"}:
                    self._now = handle, did
            elif not isinstance(answer, httpx.TransportError):
                raise answer

    async def _log_out(self, browser: httpx.AsyncClient, url: str, did: str) -> None:
        # Which one it is that leaves is known to the app alone after a login with no answer.
        for one in self._mine:
            self._told.left.setdefault(one, time.time())
        answer = await browser.post(f"{url}/oauth/logout", headers={"origin": LOOPBACK_URL})
        self._count("logout", answer)
        if answer.status_code < 400 and self._now is not None and self._now[1] == did:
            self._now = None

    async def _call(self, browser: httpx.AsyncClient, url: str) -> None:
        """Open a page, which asks several workers at the same time."""
        others = [self._workers.any() for _ in range(self._random.choice((0, 0, 1, 3)))]
        urls = [url, *(one.url for one in others if one is not None)]
        answers = await asyncio.gather(
            *(browser.get(f"{one}/me", headers={"accept": "application/json"}) for one in urls),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, httpx.Response):
                self._look_at(answer)
            elif isinstance(answer, httpx.TransportError):
                self._told.statuses["no answer"] += 1
            else:
                raise answer

    def _look_at(self, answer: httpx.Response) -> None:
        self._count("call", answer)
        if answer.status_code == 401 and self._now is not None:
            self._told.signed_out[self._now[1]] = self._trace[-12:]
            self._now = None
        elif answer.status_code == 200:
            body: dict[str, str] = answer.json()
            if body["session"] != body["served"] or body["served"] not in self._mine:
                self._told.wrong.append(f"somebody was served as {body}, who is none of them")

    def _count(self, operation: str, answer: httpx.Response) -> None:
        self._trace.append(f"{time.time():.3f} {operation} {answer.status_code}")
        self._told.operations[operation] += 1
        self._told.statuses[f"{operation} {answer.status_code}"] += 1
        if answer.status_code == 500:
            self._told.wrong.append(f"{operation} was answered 500: {answer.text[:200]}")
