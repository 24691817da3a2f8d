"""An author's app, loaded and led to the development network by name of module and attribute."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, cast

from starlette.types import ASGIApp

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.testing.finding import oauths_in

#: Tells a process that uvicorn starts anew what to load. It begins like none of our settings,
#: since an unknown one of those stops every app.
VARIABLE = "ATPROTO_DEV_APP"

#: Overrides that last as long as the process.
_for_good = ExitStack()


class CannotLoad(Exception):
    """Says in a sentence why an app cannot be served, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Is where an app comes from."""

    #: `module:attribute`.
    name: str
    factory: bool
    folder: str
    #: Where it is served.
    url: str

    def to_environment(self) -> dict[str, str]:
        """Return what `from_environment` reads."""
        return {VARIABLE: json.dumps(asdict(self))}


def from_environment() -> ASGIApp:
    """Load the app in a process that was started for it: a factory for uvicorn."""
    try:
        return load(Source(**json.loads(os.environ[VARIABLE])), os.environ)
    except CannotLoad as exc:
        sys.exit(str(exc))


def load(source: Source, environ: Mapping[str, str]) -> ASGIApp:
    """Import an app, and let whatever logs people in there reach the network of `environ`.

    Raises:
        CannotLoad: It is not there, or cannot run beside a development network.
    """
    app = _import(source)
    show_reasons()
    policy = NetPolicy(
        allow_insecure_loopback=True,
        plc_url=environ["ATPROTO_OAUTH_PLC_URL"],
        handle_resolver_url=environ["ATPROTO_OAUTH_HANDLE_RESOLVER_URL"],
    )
    for oauth in oauths_in(app):
        base_url, origin = oauth.settings.base_url, oauth.settings.origin
        if not oauth.settings.loopback:
            raise CannotLoad(
                f"BASE_URL is {base_url}, but the development network is for apps on this machine"
                f" only; set ATPROTO_OAUTH_BASE_URL={source.url} while you develop."
            )
        if not f"{source.url}/".startswith(f"{origin}/"):
            raise CannotLoad(
                f"BASE_URL is {base_url}, but the app is about to be served at {source.url}, where"
                " its cookies and redirects would not work; leave BASE_URL to this command, or"
                f" choose --port {oauth.settings.base.port}."
            )
        # Not every app reads its settings from the environment.
        _for_good.enter_context(oauth.override(net_policy=policy))
    return app


def _import(source: Source) -> ASGIApp:
    module_name, colon, attribute = source.name.partition(":")
    if not (module_name and colon and attribute):
        raise CannotLoad(
            f"{source.name!r} names no app; write module and attribute, such as package.module:app."
        )
    if source.folder not in sys.path:
        sys.path.insert(0, source.folder)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        if source.factory:
            found = found()
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise
        raise CannotLoad(
            f"There is no module {exc.name} in {source.folder}; run this where your app lies, or"
            " say where that is with --app-dir."
        ) from exc
    except AttributeError as exc:
        if exc.name not in attribute.split("."):
            raise
        raise CannotLoad(
            f"The module {module_name} has no {attribute!r}; name the attribute that holds the app."
        ) from exc
    except ConfigurationError as exc:
        raise CannotLoad(str(exc)) from exc
    if not callable(found):
        raise CannotLoad(f"{source.name} is no ASGI app; name the attribute that holds the app.")
    if inspect.isfunction(found) and not inspect.signature(found).parameters:
        raise CannotLoad(f"{source.name} takes no request; if it makes the app, add --factory.")
    return cast("ASGIApp", found)


class _Reasons(logging.Formatter):
    """Shows why a login failed, which the library puts beside its messages."""

    def format(self, record: logging.LogRecord) -> str:
        why = getattr(record, "why", None)
        return super().format(record) + (f": {why}" if why else "")


def show_reasons() -> None:
    """Print the library's warnings with their reasons."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Reasons("%(levelname)s:  %(message)s"))
    logger = logging.getLogger("atproto_oauth_asgi")
    logger.addHandler(handler)
    logger.propagate = False
