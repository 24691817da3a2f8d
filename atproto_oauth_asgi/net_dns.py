"""Names to addresses and TXT records, each within a deadline."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, cast

from atproto_oauth_asgi.errors import Unreachable
from atproto_oauth_asgi.net_policy import NetPolicy

if TYPE_CHECKING:
    import dns.asyncresolver

# Threads of our own: a stranger's slow name server must not fill the loop's default executor,
# which the app uses for its own work. It keeps a thread for longer than anybody waits for it, so
# names that had an address last time have other threads than those that nobody knows: logins with
# silent names do not keep the servers of those who are signed in from being found. No name has
# two threads.
_THREADS = 16
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
#: How many names are known at the most.
_KNOWN = 4096


@dataclass(slots=True)
class _Asked:
    """Is one look-up in the threads, and how many wait for it."""

    work: Future[list[str]]
    answer: asyncio.Future[list[str]]
    waiting: int = 0


class Resolver:
    """Looks names up with the system resolver (addresses) and with dnspython (TXT)."""

    def __init__(self, policy: NetPolicy) -> None:
        self._policy = policy
        #: For names that are known, and for the others.
        self._threads: dict[bool, ThreadPoolExecutor] = {}
        self._asked: dict[str, _Asked] = {}
        #: The oldest first.
        self._known: dict[str, None] = {}
        self._dns: dns.asyncresolver.Resolver | None = None

    async def addresses(self, host: str, *, deadline: float) -> Sequence[str]:
        """Return the IP literals of a host name, in the resolver's order, never empty.

        Raises:
            Unreachable: The name has no address, or nobody said so within `deadline` seconds.
        """
        look_up = self._policy.resolve_host or self._system_addresses
        try:
            async with asyncio.timeout(deadline):
                found = await look_up(host)
        except (OSError, UnicodeError) as exc:  # TimeoutError is an OSError
            message = f"The name {host!r} did not resolve. Check the name and this machine's DNS."
            absent = isinstance(exc, socket.gaierror) and exc.errno in _NO_SUCH_NAME
            raise Unreachable(message, host=host, no_such_name=absent) from exc
        if not found:
            message = f"The name {host!r} has no address. Check the name."
            raise Unreachable(message, host=host, no_such_name=True)
        return found

    async def txt(self, name: str, *, deadline: float) -> list[bytes]:
        """Return the TXT records of a name, the character-strings of each joined.

        Raises:
            Unreachable: The name servers failed or did not answer within `deadline` seconds.
        """
        look_up = self._policy.resolve_txt or self._dns_txt
        try:
            async with asyncio.timeout(deadline):
                return list(await look_up(name))
        except OSError as exc:
            message = f"The TXT records of {name!r} could not be read. Check this machine's DNS."
            raise Unreachable(message, host=name) from exc

    async def aclose(self) -> None:
        """Let go of the look-up threads; those that still wait for an answer end by themselves."""
        for asked in list(self._asked.values()):
            asked.answer.cancel()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)
        self._threads.clear()

    async def _system_addresses(self, host: str) -> list[str]:
        asked = self._asked.get(host) or self._ask(host)
        asked.waiting += 1
        try:
            found = await asyncio.shield(asked.answer)
        except BaseException:
            # Silent, perhaps.
            self._known.pop(host, None)
            raise
        finally:
            asked.waiting -= 1
            if not asked.waiting and asked.work.cancel():
                # It had not begun: those who come later must not wait for it.
                self._forget(host, asked)
        self._known.pop(host, None)
        self._known[host] = None
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]
        return list(dict.fromkeys(found))

    def _answered(self, host: str, asked: _Asked, answer: asyncio.Future[list[str]]) -> None:
        self._forget(host, asked)
        if not answer.cancelled():
            # Whoever asked may have given up: then nobody else takes note of a failure.
            answer.exception()

    def _forget(self, host: str, asked: _Asked) -> None:
        if self._asked.get(host) is asked:
            del self._asked[host]

    def _ask(self, host: str) -> _Asked:
        known = host in self._known
        threads = self._threads.get(known)
        if threads is None:
            threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="atproto-oauth-dns")
            self._threads[known] = threads
        work = threads.submit(_addresses, host)
        asked = self._asked[host] = _Asked(work, asyncio.wrap_future(work))
        asked.answer.add_done_callback(partial(self._answered, host, asked))
        return asked

    async def _dns_txt(self, name: str) -> list[bytes]:
        # The import takes tenths of a second, so neither at start-up nor on the loop.
        await asyncio.to_thread(import_module, "dns.asyncresolver")
        import dns.asyncresolver
        import dns.exception
        import dns.resolver
        from dns.rdtypes.ANY.TXT import TXT

        try:
            if self._dns is None:
                self._dns = dns.asyncresolver.Resolver()
            answer = await self._dns.resolve(name, "TXT", search=False, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return []
        except dns.exception.DNSException as exc:
            message = f"The TXT records of {name!r} could not be read. Check this machine's DNS."
            raise Unreachable(message, host=name) from exc
        records = cast("Iterable[TXT]", answer.rrset or ())
        return [b"".join(record.strings) for record in records]


def _addresses(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]
