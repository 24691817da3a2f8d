"""The error tree: one root, a stable `code` for machines, a `sentence` for the person.

`str(error)` is for the developer and says what to do next; `sentence` may be shown to the person
who is signing in. Neither ever holds a token, key, code, state or cookie.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

from starlette.exceptions import HTTPException


class ATProtoOAuthError(Exception):
    """Is the root of every error that this package raises on purpose."""

    #: Stable slug, safe to switch on and to put into a URL.
    code: ClassVar[str] = "error"
    #: HTTP status of the answer when the error reaches the edge.
    status: ClassVar[int] = 500
    #: Whether the same action may succeed later without anybody changing anything.
    retryable: ClassVar[bool] = False
    #: One sentence for the person in front of the browser.
    sentence: str = "Something went wrong. Please try again."
    #: Seconds to wait before a retryable action is tried again.
    retry_after: int = 5

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.sentence)
        # Where a base between this one and `Exception` keeps the message for itself.
        self.args = (message or self.sentence,)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else self.sentence


def error_headers(error: ATProtoOAuthError) -> dict[str, str]:
    """Return the headers of an answer that reports an error."""
    headers = {"cache-control": "no-store"}
    if error.retryable:
        headers["retry-after"] = str(error.retry_after)
    return headers


class ConfigurationError(ATProtoOAuthError):
    """Says which setting is wrong or missing, why, and how to mend it."""

    code = "configuration"
    sentence = "This site's sign-in is not set up correctly."


class Detail(dict[str, object]):
    """Is an `HTTPException.detail` that Starlette prints as JSON and FastAPI nests as an object."""

    def encode(self, encoding: str = "utf-8") -> bytes:
        """Return the JSON text, which is what Starlette asks a detail for."""
        return json.dumps(self).encode(encoding)


class RequestError(ATProtoOAuthError, HTTPException):
    """Is an error that an app may let pass: any Starlette-based framework answers it rightly.

    `status_code`, `detail` and `headers` are filled for the connection by the accessors, so the
    answer is the same whether the middleware wraps the app or is added to it.
    """

    def __init__(self, message: str | None = None) -> None:
        ATProtoOAuthError.__init__(self, message)
        #: Where to sign in, when that helps and the connection is known.
        self.login_url: str | None = None
        self.status_code = self.status
        self.detail = Detail(error=self.code, message=self.sentence)  # type: ignore[assignment]  # printed by the framework, see Detail
        self.headers: Mapping[str, str] | None = {
            "content-type": "application/json",
            **error_headers(self),
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def login(self, url: str) -> None:
        """Say in the answer where to sign in."""
        self.login_url = url
        self.detail = Detail(error=self.code, message=self.sentence, login_url=url)  # type: ignore[assignment]  # as above


# --- The way out -----------------------------------------------------------------------------


class FetchError(RequestError):
    """Reports that another server could not be asked, or did not answer as it must."""

    code = "fetch_failed"
    status = 502
    sentence = "Another server did not answer as expected."

    def __init__(self, message: str | None = None, *, host: str | None = None) -> None:
        super().__init__(message)
        #: Host name of the server that was asked.
        self.host = host


class AddressRefused(FetchError):
    """Reports a URL that the guard does not let this process open (`atproto OAuth: Security`)."""

    code = "address_refused"
    status = 400
    sentence = "That address is not one this site may connect to."


class Unreachable(FetchError):
    """Reports a name that did not resolve, a refused or dropped connection, or a deadline."""

    code = "unreachable"
    retryable = True
    sentence = "Another server could not be reached. Please try again in a moment."

    def __init__(
        self,
        message: str | None = None,
        *,
        host: str | None = None,
        sent: bool = False,
        no_such_name: bool = False,
    ) -> None:
        super().__init__(message, host=host)
        #: Whether any byte of the request may have reached the server.
        self.sent = sent
        #: Whether the name servers say that there is no such name: it will not pass by itself.
        self.no_such_name = no_such_name


class BadAnswer(FetchError):
    """Reports an answer with the wrong status, type, size or shape."""

    code = "bad_answer"

    def __init__(
        self,
        message: str | None = None,
        *,
        host: str | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(message, host=host)
        #: Status of the answer, when there was one.
        self.http_status = http_status


# --- Identity and discovery ------------------------------------------------------------------


class ResolutionError(RequestError):
    """Reports that an account or its servers could not be found."""

    code = "resolution_failed"
    status = 400
    sentence = "That account could not be found."

    def __init__(self, message: str | None = None, *, identifier: str | None = None) -> None:
        super().__init__(message)
        #: What was being resolved: a handle, a DID or an origin.
        self.identifier = identifier


class InvalidIdentifier(ResolutionError):
    """Reports something typed that is neither a handle, a DID nor a server's address."""

    code = "invalid_identifier"
    sentence = "That does not look like a handle, a DID or a server address."


class HandleNotFound(ResolutionError):
    """Reports a handle that neither DNS nor HTTPS knows."""

    code = "handle_not_found"
    sentence = "That handle was not found. Please check the spelling."


class HandleNotVerified(ResolutionError):
    """Reports a handle that its own DID document does not claim back."""

    code = "handle_not_verified"
    sentence = "That handle is not confirmed by the account it points to."


class DIDNotFound(ResolutionError):
    """Reports a DID that its registry or host does not know, or that was deleted."""

    code = "did_not_found"
    sentence = "That account does not exist any more."


class UnsupportedDID(ResolutionError):
    """Reports a DID of a method or form that AT Protocol accounts do not have."""

    code = "unsupported_did"
    sentence = "That kind of account is not supported."


class InvalidDIDDocument(ResolutionError):
    """Reports a DID document that names no usable PDS or is not the DID's own."""

    code = "invalid_did_document"
    sentence = "That account has no usable server."


class IdentityUnavailable(ResolutionError):
    """Reports a passing failure of DNS, of the PLC directory or of a did:web host."""

    code = "identity_unavailable"
    status = 503
    retryable = True
    sentence = "That account could not be looked up right now. Please try again in a moment."


class PDSUnreachable(ResolutionError):
    """Reports that the account's server did not answer."""

    code = "pds_unreachable"
    status = 502
    retryable = True
    sentence = "The account's server could not be reached. Please try again in a moment."


class NotOAuthCapable(ResolutionError):
    """Reports a server whose metadata does not meet the atproto profile of OAuth."""

    code = "not_oauth_capable"
    status = 502
    sentence = "The account's server does not support this kind of sign-in."


# --- Login ----------------------------------------------------------------------------------


class LoginError(RequestError):
    """Reports why a login did not end in a session."""

    code = "login_failed"
    status = 400
    sentence = "Signing in did not work. Please try again."


class InvalidCallback(LoginError):
    """Reports a callback that this browser did not start, or that makes no sense.

    Nothing more is said on purpose: whoever lacks the browser binding learns no detail.
    """

    code = "invalid_callback"
    sentence = "This sign-in link is not valid here. Please start again."


class LoginExpired(LoginError):
    """Reports a callback that came after the attempt's 30 minutes."""

    code = "expired"
    sentence = "This sign-in took too long and has expired. Please start again."


class LoginCancelled(LoginError):
    """Reports that the person said no at the authorization server (`access_denied`)."""

    code = "cancelled"
    sentence = "Signing in was cancelled."


class InteractionRequired(LoginError):
    """Reports that a silent login needs the person (`login_required` and its kin)."""

    code = "interaction_required"
    sentence = "Please sign in again."


class IssuerMismatch(LoginError):
    """Reports an answer from another authorization server than the one asked (RFC 9207 §2.4)."""

    code = "issuer_mismatch"
    sentence = "The answer came from an unexpected server, so it was refused."


class AuthorizationFailed(LoginError):
    """Reports an error of the authorization server's that is nobody's choice.

    `error` is the OAuth error code (RFC 6749 §4.1.2.1, §5.2); it is the server's word.
    """

    code = "authorization_failed"
    status = 502
    sentence = "The account's server refused the sign-in."

    def __init__(self, message: str | None = None, *, error: str | None = None) -> None:
        super().__init__(message)
        self.error = error


class ScopeRefused(LoginError):
    """Reports that the server does not grant the scope asked for, or not even `atproto`."""

    code = "scope_refused"
    sentence = "The account's server did not grant the permissions this site asked for."


class TooManyLogins(LoginError):
    """Reports that logins are begun too often; see `LoginLimit`.

    Args:
        message: For the log.
        retry_after: Seconds to wait.
    """

    code = "too_many_logins"
    status = 429
    retryable = True
    sentence = "Too many sign-ins were started from your network. Please try again in a moment."

    def __init__(self, message: str | None = None, *, retry_after: int = 5) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class WrongAccount(LoginError):
    """Reports tokens for another account, or from a server not responsible for it."""

    code = "wrong_account"
    sentence = "You signed in with a different account than the one you entered."


class LoginRefused(LoginError):
    """Is raised by an app's `on_login` to turn somebody away; the tokens are revoked.

    Args:
        sentence: What the person is told.
    """

    code = "login_refused"
    status = 403
    sentence = "This site did not accept the sign-in."

    def __init__(self, sentence: str | None = None) -> None:
        if sentence:
            self.sentence = sentence
        super().__init__(sentence)


# --- At the edge ----------------------------------------------------------------------------


class CrossSiteRefused(RequestError):
    """Reports a state-changing request that did not come from our own pages."""

    code = "cross_site_refused"
    status = 403
    sentence = "This request did not come from this site, so it was refused."


class WrongHost(RequestError):
    """Reports a request under another host than BASE_URL's.

    Mend it by opening BASE_URL in the browser, or by fixing the proxy's host settings.
    """

    code = "wrong_host"
    status = 421
    sentence = "Please open this site under its own address."


class NotAuthenticated(RequestError):
    """Reports that the request carries no usable session."""

    code = "not_authenticated"
    status = 401
    sentence = "Please sign in."


class NoSession(RequestError):
    """Reports that no live session of the account covers the scopes asked for."""

    code = "no_session"
    status = 401
    sentence = "Please sign in."


class InsufficientScope(RequestError):
    """Reports that the session lacks permissions (RFC 6750 §3.1 `insufficient_scope`)."""

    code = "insufficient_scope"
    status = 403
    sentence = "This needs permissions that you have not granted yet."

    def __init__(self, message: str | None = None, *, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        #: The scopes that are not covered.
        self.missing = missing


class SessionRevoked(RequestError):
    """Reports that the grant behind a session is gone; `reason` is the row's ended reason."""

    code = "session_revoked"
    status = 401
    sentence = "You have been signed out. Please sign in again."

    def __init__(self, message: str | None = None, *, reason: str = "revoked") -> None:
        super().__init__(message)
        self.reason = reason


class RefreshFailed(RequestError):
    """Reports that the tokens could not be refreshed now; the session is kept."""

    code = "refresh_failed"
    status = 503
    retryable = True
    sentence = "The account's server is not answering right now. Please try again in a moment."


class XRPCError(RequestError):
    """Reports an error answer of the PDS to `query` or `procedure`.

    `http_status`, `error` and `server_message` are the server's words (XRPC: Error Responses),
    shortened to one line of 300 characters; `error` is `Unknown` where it is no error code.
    """

    code = "xrpc_error"
    status = 502
    sentence = "The account's server refused the request."

    def __init__(self, *, http_status: int, error: str, server_message: str = "") -> None:
        super().__init__(f"The PDS answered {http_status} {error}: {server_message}"[:500])
        self.http_status = http_status
        self.error = error
        self.server_message = server_message

    def __reduce__(self) -> tuple[object, ...]:
        # What is raised in a pool of processes is pickled, by default without keywords.
        words = (self.http_status, self.error, self.server_message)
        return _xrpc_error, words, self.__dict__


def _xrpc_error(http_status: int, error: str, server_message: str) -> XRPCError:
    return XRPCError(http_status=http_status, error=error, server_message=server_message)


# --- Stores and keys ------------------------------------------------------------------------


class StoreError(ATProtoOAuthError):
    """Reports that the store could not do what the contract promises."""

    code = "store_error"


class StoreUnavailable(StoreError, RequestError):
    """Reports a database that does not answer; nobody is signed out because of it."""

    code = "store_unavailable"
    status = 503
    retryable = True
    sentence = "Sign-in is not available right now. Please try again in a moment."


class SchemaOutOfDate(StoreError, ConfigurationError):
    """Reports a database whose tables are missing or behind; names the command to run."""

    code = "schema_out_of_date"


class SealBroken(StoreError):
    """Reports a sealed column that does not open: its key is missing, or the row was edited."""

    code = "seal_broken"

    def __init__(self, message: str | None = None, *, key_id: str | None = None) -> None:
        super().__init__(message)
        #: Id of the key that the envelope names, when it could be read.
        self.key_id = key_id


class ClientKeyMissing(ATProtoOAuthError):
    """Reports a session bound to a client key that CLIENT_KEYS no longer holds."""

    code = "client_key_missing"
    sentence = "You have been signed out. Please sign in again."

    def __init__(self, message: str | None = None, *, kid: str | None = None) -> None:
        super().__init__(message)
        self.kid = kid


def error_for(code: str, sentence: str | None = None) -> ATProtoOAuthError:
    """Return a new error of the class whose `code` this is; used to repeat an outcome."""
    if code == LoginRefused.code:
        return LoginRefused(sentence)
    waiting: list[type[ATProtoOAuthError]] = [LoginError, ResolutionError, FetchError]
    while waiting:
        kind = waiting.pop()
        if kind.code == code:
            return kind()
        waiting.extend(kind.__subclasses__())
    return StoreUnavailable() if code == StoreUnavailable.code else LoginError()
