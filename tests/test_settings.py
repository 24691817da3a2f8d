from __future__ import annotations

import base64
import dataclasses
import json
import os
from pathlib import Path
from typing import Unpack

import pytest
import trustme

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.environment import SETTINGS, SettingsOverrides, read_environment
from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.keys import ClientKeys, generate_client_keys
from atproto_oauth_asgi.metadata import parse_loopback_client_id
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.settings import DEFAULT_STORE_URL, Settings
from atproto_oauth_asgi_stores.memory import MemoryStore

KEY = bytes(range(32))
KEY_TEXT = base64.urlsafe_b64encode(KEY).decode()
HTTPS = "https://app.example.com"
LOCAL = "http://127.0.0.1:8000"
DAY = 86_400


def public(**changes: Unpack[SettingsOverrides]) -> Settings:
    values: SettingsOverrides = {"base_url": HTTPS, "secret_keys": (KEY,)}
    values.update(changes)
    return Settings(**values)


def local(**changes: Unpack[SettingsOverrides]) -> Settings:
    values: SettingsOverrides = {"base_url": LOCAL}
    values.update(changes)
    return Settings(**values)


def test_a_loopback_base_url_is_all_that_development_needs() -> None:
    settings = Settings(base_url=LOCAL + "/")

    assert settings.loopback
    assert LOCAL == settings.base_url == settings.origin
    assert not settings.base_path
    assert DEFAULT_STORE_URL == settings.store_url
    assert () == settings.secret_keys
    assert "/oauth" == settings.prefix
    assert "atproto" == settings.scope
    assert 14 * DAY == settings.session_max_age
    assert "atproto-oauth" == settings.cookie_name
    assert NetPolicy() == settings.policy()
    assert settings.base == local().base


def test_a_public_app_keeps_its_path_and_its_own_defaults() -> None:
    settings = public(base_url="https://app.example.com/site/")

    assert not settings.loopback
    assert "https://app.example.com" == settings.origin
    assert "/site" == settings.base_path
    assert "https://app.example.com/site/oauth/callback" == settings.client_metadata.redirect_uri
    assert not settings.client_metadata.confidential


@pytest.mark.spec("C9", "M2")
def test_the_metadata_declares_everything_a_login_may_ask_for_in_one_spelling() -> None:
    settings = public(
        scope="transition:generic atproto", optional_scope="atproto\n transition:chat.bsky"
    )

    assert "atproto transition:generic" == settings.scope
    assert "atproto transition:chat.bsky" == settings.optional_scope
    expected = "atproto transition:chat.bsky transition:generic"
    assert expected == settings.client_metadata.document()["scope"]


def test_the_order_of_scopes_does_not_change_the_loopback_client() -> None:
    one = local(scope="atproto repo:com.example.b repo:com.example.a")
    two = local(scope="repo:com.example.a atproto", optional_scope="repo:com.example.b")

    assert one.client_metadata.client_id == two.client_metadata.client_id
    assert parse_loopback_client_id(one.client_metadata.client_id) is not None


@pytest.mark.spec("L2")
def test_a_session_lasts_as_long_as_servers_let_it() -> None:
    keys = ClientKeys(generate_client_keys())

    assert 14 * DAY == public().session_max_age
    assert 90 * DAY == public(client_keys=keys).session_max_age
    assert 3600 == public(client_keys=keys, session_max_age=3600).session_max_age


@pytest.mark.spec("C17", "D1")
def test_keys_make_the_client_confidential_but_not_on_loopback() -> None:
    keys = ClientKeys(generate_client_keys())

    assert public(client_keys=keys).client_metadata.confidential
    with pytest.raises(ConfigurationError, match="CLIENT_KEYS is set, but the loopback"):
        local(client_keys=keys)


def test_every_setting_but_the_policy_has_a_variable_and_a_keyword() -> None:
    fields = {field.name for field in dataclasses.fields(Settings) if field.init}

    assert fields == SETTINGS | {"net_policy"}


def test_every_setting_can_be_read_from_the_environment(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    environ = {
        "ATPROTO_OAUTH_BASE_URL": HTTPS,
        "ATPROTO_OAUTH_CLIENT_NAME": "An app",
        "ATPROTO_OAUTH_CLIENT_URI": HTTPS,
        "ATPROTO_OAUTH_LOGO_URI": HTTPS + "/logo.png",
        "ATPROTO_OAUTH_TOS_URI": HTTPS + "/terms",
        "ATPROTO_OAUTH_POLICY_URI": HTTPS + "/privacy",
        "ATPROTO_OAUTH_SCOPE": "atproto transition:generic",
        "ATPROTO_OAUTH_OPTIONAL_SCOPE": "transition:chat.bsky",
        "ATPROTO_OAUTH_STORE_URL": "sqlite:////var/lib/app.db",
        "ATPROTO_OAUTH_SECRET_KEYS": KEY_TEXT,
        "ATPROTO_OAUTH_CLIENT_KEYS": generate_client_keys(),
        "ATPROTO_OAUTH_KEEP_ALIVE": "1",
        "ATPROTO_OAUTH_PREFIX": "/auth",
        "ATPROTO_OAUTH_TRUSTED_ORIGINS": "https://www.example.com, https://Other.example.net:443/",
        "ATPROTO_OAUTH_SESSION_MAX_AGE": " 3600 ",
        "ATPROTO_OAUTH_COOKIE_NAME": "app",
        "ATPROTO_OAUTH_LOGIN_PAGE": "/sign-in?from=oauth",
        "ATPROTO_OAUTH_PLC_URL": "https://plc.example.com/",
        "ATPROTO_OAUTH_HANDLE_RESOLVER_URL": "https://resolver.example.com",
        "ATPROTO_OAUTH_EGRESS_PROXY": "http://proxy:3128",
        "ATPROTO_OAUTH_CA_FILE": str(ca_file),
        "ATPROTO_OAUTH_ALLOW_PRIVATE_HOSTS": "PDS.internal 10.1.0.0/16\n[fd00::1] pds",
        "ATPROTO_OAUTH_ALLOW_INSECURE_LOOPBACK": "0",
        "PATH": "/usr/bin",
    }

    settings = Settings.from_env(environ)

    assert len(SETTINGS) + 1 == len(environ)
    assert (KEY,) == settings.secret_keys
    assert settings.client_keys is not None
    assert settings.keep_alive
    assert ("https://www.example.com", "https://other.example.net") == settings.trusted_origins
    assert 3600 == settings.session_max_age
    assert "/sign-in?from=oauth" == settings.login_page
    expected = NetPolicy(
        allow_private_hosts=("pds.internal", "10.1.0.0/16", "fd00::1/128", "pds"),
        ca_file=str(ca_file),
        egress_proxy="http://proxy:3128",
        plc_url="https://plc.example.com",
        handle_resolver_url="https://resolver.example.com",
    )
    assert expected == settings.policy()


def test_secrets_can_be_kept_in_files(tmp_path: Path) -> None:
    contents = {
        "SECRET_KEYS": f"{KEY_TEXT}\n",
        "CLIENT_KEYS": generate_client_keys(),
        "STORE_URL": "sqlite:///elsewhere.db\n",
    }
    environ = {"ATPROTO_OAUTH_BASE_URL": HTTPS, "ATPROTO_OAUTH_STORE_URL": ""}
    for name, content in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        environ[f"ATPROTO_OAUTH_{name}_FILE"] = str(tmp_path / name)

    settings = Settings.from_env(environ)

    assert (KEY,) == settings.secret_keys
    assert "sqlite:///elsewhere.db" == settings.store_url
    assert settings.client_keys is not None
    assert ClientKeys(contents["CLIENT_KEYS"]).kids == settings.client_keys.kids


def test_keywords_win_over_variables_even_wrong_ones() -> None:
    environ = {
        "ATPROTO_OAUTH_BASE_URL": "nonsense",
        "ATPROTO_OAUTH_SECRET_KEYS": "nonsense",
        "ATPROTO_OAUTH_SCOPE": "atproto repo:*",
    }

    settings = Settings.from_env(environ, base_url=HTTPS, secret_keys=(KEY,))

    assert (HTTPS, "atproto repo:*") == (settings.base_url, settings.scope)


def test_some_settings_can_be_read_without_the_others() -> None:
    environ = {"ATPROTO_OAUTH_STORE_URL": "memory://", "ATPROTO_OAUTH_SECRET_KEYS": "nonsense"}

    assert {"store_url": "memory://"} == read_environment(environ, names={"store_url"})


def test_an_empty_variable_is_not_set() -> None:
    settings = Settings.from_env(
        {
            "ATPROTO_OAUTH_BASE_URL": LOCAL,
            "ATPROTO_OAUTH_LOGIN_PAGE": " ",
            "ATPROTO_OAUTH_SCOPE": "",
        }
    )

    assert settings.login_page is None
    assert "atproto" == settings.scope


@pytest.mark.parametrize(
    ("variable", "mend"),
    [
        ("ATPROTO_OAUTH_BASEURL", "ATPROTO_OAUTH_BASE_URL"),
        ("ATPROTO_OAUTH_SECRET_KEY", "ATPROTO_OAUTH_SECRET_KEYS"),
        ("ATPROTO_OAUTH_SECRETS_FILE", "ATPROTO_OAUTH_SECRET_KEYS_FILE"),
        ("ATPROTO_OAUTH_SCOPE_FILE", "ATPROTO_OAUTH_"),
        ("ATPROTO_OAUTH_NET_POLICY", "ATPROTO_OAUTH_"),
        ("ATPROTO_OAUTH_", "ATPROTO_OAUTH_"),
    ],
)
def test_a_variable_nobody_reads_stops_start_up(variable: str, mend: str) -> None:
    environ = {"ATPROTO_OAUTH_BASE_URL": LOCAL, variable: "hidden"}

    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(environ)

    assert str(caught.value).startswith(f"{variable} is not a setting")
    assert f"did you mean {mend}" in str(caught.value)
    assert "hidden" not in str(caught.value)


WRONG: dict[str, tuple[SettingsOverrides, str]] = {
    "no base": ({"base_url": ""}, "BASE_URL is missing"),
    "scope": ({"scope": "repo:*"}, "SCOPE lacks “atproto”"),
    "optional scope": ({"optional_scope": "repo:x"}, "OPTIONAL_SCOPE has the scope “repo:x”"),
    "name": ({"client_name": "two\nlines"}, "CLIENT_NAME must be one line"),
    "no name": ({"client_name": ""}, "CLIENT_NAME must be one line"),
    "client uri": ({"client_uri": "https://www.example.com"}, "CLIENT_URI must have the origin"),
    "logo": ({"logo_uri": "http://app.example.com/l"}, "LOGO_URI is not an https URL"),
    "terms": ({"tos_uri": "/terms"}, "TOS_URI is not an https URL"),
    "policy": ({"policy_uri": "data:,x"}, "POLICY_URI is not an https URL"),
    "store": ({"store_url": "app.db"}, "STORE_URL is not a URL"),
    "no keys": ({"secret_keys": ()}, "SECRET_KEYS is missing.*secrets generate"),
    "short key": ({"secret_keys": (KEY[:16],)}, "SECRET_KEYS has a key of 16 bytes"),
    "same key": ({"secret_keys": (KEY, KEY)}, "SECRET_KEYS has the same key twice"),
    "prefix": ({"prefix": "oauth"}, "PREFIX must be a path"),
    "any origin": ({"trusted_origins": ("*",)}, "TRUSTED_ORIGINS has “\\*”"),
    "http origin": ({"trusted_origins": ("http://a.com",)}, "TRUSTED_ORIGINS has “http://a.com”"),
    "null origin": ({"trusted_origins": ("null",)}, "TRUSTED_ORIGINS has “null”"),
    "path in origin": ({"trusted_origins": ("https://a.com/b",)}, "TRUSTED_ORIGINS has"),
    "short session": ({"session_max_age": 59}, "SESSION_MAX_AGE is 59 seconds"),
    "negative session": ({"session_max_age": -1}, "SESSION_MAX_AGE is -1 seconds"),
    "long session": ({"session_max_age": 401 * DAY}, "SESSION_MAX_AGE is"),
    "cookie": ({"cookie_name": "a b"}, "COOKIE_NAME must be"),
    "empty cookie": ({"cookie_name": ""}, "COOKIE_NAME must be"),
    "cookie prefix": ({"cookie_name": "__Host-app"}, "COOKIE_NAME must be"),
    "cookie lines": ({"cookie_name": "app\n"}, "COOKIE_NAME must be"),
    "page elsewhere": ({"login_page": "https://evil.com"}, "LOGIN_PAGE must be a path"),
    "page by slashes": ({"login_page": "//evil.com"}, "LOGIN_PAGE must be a path"),
    "page by backslash": ({"login_page": "/\\evil.com"}, "LOGIN_PAGE must be a path"),
    "page with fragment": ({"login_page": "/sign-in#x"}, "LOGIN_PAGE must be a path"),
    "page of lines": ({"login_page": "/a\r\nX: y"}, "LOGIN_PAGE must be a path"),
    "own page": ({"login_page": "/oauth/login"}, "LOGIN_PAGE lies under PREFIX"),
    "plc": ({"plc_url": "https://plc.directory/x"}, "PLC_URL is not the https address"),
    "http plc": ({"plc_url": "http://127.0.0.1:2582"}, "PLC_URL .*ALLOW_INSECURE_LOOPBACK=1"),
    "resolver": ({"handle_resolver_url": "dns"}, "HANDLE_RESOLVER_URL is not the https address"),
    "proxy": ({"egress_proxy": "socks5://u:pw@proxy:1"}, "EGRESS_PROXY is not the URL"),
    "no proxy": ({"egress_proxy": "http://u:pw@"}, "EGRESS_PROXY is not the URL"),
    "broken proxy": ({"egress_proxy": "http://u:pw@[::1"}, "EGRESS_PROXY is not the URL"),
    "odd proxy": ({"egress_proxy": "http://u:pw@proxy:99999"}, "EGRESS_PROXY is not the URL"),
    "ca": ({"ca_file": "no/such/file"}, "CA_FILE names no/such/file"),
    "keep alive": ({"keep_alive": True}, "KEEP_ALIVE is set without CLIENT_KEYS"),
    "every host": ({"allow_private_hosts": ("0.0.0.0/0",)}, "switch the guard off"),
    "every v6": ({"allow_private_hosts": ("::/0",)}, "switch the guard off"),
    "loose network": ({"allow_private_hosts": ("10.0.0.1/8",)}, "ALLOW_PRIVATE_HOSTS has"),
    "host with port": ({"allow_private_hosts": ("pds:443",)}, "ALLOW_PRIVATE_HOSTS has"),
    "odd number": ({"allow_private_hosts": ("10.1",)}, "ALLOW_PRIVATE_HOSTS has"),
    "insecure": ({"allow_insecure_loopback": True}, "ALLOW_INSECURE_LOOPBACK is set although"),
}


@pytest.mark.spec("D6", "C6")
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_named_in_one_sentence(case: str) -> None:
    changes, match = WRONG[case]

    with pytest.raises(ConfigurationError, match=match) as caught:
        public(**changes)

    message = str(caught.value)
    assert message.endswith(".")
    assert "; " in message
    assert ". " not in message
    assert "pw" not in f"{message}{caught.value.__context__!r}"
    assert repr(KEY)[2:-1] not in message


WRONG_VARIABLES: dict[str, tuple[dict[str, str], str]] = {
    "keys": ({"SECRET_KEYS": "pw-secret"}, "Key 1 of SECRET_KEYS is not base64url"),
    "client keys": ({"CLIENT_KEYS": "pw-secret"}, "CLIENT_KEYS must be a JSON Web Key Set"),
    "age": ({"SESSION_MAX_AGE": "14d"}, "SESSION_MAX_AGE is not a number of seconds"),
    "no age": ({"SESSION_MAX_AGE": "0"}, "SESSION_MAX_AGE is not a number of seconds"),
    "flag": ({"ALLOW_INSECURE_LOOPBACK": "maybe"}, "ALLOW_INSECURE_LOOPBACK is neither on nor off"),
    "other flag": ({"KEEP_ALIVE": "60"}, "KEEP_ALIVE is neither on nor off"),
    "twice": ({"STORE_URL": "memory://", "STORE_URL_FILE": "x"}, "keep one of them|cannot be read"),
    "no file": ({"SECRET_KEYS_FILE": "pw-secret"}, "ATPROTO_OAUTH_SECRET_KEYS_FILE names a file"),
    "odd file": ({"SECRET_KEYS_FILE": "pw\0"}, "cannot be read"),
    "empty file": ({"CLIENT_KEYS_FILE": os.devnull}, "names an empty file"),
}


@pytest.mark.parametrize("case", WRONG_VARIABLES)
def test_a_variable_that_cannot_be_read_is_named_without_its_value(case: str) -> None:
    variables, match = WRONG_VARIABLES[case]
    environ = {f"ATPROTO_OAUTH_{name}": text for name, text in variables.items()}

    with pytest.raises(ConfigurationError, match=match) as caught:
        Settings.from_env({"ATPROTO_OAUTH_BASE_URL": HTTPS, **environ})

    assert "pw" not in str(caught.value)


def test_a_setting_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("memory://", encoding="utf-8")
    twice = [("ATPROTO_OAUTH_STORE_URL", "memory://"), ("ATPROTO_OAUTH_STORE_URL_FILE", str(path))]

    for order in (twice, twice[::-1]):
        with pytest.raises(ConfigurationError, match="keep one of them"):
            Settings.from_env(dict(order), base_url=LOCAL)


def test_one_text_is_not_mistaken_for_many() -> None:
    one: SettingsOverrides = json.loads('{"allow_private_hosts": "localhost"}')

    with pytest.raises(ConfigurationError, match="ALLOW_PRIVATE_HOSTS must be a tuple"):
        public(**one)


@pytest.mark.parametrize(
    ("base_url", "store_url", "fine"),
    [
        (LOCAL, "sqlite:///app.db", True),
        (LOCAL, "sqlite+aiosqlite:///app.db", True),
        (LOCAL, "memory://", True),
        (HTTPS, "memory://", True),
        (HTTPS, "sqlite:///app.db", False),
        (LOCAL, "postgresql://app@db/app", False),
        (LOCAL, "sqlitefake://x", False),
    ],
)
def test_only_development_goes_without_a_secret_key(
    base_url: str, store_url: str, fine: bool
) -> None:
    if fine:
        assert () == Settings(base_url=base_url, store_url=store_url).secret_keys
    else:
        with pytest.raises(ConfigurationError, match="secrets generate"):
            Settings(base_url=base_url, store_url=store_url)


@pytest.mark.spec("D6")
def test_insecure_peers_are_a_switch_of_development_and_never_implied() -> None:
    plain, open_ = local(), local(allow_insecure_loopback=True, plc_url="http://localhost:2582")

    assert not plain.policy().allow_insecure_loopback
    assert open_.policy().allow_insecure_loopback
    assert "http://localhost:2582" == open_.policy().plc_url
    with pytest.raises(ConfigurationError, match="PLC_URL"):
        local(plc_url="http://localhost:2582")
    with pytest.raises(ConfigurationError, match="PLC_URL"):
        local(allow_insecure_loopback=True, plc_url="http://plc.example.com")


def test_loopback_ignores_the_page_of_the_deployed_app() -> None:
    settings = local(client_uri=HTTPS)

    assert "client_uri" not in settings.client_metadata.document()


def test_a_frontend_under_development_can_be_trusted() -> None:
    settings = local(trusted_origins=("http://localhost:5173", "http://localhost:5173/"))

    assert ("http://localhost:5173",) == settings.trusted_origins


def test_an_injected_policy_is_used_as_it_is() -> None:
    policy = NetPolicy(any_client_id=True, ports=None)

    settings = public(base_url="https://app.home.arpa:8443", net_policy=policy)

    assert policy is settings.policy()
    assert "https://app.home.arpa:8443" == settings.origin
    with pytest.raises(ConfigurationError, match="port 8443"):
        public(base_url="https://app.home.arpa:8443")


@pytest.mark.spec("P8")
def test_settings_never_show_a_secret() -> None:
    jwks = generate_client_keys()
    settings = public(
        client_keys=ClientKeys(jwks),
        store_url="postgresql://app:pa55word@db/app",
        egress_proxy="http://me:pa55word@proxy:3128",
    )

    shown = f"{settings!r} {settings} {settings.policy()!r} {settings.client_metadata!r}"
    assert "pa55word" not in shown
    assert repr(KEY)[2:-1] not in shown
    assert json.loads(jwks)["keys"][0]["d"] not in shown
    assert HTTPS in shown


def test_a_keyword_is_used_whatever_its_variable_says() -> None:
    environ = {"ATPROTO_OAUTH_SECRET_KEYS_FILE": "/no/such/file", "ATPROTO_OAUTH_BASE_URL": HTTPS}

    oauth = ATProtoOAuth.from_env(environ, secret_keys=(KEY,), store=MemoryStore())

    assert oauth.settings.base_url == HTTPS


def test_a_scope_that_no_login_could_be_finished_with_is_refused_at_the_start() -> None:
    scope = "atproto " + " ".join(f"repo:app.example.a{number}" for number in range(800))

    with pytest.raises(ConfigurationError, match="longer than 16384 characters together"):
        Settings(base_url=LOCAL, scope=scope)
    with pytest.raises(ConfigurationError, match="longer than 16384 characters together"):
        Settings(base_url=LOCAL, optional_scope=scope.removeprefix("atproto "))
