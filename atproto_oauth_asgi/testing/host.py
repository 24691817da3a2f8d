"""One origin of the network: a PDS and its authorization server, as one ASGI app."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import ASGIApp

from atproto_oauth_asgi.testing.accounts import Accounts
from atproto_oauth_asgi.testing.authorization_server import AuthorizationServer
from atproto_oauth_asgi.testing.client_registry import ClientRegistry
from atproto_oauth_asgi.testing.devices import Devices
from atproto_oauth_asgi.testing.dpop_verifier import ALGORITHMS, DPoPVerifier, NonceRotation
from atproto_oauth_asgi.testing.faults import Faults
from atproto_oauth_asgi.testing.interaction import Interaction
from atproto_oauth_asgi.testing.pages import error_page
from atproto_oauth_asgi.testing.pds import PDS
from atproto_oauth_asgi.testing.permission_sets import PermissionSets
from atproto_oauth_asgi.testing.request_log import RequestLog
from atproto_oauth_asgi.testing.sign_up import CreateAccount
from atproto_oauth_asgi.testing.site import Alterations, Site
from atproto_oauth_asgi.testing.web import (
    Answer,
    Handler,
    JSONObject,
    Request,
    json_answer,
    text_answer,
)


class Host:
    """Is a PDS and its authorization server on one origin."""

    def __init__(
        self,
        origin: str,
        *,
        apps: Mapping[str, ASGIApp],
        may_connect: Callable[[], bool],
        faults: Faults,
        alterations: Alterations,
        log: RequestLog,
        permission_sets: PermissionSets,
        clock: Callable[[], float],
        token_life: float,
        nonce_interval: float,
        client_cache: float,
        create_account: CreateAccount,
    ) -> None:
        self.origin = origin
        self.accounts = Accounts()
        self.nonces = NonceRotation(interval=nonce_interval, clock=clock)
        verifier = DPoPVerifier(nonces=self.nonces, clock=clock)
        self.authorization_server = AuthorizationServer(
            issuer=self._current_origin,
            accounts=self.accounts,
            registry=ClientRegistry(
                apps=apps, may_connect=may_connect, cache_seconds=client_cache, clock=clock
            ),
            verifier=verifier,
            faults=faults,
            log=log,
            permission_sets=permission_sets,
            clock=clock,
            token_life=token_life,
        )
        self.pds = PDS(
            origin=self._current_origin,
            accounts=self.accounts,
            sessions=self.authorization_server.sessions,
            verifier=verifier,
            log=log,
            clock=clock,
        )
        devices = Devices(issuer=self._current_origin, clock=clock)
        self.interaction = Interaction(self.authorization_server, devices, create_account)
        self.app = Site(self.answer, alterations)
        self._routes: dict[str, tuple[str, Handler]] = {
            "/": ("GET", self._front),
            "/.well-known/oauth-protected-resource": ("GET", self._protected_resource),
            "/.well-known/oauth-authorization-server": ("GET", self._server_metadata),
            "/.well-known/atproto-did": ("GET", self._handle_did),
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
        return text_answer(200, account.did)

    async def _protected_resource(self, _request: Request) -> Answer:
        body: JSONObject = {
            "resource": self.origin,
            "authorization_servers": [self.origin],
            "scopes_supported": [],
            "bearer_methods_supported": ["header"],
            "resource_documentation": "https://atproto.com",
        }
        return json_answer(200, body)

    async def _server_metadata(self, _request: Request) -> Answer:
        body = server_metadata(self.origin)
        return json_answer(200, body, ("cache-control", "max-age=300"))


def server_metadata(issuer: str) -> JSONObject:
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
        "protected_resources": [issuer],
        "client_id_metadata_document_supported": True,
        "prompt_values_supported": ["none", "login", "consent", "select_account", "create"],
    }
