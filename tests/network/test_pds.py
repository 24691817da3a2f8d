"""What the PDS keeps: records and blobs."""

from __future__ import annotations

import pytest

from atproto_oauth_asgi.testing import Network
from tests.network.walker import Walker

pytestmark = pytest.mark.anyio


async def test_records_are_written_listed_read_and_deleted(
    walker: Walker, network: Network
) -> None:
    token = (await walker.login())["access_token"]
    did = network.account("alice.test").did
    first = (await walker.create_post(token, "one")).json()
    second = (await walker.create_post(token, "two")).json()
    rkey = first["uri"].rpartition("/")[2]
    where = {"repo": did, "collection": "app.bsky.feed.post"}
    url = walker.url("/xrpc/com.atproto.repo.listRecords")
    listed = (await walker.http.get(url, params={**where, "limit": "1"})).json()
    more = (await walker.http.get(url, params={**where, "cursor": listed["cursor"]})).json()
    read = await walker.http.get(
        walker.url("/xrpc/com.atproto.repo.getRecord"), params={**where, "rkey": rkey}
    )
    gone = await walker.xrpc(
        "com.atproto.repo.deleteRecord", token, method="POST", body={**where, "rkey": rkey}
    )
    missing = await walker.http.get(
        walker.url("/xrpc/com.atproto.repo.getRecord"), params={**where, "rkey": rkey}
    )

    assert first["uri"].startswith(f"at://{did}/app.bsky.feed.post/")
    assert first["cid"].startswith("bafyrei")
    assert len(first["cid"]) == 59
    assert first["validationStatus"] == "valid"
    assert [item["uri"] for item in listed["records"]] == [second["uri"]]
    assert [item["uri"] for item in more["records"]] == [first["uri"]]
    assert read.json()["value"]["text"] == "one"
    assert "commit" in gone.json()
    assert (missing.status_code, missing.json()["error"]) == (400, "RecordNotFound")


async def test_a_blob_comes_back(walker: Walker, network: Network) -> None:
    token = (await walker.login())["access_token"]
    answer = await walker.xrpc(
        "com.atproto.repo.uploadBlob", token, method="POST", data=b"png", content_type="image/png"
    )
    blob = answer.json()["blob"]
    query = {"did": network.account("alice.test").did, "cid": blob["ref"]["$link"]}
    back = await walker.http.get(walker.url("/xrpc/com.atproto.sync.getBlob"), params=query)

    assert blob["$type"] == "blob"
    assert blob["mimeType"] == "image/png"
    assert blob["size"] == 3
    assert blob["ref"]["$link"].startswith("bafkrei")
    assert back.content == b"png"


async def test_a_known_record_has_its_known_cid() -> None:
    from atproto_oauth_asgi.testing.cid import blob_cid, record_cid

    assert blob_cid(b"") == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert record_cid({}) == "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"
