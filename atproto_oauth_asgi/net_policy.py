"""What the way out may do: one frozen value, given to `Net`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp


@dataclass(frozen=True, slots=True, kw_only=True)
class NetPolicy:
    """Says which servers this process may talk to, and how.

    The defaults are those of production: https on port 443, public addresses, verified names.
    """

    #: Allow http and any port, but only where the host is 127.0.0.1, [::1] or localhost, which is
    #: then dialled without DNS. A name that merely resolves to loopback stays refused.
    allow_insecure_loopback: bool = False
    #: Host names that may have any address, and CIDRs that are allowed under any name. Scheme,
    #: port and certificate are checked as ever.
    allow_private_hosts: tuple[str, ...] = ()
    #: Ports that may be dialled; `None` means any.
    ports: frozenset[int] | None = frozenset({443})
    #: PEM file of authorities to trust beside the usual ones.
    ca_file: str | None = None
    #: URL of an HTTP proxy for everything but loopback, see `Net`.
    egress_proxy: str | None = field(default=None, repr=False)
    #: Origin of the PLC directory.
    plc_url: str = "https://plc.directory"
    #: Origin of an XRPC service that resolves handles instead of DNS and HTTPS.
    handle_resolver_url: str | None = None
    #: Accept an https BASE_URL with a port or a private name. For tests.
    any_client_id: bool = False
    #: Replaces the system resolver: host name to IP literals, which are judged all the same.
    resolve_host: Callable[[str], Awaitable[Sequence[str]]] | None = None
    #: Replaces the DNS look-up of TXT records: name to one bytes value for each record.
    resolve_txt: Callable[[str], Awaitable[Sequence[bytes]]] | None = None
    #: Origins (lower case, no default port, no path) answered by an ASGI app in this process.
    #: No address is asked about them, because no socket is opened.
    apps: Mapping[str, ASGIApp] = field(default_factory=dict[str, ASGIApp])
