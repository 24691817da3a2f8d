"""Names to addresses and TXT records, each within a deadline."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, cast

from atproto_oauth_asgi.errors import Unreachable
from atproto_oauth_asgi.net_policy import NetPolicy

if TYPE_CHECKING:
    import dns.asyncresolver

# Threads of our own: a stranger's slow name server must not fill the loop's default executor,
# which the app uses for its own work.
_THREADS = 16


class Resolver:
    """Looks names up with the system resolver (addresses) and with dnspython (TXT)."""

    def __init__(self, policy: NetPolicy) -> None:
        self._policy = policy
        self._threads: ThreadPoolExecutor | None = None
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
            raise Unreachable(message, host=host) from exc
        if not found:
            message = f"The name {host!r} has no address. Check the name."
            raise Unreachable(message, host=host)
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
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def _system_addresses(self, host: str) -> list[str]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="atproto-oauth-dns")
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _addresses, host)
        return list(dict.fromkeys(found))

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
