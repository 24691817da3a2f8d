"""People sign in, note what they listen to, and publish it when they allow that.

Its settings are `DATABASE_URL` and `ATPROTO_OAUTH_…`; one database holds the app's tables and the
sessions. `alembic -c examples/listening/alembic.ini upgrade heads` makes both.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from atproto_oauth_asgi import (
    ATProtoOAuth,
    ATProtoOAuthError,
    ATProtoOAuthMiddleware,
    Login,
    LoginRefused,
    OAuthSession,
    covers,
    error_response,
    requires_scope,
    session_from,
)
from examples.listening.database import DATABASE_URL, Play, database, engine, welcome
from examples.listening.publishing import PUBLISH, publish, publish_waiting

DEFAULTS = {
    "ATPROTO_OAUTH_BASE_URL": "http://127.0.0.1:8000",
    "ATPROTO_OAUTH_CLIENT_NAME": "Listening",
    # Everybody is asked for their name only; who wants to publish is asked for more then.
    "ATPROTO_OAUTH_OPTIONAL_SCOPE": PUBLISH,
    "ATPROTO_OAUTH_STORE_URL": DATABASE_URL,
}

Database = Annotated[AsyncSession, Depends(database)]
SignedIn = Annotated[OAuthSession, Depends(session_from)]
MayPublish = Annotated[OAuthSession, Depends(requires_scope(PUBLISH))]


class NewPlay(BaseModel):
    artist: str = Field(min_length=1, max_length=200)
    track: str = Field(min_length=1, max_length=200)


async def on_login(login: Login) -> None:
    user = await welcome(login.did, login.handle)
    if user.closed:
        raise LoginRefused("This account has been closed here.")


oauth = ATProtoOAuth.from_env({**DEFAULTS, **os.environ}, on_login=on_login)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    yield
    await engine.dispose()


app = FastAPI(title="Listening", lifespan=lifespan)
app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
app.add_exception_handler(ATProtoOAuthError, error_response)

#: Who watches plays come in: one queue for each open socket of this process.
watching: set[asyncio.Queue[dict[str, str]]] = set()


@app.get("/api/me")
async def me(request: Request, session: SignedIn) -> dict[str, object]:
    accounts = [
        {"did": account.did, "handle": account.handle, "active": account.active}
        for account in await oauth.sessions(request)
    ]
    publishes = covers(session.scopes, PUBLISH)
    return {
        "did": session.did,
        "handle": session.handle,
        "publishes": publishes,
        "accounts": accounts,
    }


@app.post("/api/me/{did}")
async def switch(request: Request, did: str) -> dict[str, str]:
    await oauth.switch(request, did)
    return {"did": did}


@app.get("/api/plays")
async def plays(session: SignedIn, db: Database) -> list[dict[str, str | None]]:
    mine = select(Play).where(Play.did == session.did).order_by(Play.id.desc()).limit(100)
    return [
        {"artist": play.artist, "track": play.track, "uri": play.uri}
        for play in await db.scalars(mine)
    ]


@app.post("/api/plays", status_code=201)
async def note(
    new: NewPlay, session: SignedIn, db: Database, background: BackgroundTasks
) -> dict[str, int]:
    play = Play(did=session.did, artist=new.artist, track=new.track)
    db.add(play)
    await db.commit()
    for queue in watching:
        if not queue.full():
            queue.put_nowait({"did": session.did, "artist": new.artist, "track": new.track})
    if covers(session.scopes, PUBLISH):
        # Runs after the answer is sent: a slow PDS keeps nobody waiting.
        background.add_task(publish_waiting, oauth, session.did)
    return {"id": play.id}


@app.post("/api/plays/{number}/publish")
async def publish_now(number: int, session: MayPublish, db: Database) -> dict[str, str | None]:
    play = await db.get(Play, number)
    if play is None or play.did != session.did:
        return {"uri": None}
    if play.uri is None:
        await publish(session, play)
        await db.commit()
    return {"uri": play.uri}


@app.websocket("/live")
async def live(websocket: WebSocket, session: SignedIn) -> None:
    queue: asyncio.Queue[dict[str, str]] = asyncio.Queue(100)

    async def send() -> None:
        while True:
            await websocket.send_json(await queue.get())

    await websocket.accept()
    await websocket.send_json({"hello": session.handle or session.did})
    watching.add(queue)
    sending = asyncio.create_task(send())
    try:
        async for _ in websocket.iter_text():
            pass  # nothing is expected; this ends when the browser leaves
    finally:
        watching.discard(queue)
        sending.cancel()
