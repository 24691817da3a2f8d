"""Generated questions of syntax: mutations of what is nearly right, the same for a seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, cast

VECTORS: dict[str, Any] = json.loads(
    Path(__file__).with_name("vectors.json").read_text(encoding="utf-8")
)

_ODD = (
    "abzABZ059-_.:/?#@%&=+*~!$'(),;[]{}|^`\\\" <>\t\n\r\0\x7f\u00e9\u0130\u2028\uff0e",
    ("%3A", "%23", "%3a", "%2F", "%00", "%", "..", "//", "https://", ":443", ":", "did:", "?a=1"),
)
_NSIDS = (
    "app.bsky.feed.post",
    "app.bsky.feed.like",
    "app.bsky.actor.getProfile",
    "chat.bsky.convo.sendMessage",
    "com.example.post",
    "com.example.sub.get",
    "com.example.authBasic",
    "com.examplex.post",
    "org.other.a-b.item",
    "com.exa.x1.y2z",
    "com.example",
    "com.example.",
    "com.example.3d",
    "com.example.a_b",
    "1com.example.x",
    "COM.example.Post",
)
_SERVICES = (
    "did:web:api.bsky.app#bsky_appview",
    "did:web:api.example.com#svc",
    "did:plc:ewvi7nxzyoun6zhxrhs64oiz#labeler",
    "did:web:localhost%3A1234#x",
    "did:web:api.example.com",
    "did:web:a.com#a#b",
    "did:key:zfoo#a",
    "did:web:a.com:path#x",
    "did:web:A.com#x",
    "did:web:a_b.com#x",
    "did:web:a..b#x",
    "did:web:-a.com#x",
    "did:web:10.0.0.1#x",
    "did:web:a.com#x%20y",
    "did:web:a.com#x y",
    "did:web:a.com#x%2",
    "*",
)
_MIMES = (
    "image/png",
    "image/*",
    "*/*",
    "image/svg+xml",
    "video/mp4",
    "Image/PNG",
    "*/png",
    "*",
    "image",
    "image/",
    "/png",
    "a/b/c",
    "text/plain;charset=utf-8",
    "application/vnd.a-b.c+json",
    "ima*e/png",
    "image/p*g",
)


def mutated(random: Random, text: str) -> str:
    """Return a text with a few of its characters changed, dropped, doubled or moved."""
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        at = random.randrange(len(text) + 1)
        end = min(len(text), at + random.randrange(1, 4))
        odd = random.choice((random.choice(_ODD[0]), random.choice(_ODD[1])))
        text = random.choice(
            (
                text[:at] + odd + text[at:],
                text[:at] + text[end:],
                text[:at] + odd + text[end:],
                text[:end] + text[at:],
                text[:at] + text[at:end].swapcase() + text[end:],
            )
        )
    return text


def _texts(*seeds: str) -> Callable[[Random], str]:
    return lambda random: mutated(random, random.choice(seeds))


def _long(random: Random) -> str:
    labels = ["a" * random.choice((1, 61, 62, 63, 64)) for _ in range(random.randrange(1, 6))]
    return ".".join([*labels, random.choice(("com", "c0m", "0com", "co-m", "", "x" * 63))])


_handles = _texts(
    "alice.bsky.social", "a.b", "xn--bcher-kva.example.com", "8.cn", "a-b.c-d.org", "john.test",
    "A.B.CO", "a.b.c.d.e.f.g", "laptop.local", "4chan.org", "ali--ce.example.co",
)  # fmt: skip


def _handle(random: Random) -> str:
    return _long(random) if random.random() < 0.2 else _handles(random)


_nsid = _texts(*_NSIDS)
_dids = _texts(
    "did:plc:ewvi7nxzyoun6zhxrhs64oiz", "did:web:example.com", "did:web:localhost%3A1234",
    "did:web:localhost", "did:web:a-b.example.co.uk", "did:web:example.com%3A8080",
    "did:web:example.com:user", "did:key:zQ3shZc2QzApp2oymGvQbzP8eKheVshBHbU4ZYjeXqwSKEn6N",
    "did:method1:val", "did:m:v", "did:web:127.0.0.1", "did:web:foo", "did:web:a_b.com",
    "did:web:Example.com", "did:web:xn--a.com", "did:web:a.com.", "did:web:[--1]",
)  # fmt: skip


def _value(random: Random, value: str) -> str:
    """Write a parameter's value as it is, or with something of it percent-encoded."""
    if random.random() < 0.5:
        value = value.replace("#", "%23").replace("+", "%2B")
    if random.random() < 0.1:
        at = random.randrange(len(value) + 1)
        value = (
            value[:at] + "".join(f"%{ord(one):02X}" for one in value[at : at + 1]) + value[at + 1 :]
        )
    return mutated(random, value) if random.random() < 0.1 else value


_PARAMETERS: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "repo": (("collection", (*_NSIDS, "*", "*")), ("action", ("create", "update", "delete", "*"))),
    "rpc": (("lxm", (*_NSIDS, "*")), ("aud", _SERVICES)),
    "blob": (("accept", _MIMES),),
    "account": (("attr", ("email", "repo", "status", "*")), ("action", ("read", "manage", "x"))),
    "identity": (("attr", ("handle", "*", "did")),),
    "include": (("nsid", _NSIDS), ("aud", _SERVICES)),
}


def scope_token(random: Random) -> str:
    """Return a scope token that is often right."""
    if random.random() < 0.1:
        static = ("atproto", "transition:generic", "transition:email", "transition:chat.bsky")
        return mutated(random, random.choice(static))
    resource = random.choice(list(_PARAMETERS))
    (first, values), *others = _PARAMETERS[resource]
    token, pairs = resource, list[str]()
    if random.random() < 0.75:
        token += ":" + _value(random, random.choice(values))
    else:
        pairs += [
            f"{first}={_value(random, random.choice(values))}" for _ in range(random.choice((1, 2)))
        ]
    for name, known in others:
        times = random.choice((0, 1, 1, 1, 2))
        pairs += [f"{name}={_value(random, random.choice(known))}" for _ in range(times)]
    if random.random() < 0.05:
        pairs.append(random.choice(("x=y", "inheritAud=true", "maxSize=1", "=", "", f"{first}=*")))
    random.shuffle(pairs)
    token += "?" + "&".join(pairs) if pairs or random.random() < 0.05 else ""
    return mutated(random, token) if random.random() < 0.15 else token


def _scope_string(random: Random) -> str:
    separator = random.choice((" ", " ", " ", "  ", "\t"))
    words = random.choices(
        (
            "atproto",
            "transition:generic",
            "repo:*",
            "atprotox",
            "xatproto",
            "",
            '"',
            "\\",
            "\u00e9",
        ),
        k=random.randrange(4),
    )
    return (
        mutated(random, separator.join(words)) if random.random() < 0.3 else separator.join(words)
    )


def _expansion(random: Random) -> dict[str, object]:
    case: dict[str, object] = {
        "nsid": random.choice(("com.example.authBasic", "app.bsky.authFull", "com.example.sub.set"))
    }
    if random.random() < 0.6:
        case["aud"] = random.choice(_SERVICES[:4])
    case["perms"] = [_entry(random) for _ in range(random.randrange(1, 4))]
    return case


def _entry(random: Random) -> dict[str, object]:
    def some(values: tuple[str, ...]) -> object:
        listed: list[object] = list(random.choices(values, k=random.choice((0, 1, 1, 2, 3))))
        return random.choice((listed, listed, listed, listed, listed, random.choice(values)))

    resource = random.choice(("repo", "repo", "rpc", "rpc", "rpc", "blob", "account", "include"))
    entry: dict[str, object] = {"type": "permission", "resource": resource}
    if resource == "repo":
        entry["collection"] = some((*_NSIDS[:9], "*"))
        if random.random() < 0.4:
            entry["action"] = some(("create", "update", "delete", "x"))
    elif resource == "rpc":
        entry["lxm"] = some((*_NSIDS[:9], "*"))
        if random.random() < 0.6:
            entry["aud"] = random.choice(("*", "*", *_SERVICES[:2]))
        if random.random() < 0.5:
            entry["inheritAud"] = random.choice((True, True, False, "true", 1))
    elif resource == "blob":
        entry["accept"] = some(_MIMES)
    else:
        entry["attr"] = "email"
    if random.random() < 0.05:
        entry[random.choice(("x", "collection", "description"))] = random.choice(("y", ["y"]))
    return entry


def _allows(random: Random) -> dict[str, object]:
    granted = ["atproto", *(scope_token(random) for _ in range(random.randrange(1, 4)))]
    if random.random() < 0.3:
        granted.append(
            random.choice(("transition:generic", "transition:chat.bsky", "transition:email"))
        )
    resource = random.choice(("Account", "Identity", "Blob", "Repo", "Rpc"))
    options = {
        "Account": {
            "attr": random.choice(("email", "repo")), "action": random.choice(("read", "manage"))
        },
        "Identity": {"attr": random.choice(("handle", "*"))},
        "Blob": {"mime": random.choice(("image/png", "image/svg+xml", "video/mp4", "a/b"))},
        "Repo": {
            "collection": random.choice(_NSIDS[:8]),
            "action": random.choice(("create", "update", "delete")),
        },
        "Rpc": {"lxm": random.choice((*_NSIDS[:8],)), "aud": random.choice(_SERVICES[:4])},
    }[resource]  # fmt: skip
    granted = [token for token in granted if token and " " not in token and token.isprintable()]
    return {"granted": " ".join(granted), "resource": resource, "options": options}


_REDIRECTS = (
    "http://127.0.0.1/", "http://127.0.0.1/cb", "http://127.0.0.1:8000/cb", "http://[::1]/cb",
    "http://[::1]:3000/cb", "http://127.0.0.1", "http://127.0.0.1/cb/", "http://127.0.0.1/cb?x=1",
    "https://app.example.com/cb", "http://localhost/cb", "http://127.0.0.1:80/cb",
    "http://[::1]", "http://127.0.0.1:8080/%63b", "http://127.0.0.1/a/../cb",
)  # fmt: skip


def _redirect_match(random: Random) -> dict[str, str]:
    registered = random.choice(_REDIRECTS)
    requested = random.choice((registered, random.choice(_REDIRECTS)))
    return {"registered": registered, "requested": mutated(random, requested)}


def _client_id(random: Random) -> str:
    pairs: list[str] = []
    if random.random() < 0.7:
        scope = random.choice(("atproto", "atproto+repo:*", "repo:*", "atproto%20blob:*/*", ""))
        pairs.append(f"scope={scope}")
    for _ in range(random.choice((0, 1, 1, 2))):
        uri = random.choice((*_REDIRECTS, "http://localhost/", "https://127.0.0.1/"))
        pairs.append("redirect_uri=" + uri.replace("?", "%3F").replace("&", "%26"))
    random.shuffle(pairs)
    head = random.choice(("http://localhost", "http://localhost", "http://localhost/"))
    text = head + ("?" + "&".join(pairs) if pairs else "")
    return mutated(random, text) if random.random() < 0.4 else text


_issuer = _texts(
    "https://bsky.social", "https://auth.example.com:8443", "https://pds.example.com",
    "http://localhost:2583", "http://127.0.0.1:2583", "http://[::1]:2583", "https://10.0.0.1",
    "https://bsky.social/path", "https://a-b.xn--p1ai", "https://[2001:db8::1]",
)  # fmt: skip


def _token_response(random: Random) -> dict[str, object]:
    document: dict[str, object] = {
        "access_token": "a.b-c_d",
        "token_type": "DPoP",
        "sub": "did:plc:ewvi7nxzyoun6zhxrhs64oiz",
        "scope": "atproto transition:generic",
        "refresh_token": "ref-1",
        "expires_in": 300,
    }
    wrong: tuple[object, ...] = (None, 1, "", True, [], {}, "x", "Bearer", "atproto", 300.5, -1)
    for _ in range(random.choice((0, 1, 1, 2))):
        name = random.choice(list(document))
        match random.randrange(3):
            case 0:
                document.pop(name)
                break
            case 1:
                document[name] = random.choice(wrong)
            case _:
                other = {"sub": _dids, "scope": _scope_string}.get(name)
                document[name] = other(random) if other else random.choice(wrong)
    if random.random() < 0.2:
        document[random.choice(("id_token", "extra"))] = random.choice(("a.b.c", 1, None))
    return document


def _did_document(random: Random) -> dict[str, object]:
    did = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
    fragments = (
        "#atproto_pds", f"{did}#atproto_pds", "#atproto_pd", f"{did}#atproto", "atproto_pds", "",
        "did:web:a.b#atproto_pds",
    )  # fmt: skip
    kinds = ("AtprotoPersonalDataServer",) * 3 + ("AtprotoLabeler", "atprotopersonaldataserver")
    endpoints = ("https://pds.example.com", "https://pds.example.com", "https://other.example.com")

    def service() -> dict[str, object]:
        return {
            "id": random.choice((*fragments[:2], *fragments)),
            "type": random.choice(kinds),
            "serviceEndpoint": random.choice(endpoints),
        }

    names = (
        "at://alice.example.com",
        "at://bob.example.com",
        "https://x.example.com",
        "at://Al.Example.com",
        "at://x",
    )
    return {
        "id": did,
        "alsoKnownAs": random.choices(names, k=random.randrange(4)),
        "service": [service() for _ in range(random.randrange(1, 4))],
    }


_addresses = _texts(
    "https://app.example.com/oauth-client-metadata.json", "https://app.example.com/oauth/callback",
    "https://a-b.example.com/x/y_z~.json", "https://app.example.com:443/m", "https://example.com/",
    "https://app.example.com:8443/m", "https://192.0.2.7/cb", "https://app.local/m", "https://x/m",
    "http://127.0.0.1:8000/oauth/callback", "http://[::1]/cb", "http://localhost/cb",
    "com.example.app:/cb", "https://u:p@app.example.com/cb",
)  # fmt: skip


def _jwk(random: Random) -> dict[str, object]:
    members: dict[str, object] = {"kid": random.choice(("k1", "k1", "k1", ""))}
    if random.random() < 0.5:
        members["use"] = random.choice(("sig", "sig", "enc", "x"))
    if random.random() < 0.3:
        members["alg"] = random.choice(("ES256", "ES384", "RS256", ""))
    if random.random() < 0.1:
        del members["kid"]
    return members


_urls = _texts(
    "https://pds.example.com/xrpc/a.b.c?x=1#y", "https://PDS.Example.com:443/a%2Fb/c%20d",
    "http://127.0.0.1:2583/oauth/par", "https://a.example:8443", "https://a.example/?q",
    "https://a.example/a//b/./c", "https://a.example/a;b=c,d@e:f!$&'()*+~", "https://a.example/%7Ea%c3%a9",
    "http://[::1]:80/x", "https://a.example/a|b^c`d{e}",
)  # fmt: skip


def _verifier(random: Random) -> str:
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
    return "".join(random.choices(alphabet, k=random.randrange(43, 129)))


MAKERS: dict[str, Callable[[Random], object]] = {
    "handle": _handle,
    "nsid": _nsid,
    "did": _dids,
    "atproto_did": _dids,
    "did_service_ref": _texts(*_SERVICES[:-1]),
    "did_document": _did_document,
    "scope": scope_token,
    "scope_string": _scope_string,
    "include_expansion": _expansion,
    "allows": _allows,
    "client_id_loopback": _client_id,
    "loopback_metadata": _client_id,
    "redirect_uri_match": _redirect_match,
    "client_id_discoverable": _addresses,
    "redirect_uri": _addresses,
    "jwk_public": _jwk,
    "issuer": _issuer,
    "token_response": _token_response,
    "htu": _urls,
    "pkce": _verifier,
}


def cases(seed: int, count: int) -> Iterator[tuple[str, object]]:
    """Return `count` questions of each kind; no answer depends on what was asked before."""
    for kind, make in MAKERS.items():
        random = Random(f"{seed} {kind}")
        seen = [make(random) for _ in range(count)]
        yield from ((kind, case) for case in seen)


def recorded(kind: str) -> list[Any]:
    """Return the recorded cases of a kind of `vectors.json`."""
    part = VECTORS[kind]
    if isinstance(part, dict):
        return list(cast("dict[str, Any]", part).items())
    return cast("list[Any]", part)
