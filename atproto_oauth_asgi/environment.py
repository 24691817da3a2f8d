"""Reading the settings from environment variables."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypedDict, cast

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.keys import ClientKeys
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.sealing import parse_secret_keys

VARIABLE_PREFIX = "ATPROTO_OAUTH_"

_FILE = "_file"
_IN_FILES = frozenset({"secret_keys", "client_keys", "store_url"})
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class SettingsOptions(TypedDict, total=False):
    """Names the settings that may be left out."""

    client_name: str | None
    client_uri: str | None
    logo_uri: str | None
    tos_uri: str | None
    policy_uri: str | None
    scope: str
    optional_scope: str
    store_url: str
    secret_keys: tuple[bytes, ...]
    client_keys: ClientKeys | None
    keep_alive: bool
    prefix: str
    trusted_origins: tuple[str, ...]
    session_max_age: int
    cookie_name: str
    login_page: str | None
    plc_url: str
    handle_resolver_url: str | None
    egress_proxy: str | None
    ca_file: str | None
    allow_private_hosts: tuple[str, ...]
    allow_insecure_loopback: bool
    net_policy: NetPolicy | None


class SettingsOverrides(SettingsOptions, total=False):
    """Names the keywords that stand in for the environment."""

    base_url: str


#: The settings that have an environment variable.
SETTINGS = frozenset(SettingsOverrides.__annotations__) - {"net_policy"}


def read_environment(
    environ: Mapping[str, str], *, names: Collection[str] = SETTINGS
) -> SettingsOverrides:
    """Read the named settings from `ATPROTO_OAUTH_…` variables, where they are set.

    `SECRET_KEYS`, `CLIENT_KEYS` and `STORE_URL` may instead be the path of a file, under the name
    with `_FILE` behind it. Lists are separated by commas or white space. An empty variable counts
    as not set.

    Raises:
        ConfigurationError: A variable has an unknown name, is given twice, or cannot be read.
    """
    texts: dict[str, str] = {}
    for variable, text in environ.items():
        if not variable.upper().startswith(VARIABLE_PREFIX):
            continue
        name = variable.upper().removeprefix(VARIABLE_PREFIX).lower()
        bare = name if name in SETTINGS else name.removesuffix(_FILE)
        if bare not in (SETTINGS if bare == name else _IN_FILES):
            raise ConfigurationError(_unknown(variable, name))
        if not text.strip() or bare not in names:
            continue
        if bare in texts:
            raise ConfigurationError(
                f"{VARIABLE_PREFIX}{bare.upper()} is set and {bare.upper()}_FILE too; keep one of"
                " them."
            )
        texts[bare] = text.strip() if bare == name else _contents(variable, text.strip())
    read = {name: _READERS.get(name, str)(text) for name, text in texts.items()}
    return cast("SettingsOverrides", read)


def _unknown(variable: str, name: str) -> str:
    known = [*SETTINGS, *(bare + _FILE for bare in _IN_FILES)]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return (
        f"{variable} is not a setting, so it would do nothing; did you mean"
        f" {VARIABLE_PREFIX}{near[0].upper()}?"
    )


def _contents(variable: str, path: str) -> str:
    # The path is not echoed: it may be the secret itself, set under the wrong name.
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else None) or "not a text file"
        raise ConfigurationError(
            f"{variable} names a file that cannot be read ({reason}); correct the path or the"
            " file's permissions."
        ) from exc
    if not text:
        raise ConfigurationError(f"{variable} names an empty file; fill it or unset the variable.")
    return text


def _list(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[\s,]+", text) if word)


def _seconds(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text):
        raise ConfigurationError(
            "SESSION_MAX_AGE is not a number of seconds; write digits only, such as 1209600 for 14"
            " days."
        )
    return int(text)


def _flag(name: str) -> Callable[[str], bool]:
    def read(text: str) -> bool:
        if text.lower() not in _TRUE | _FALSE:
            raise ConfigurationError(
                f"{name} is neither on nor off; write 1 to turn it on, or unset it."
            )
        return text.lower() in _TRUE

    return read


_READERS: Mapping[str, Callable[[str], object]] = {
    "secret_keys": parse_secret_keys,
    "client_keys": ClientKeys,
    "trusted_origins": _list,
    "session_max_age": _seconds,
    "allow_private_hosts": _list,
    "allow_insecure_loopback": _flag("ALLOW_INSECURE_LOOPBACK"),
    "keep_alive": _flag("KEEP_ALIVE"),
}
