"""The demo beside a network of choice; the site itself is `atproto_oauth_asgi.testing.demo`."""

from __future__ import annotations
