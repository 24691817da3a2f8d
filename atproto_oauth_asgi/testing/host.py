"""One origin of the network: a PDS, an authorization server, or both, as one ASGI app."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp

from atproto_oauth_asgi.testing.accounts import Account, Accounts
from atproto_oauth_asgi.testing.authorization_server import AuthorizationServer
from atproto_oauth_asgi.testing.client_registry import ClientRegistry
from atproto_oauth_asgi.testing.dpop_verifier import ALGORITHMS, DPoPVerifier, NonceRotation
from atproto_oauth_asgi.testing.faults import Faults
from atproto_oauth_asgi.testing.interaction import Interaction
from atproto_oauth_asgi.testing.pages import error_page
from atproto_oauth_asgi.testing.pds import PDS
from atproto_oauth_asgi.testing.permission_sets import PermissionSets
from atproto_oauth_asgi.testing.request_log import RequestLog
from atproto_oauth_asgi.testing.site import Alterations, Site
from atproto_oauth_asgi.testing.web import (
    Answer,
    Handler,
    JSONObject,
    Request,
    json_answer,
    text_answer,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Is what all servers of a network have in common."""

    client_apps: Mapping[str, ASGIApp]
    may_connect: Callable[[], bool]
    faults: Faults
    alterations: Alterations
    log: RequestLog
    permission_sets: PermissionSets
    clock: Callable[[], float]
    token_life: float
    nonce_interval: float
    client_cache: float
    #: Makes the account that a person asks for on the pages of a host.
    sign_up: Callable[[Host, str, str, str], Account]


class Host:
    """Is one origin.

    Args:
        origin: Where it is.
        shared: What all servers have in common.
        pds: Whether accounts live here; without it the host is an entryway.
        entryway: The host whose authorization server signs the people of this PDS in; without one
            it has its own.
    """

    def __init__(
        self, origin: str, shared: Shared, *, pds: bool = True, entryway: Host | None = None
    ) -> None:
        self.origin = origin
        self.entryway = entryway
        self.accounts = Accounts()
        self.nonces = NonceRotation(interval=shared.nonce_interval, clock=shared.clock)
        self.app = Site(self.answer, shared.alterations)
        self._verifier = DPoPVerifier(nonces=self.nonces, clock=shared.clock)
        #: Origins of the PDSes whose people sign in here.
        self.resources: list[Host] = [self] if pds else []
        if entryway is None:
            self.authorization_server = self._new_server(shared)
            self.interaction = Interaction(self.authorization_server, self._sign_up(shared))
        else:
            self.authorization_server = entryway.authorization_server
            self.interaction = entryway.interaction
            entryway.accounts.join(self.accounts)
            entryway.resources.append(self)
        self.pds = PDS(
            origin=self._current_origin,
            accounts=self.accounts,
            sessions=self.authorization_server.sessions,
            verifier=self._verifier,
            log=shared.log,
            clock=shared.clock,
        )
        self._routes: dict[str, tuple[str, Handler]] = {
            "/": ("GET", self._front),
            "/.well-known/atproto-did": ("GET", self._handle_did),
            "/.well-known/did.json": ("GET", self._did_document),
        }
        if pds:
            self._routes["/.well-known/oauth-protected-resource"] = "GET", self._protected_resource
        if entryway is None:
            self._routes |= self._server_routes()

    def _new_server(self, shared: Shared) -> AuthorizationServer:
        return AuthorizationServer(
            issuer=self._current_origin,
            accounts=self.accounts,
            registry=ClientRegistry(
                apps=shared.client_apps,
                may_connect=shared.may_connect,
                cache_seconds=shared.client_cache,
                clock=shared.clock,
            ),
            verifier=self._verifier,
            faults=shared.faults,
            log=shared.log,
            permission_sets=shared.permission_sets,
            clock=shared.clock,
            token_life=shared.token_life,
        )

    def _sign_up(self, shared: Shared) -> Callable[[str, str, str], Account]:
        return lambda handle, password, email: shared.sign_up(self, handle, password, email)

    def _server_routes(self) -> dict[str, tuple[str, Handler]]:
        return {
            "/.well-known/oauth-authorization-server": ("GET", self._server_metadata),
            "/oauth/jwks": ("GET", self._jwks),
            "/oauth/par": ("POST", self.authorization_server.par),
            "/oauth/token": ("POST", self.authorization_server.token),
            "/oauth/revoke": ("POST", self.authorization_server.revoke),
            "/oauth/authorize": ("GET", self.interaction.open),
            "/oauth/authorize/sign-in": ("POST", self.interaction.sign_in),
            "/oauth/authorize/sign-up": ("POST", self.interaction.sign_up),
            "/oauth/authorize/choose": ("POST", self.interaction.choose),
            "/oauth/authorize/forget": ("POST", self.interaction.forget),
            "/oauth/authorize/consent": ("POST", self.interaction.consent),
        }

    def _current_origin(self) -> str:
        return self.origin

    async def answer(self, request: Request) -> Answer:
        """Answer any request."""
        if request.path.startswith("/xrpc/"):
            return await self.pds.xrpc(request)
        method, handler = self._routes.get(request.path, ("", None))
        if handler is None:
            return text_answer(404, "Not Found")
        if request.method == method:
            return await handler(request)
        if request.path.startswith("/oauth/authorize/"):
            # A person who opens the address that a form was sent to.
            return error_page("This page is no place to begin.", status=405)
        if method == "POST":
            return Answer(status=405, headers=(("allow", method),))
        return text_answer(404, "Not Found")

    async def _front(self, _request: Request) -> Answer:
        return text_answer(200, "This is a development PDS of the AT Protocol. Nothing is real.\n")

    async def _jwks(self, _request: Request) -> Answer:
        # Access tokens are HS256, so there is nothing to publish.
        return json_answer(200, {"keys": []})

    async def _handle_did(self, request: Request) -> Answer:
        account = self.accounts.find(request.host)
        if account is None or account.handle != request.host:
            return text_answer(404, "User not found")
        if account.handle_proof not in {"both", "well-known"}:
            return text_answer(404, "User not found")
        return text_answer(200, account.did)

    async def _did_document(self, request: Request) -> Answer:
        account = self.accounts.find(f"did:web:{request.host}")
        if account is None:
            return text_answer(404, "Not Found")
        return json_answer(200, account.document())

    async def _protected_resource(self, _request: Request) -> Answer:
        body: JSONObject = {
            "resource": self.origin,
            "authorization_servers": [self.authorization_server.issuer],
            "scopes_supported": [],
            "bearer_methods_supported": ["header"],
            "resource_documentation": "https://atproto.com",
        }
        return json_answer(200, body)

    async def _server_metadata(self, _request: Request) -> Answer:
        body = server_metadata(self.origin, [host.origin for host in self.resources])
        return json_answer(200, body, ("cache-control", "max-age=300"))


def server_metadata(issuer: str, resources: list[str]) -> JSONObject:
    """Return the authorization server metadata (RFC 8414), member by member the reference's."""
    encrypted: list[str] = []
    return {
        "issuer": issuer,
        "request_parameter_supported": True,
        "request_uri_parameter_supported": True,
        "require_request_uri_registration": True,
        "scopes_supported": [
            "atproto",
            "transition:email",
            "transition:generic",
            "transition:chat.bsky",
        ],
        "subject_types_supported": ["public"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "ui_locales_supported": ["en-US"],
        "display_values_supported": ["page", "popup", "touch"],
        "request_object_signing_alg_values_supported": [*ALGORITHMS, "none"],
        "authorization_response_iss_parameter_supported": True,
        "request_object_encryption_alg_values_supported": encrypted,
        "request_object_encryption_enc_values_supported": encrypted,
        "jwks_uri": f"{issuer}/oauth/jwks",
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "token_endpoint_auth_methods_supported": ["none", "private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "pushed_authorization_request_endpoint": f"{issuer}/oauth/par",
        "require_pushed_authorization_requests": True,
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
        "protected_resources": resources,
        "client_id_metadata_document_supported": True,
        "prompt_values_supported": ["none", "login", "consent", "select_account", "create"],
    }
