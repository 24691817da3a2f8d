"""The development server's own secret key, kept in a file beside its database."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.sealing import generate_secret_key, parse_secret_keys


def read_key_file(path: Path) -> tuple[bytes, ...] | None:
    """Return the keys of a key file, or `None` when there is no such file.

    Raises:
        ConfigurationError: The file cannot be read or does not hold keys.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigurationError(
            f"The key file {path} cannot be read; give this process access to it, or set"
            " SECRET_KEYS."
        ) from exc
    with suppress(ConfigurationError, UnicodeError):
        if keys := parse_secret_keys(content.decode()):
            return keys
    raise ConfigurationError(
        f"The key file {path} does not hold a key; put it back from a backup, or delete it and"
        " the database beside it, which cannot be opened without it."
    )


def make_key_file(path: Path) -> tuple[bytes, ...]:
    """Make the key file, or read the one that another process made first.

    The file appears whole and readable by its owner only, or not at all, wherever this process
    dies on the way.

    Raises:
        ConfigurationError: The file can be neither made nor read.
    """
    text = generate_secret_key()
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(f"{text}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            # Unlike a rename, a link never replaces the file of another process.
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    except OSError as exc:
        raise ConfigurationError(
            f"The key file {path} cannot be made; let this process write there, or set"
            " SECRET_KEYS, made with `atproto-oauth-asgi secrets generate`."
        ) from exc
    keys = read_key_file(path)
    if keys is None:
        raise ConfigurationError(f"The key file {path} leads nowhere; delete it and start again.")
    return keys
