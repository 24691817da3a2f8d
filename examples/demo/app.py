"""The demo as an ASGI app, configured by `ATPROTO_OAUTH_…`.

For example: `ATPROTO_OAUTH_BASE_URL=http://127.0.0.1:8000 uvicorn examples.demo.app:app`
"""

from __future__ import annotations

import os

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.testing.demo.site import DEFAULTS, make_app

oauth = ATProtoOAuth.from_env({**DEFAULTS, **os.environ})
app = make_app(oauth)
