from __future__ import annotations

import json
import secrets

from starlette.types import Receive, Scope, Send

from tests.network.walker import JSON, Key


class ClientSite:
    """Is the web site of confidential clients: each scenario has a folder of its own."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self._folders: dict[str, ClientFolder] = {}

    def folder(self, *keys: Key) -> ClientFolder:
        """Publish one more client with these keys."""
        name = "c-" + secrets.token_hex(6)
        folder = self._folders[name] = ClientFolder(f"{self.origin}/{name}", *keys)
        return folder

    def origins(self) -> dict[str, str]:
        """Map the folders to the name that outcomes use."""
        folders = {folder.base: "<client>" for folder in self._folders.values()}
        return {**folders, self.origin: "<client site>"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        name, _, file = scope["path"].removeprefix("/").partition("/")
        folder = self._folders.get(name)
        status, body = 404, b"nothing here"
        headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"text/plain"),)
        if folder is not None:
            found = folder.documents().get(file)
            if found is not None:
                status, headers, body = folder.status, folder.headers, found
            if file in folder.files:
                body, kind = folder.files[file]
                status, headers = 200, ((b"content-type", kind.encode()),)
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": body})


class ClientFolder:
    """Is one client; its documents can be changed or taken away."""

    def __init__(self, base: str, *keys: Key) -> None:
        self.base = base
        self.client_id = f"{base}/client-metadata.json"
        self.redirect_uri = f"{base}/callback"
        self.status = 200
        self.headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)
        self.metadata: JSON | None = {
            "client_id": self.client_id,
            "redirect_uris": [self.redirect_uri],
            "scope": "atproto transition:generic",
            "response_types": ["code"],
            "grant_types": ["authorization_code", "refresh_token"],
            "application_type": "web",
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": "ES256",
            "dpop_bound_access_tokens": True,
            "jwks_uri": f"{base}/jwks.json",
        }
        self.raw_metadata: bytes | None = None
        #: Further files: content and media type.
        self.files: dict[str, tuple[bytes, str]] = {}
        self.jwks: JSON | None = None
        self.publish(*keys)

    def publish(self, *keys: Key) -> None:
        """Publish these keys and no others."""
        self.jwks = {"keys": [key.published for key in keys]}

    def change(self, **members: object) -> None:
        """Replace members of the metadata; `None` removes one."""
        merged = {**(self.metadata or {}), **members}
        self.metadata = {name: value for name, value in merged.items() if value is not None}

    def answer_with(self, content_type: str) -> None:
        """Serve the documents under another media type."""
        self.headers = ((b"content-type", content_type.encode()),)

    def redirect_to(self, url: str) -> None:
        """Answer with a redirect instead of a document."""
        self.status = 302
        self.headers = ((b"location", url.encode()),)

    def documents(self) -> dict[str, bytes]:
        """Return the files that there are."""
        metadata = self.raw_metadata
        if metadata is None and self.metadata is not None:
            metadata = json.dumps(self.metadata).encode()
        files = {} if metadata is None else {"client-metadata.json": metadata}
        if self.jwks is not None:
            files["jwks.json"] = json.dumps(self.jwks).encode()
        return files
