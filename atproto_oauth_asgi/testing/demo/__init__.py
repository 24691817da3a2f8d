"""A small site where people sign in with their AT Protocol account and write posts.

`atproto-oauth-asgi dev` serves it; `examples/demo` does so beside other networks too.
"""

from __future__ import annotations
