"""A person with a browser that runs no scripts: it reads pages, fills forms, follows links."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx

from atproto_oauth_asgi.testing.accounts import DEFAULT_PASSWORD

Attributes = dict[str, str | None]


@dataclass
class FormShown:
    action: str
    method: str
    #: Name → value of what is sent if nothing is changed.
    values: dict[str, str] = field(default_factory=dict[str, str])
    #: Every field that can be changed, tick-boxes as well.
    fields: dict[str, Attributes] = field(default_factory=dict[str, Attributes])


@dataclass
class Control:
    """A button or link, by what a person reads or hears."""

    name: str
    attributes: Attributes
    form: FormShown | None


class PageShown(HTMLParser):
    """Keeps what can be done on a page. Every field needs a label that names it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[FormShown] = []
        self.controls: list[Control] = []
        self.labels: dict[str, str] = {}
        self.text = ""
        self.title = ""
        self.alert = ""
        self.strong: list[str] = []
        self._inside: set[str] = set()
        self._form: FormShown | None = None
        self._control: Control | None = None
        self._label: str | None = None
        self._hidden = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: Attributes = dict(attrs)
        match tag:
            case "form":
                method = given.get("method") or "get"
                self._form = FormShown(action=given.get("action") or "", method=method)
                self.forms.append(self._form)
            case "button" | "a":
                self._control = Control("", given, self._form if tag == "button" else None)
                self.controls.append(self._control)
            case "label":
                self._label = given.get("for") or ""
            case "input" if self._form is not None:
                self._add_field(given, self._form)
            case "style" | "script" | "title":
                self._hidden = tag
            case "strong":
                self.strong.append("")
                self._inside.add(tag)
            case "p" if given.get("role") == "alert":
                self._inside.add("alert")
            case _:
                pass

    def _add_field(self, given: Attributes, form: FormShown) -> None:
        name, kind = given.get("name") or "", given.get("type") or "text"
        if kind != "checkbox" or "checked" in given:
            form.values[name] = given.get("value") or ""
        if kind != "hidden":
            form.fields[name] = given
            if self._label == "":
                self._label = given["id"] = name

    def handle_endtag(self, tag: str) -> None:
        match tag:
            case "form":
                self._form = None
            case "button" | "a" if self._control is not None:
                self._control.name = self._control.attributes.get("aria-label") or (
                    self._control.name.strip()
                )
                self._control = None
            case "label":
                self._label = None
            case "style" | "script" | "title":
                self._hidden = ""
            case "strong":
                self._inside.discard(tag)
            case "p":
                self._inside.discard("alert")
            case _:
                pass

    def handle_data(self, data: str) -> None:
        if self._hidden:
            self.title += data if self._hidden == "title" else ""
            return
        self.text += data
        if "strong" in self._inside:
            self.strong[-1] += data
        if "alert" in self._inside:
            self.alert += data
        if self._control is not None:
            self._control.name += data
        if self._label:
            self.labels[self._label] = self.labels.get(self._label, "") + data


class Visitor:
    """Is one browser: what is remembered stays with it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.url = ""
        self.answer = httpx.Response(0)
        self._cookies: dict[str, str] = {}

    @property
    def page(self) -> PageShown:
        return PageShown(self.answer.text)

    @property
    def callback(self) -> str:
        """Return where the person is sent back to the app."""
        location = str(self.answer.headers.get("location", ""))
        assert self.answer.status_code == 303, f"{self.answer.status_code}: {self.page.text}"
        return location

    def forget_cookies(self) -> None:
        self._cookies.clear()

    async def open(self, url: str, *, site: str = "cross-site") -> httpx.Response:
        self.url = url
        return await self._send("GET", url, site=site)

    async def follow(self, name: str) -> httpx.Response:
        """Follow a link."""
        (link,) = [each for each in self.page.controls if each.name == name]
        return await self.open(urljoin(self.url, link.attributes["href"] or ""), site="same-origin")

    async def press(self, name: str, **fields: str | None) -> httpx.Response:
        """Fill in the form of a button and press it; `None` leaves a field out, as unticking does.

        Raises `KeyError` for a field that the page does not have.
        """
        (button,) = [each for each in self.page.controls if each.name == name]
        form = button.form
        assert form is not None
        for each in fields:
            assert each in form.fields, f"there is no field {each} to fill in"
        data = {**form.values, **{k: v for k, v in fields.items() if v is not None}}
        for each, value in fields.items():
            if value is None:
                data.pop(each, None)
        if button.attributes.get("name"):
            data[str(button.attributes["name"])] = button.attributes.get("value") or ""
        action = button.attributes.get("formaction") or form.action
        return await self.post(urljoin(self.url, action), data)

    async def post(
        self, url: str, data: dict[str, str], *, site: str = "same-origin"
    ) -> httpx.Response:
        await self._send("POST", url, site=site, data=data)
        location = self.answer.headers.get("location", "")
        if location.startswith("/"):
            await self.open(urljoin(url, location), site="same-origin")
        return self.answer

    async def sign_in(
        self, username: str, password: str = DEFAULT_PASSWORD, *, remember: bool = False
    ) -> httpx.Response:
        ticked = "yes" if remember else None
        return await self.press("Sign in", username=username, password=password, remember=ticked)

    async def sign_up(self, handle: str, email: str, password: str) -> httpx.Response:
        await self.press("Next", handle=handle)
        return await self.press("Create the account", email=email, password=password)

    async def authorize(self, **fields: str | None) -> str:
        await self.press("Authorize", **fields)
        return self.callback

    async def _send(
        self, method: str, url: str, *, site: str, data: dict[str, str] | None = None
    ) -> httpx.Response:
        headers = {
            "accept": "text/html",
            "sec-fetch-site": site,
            "sec-fetch-mode": "navigate",
            "sec-fetch-dest": "document",
            "cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items()),
        }
        if method == "POST":
            parts = urlsplit(url)
            headers["origin"] = f"{parts.scheme}://{parts.netloc}"
        self.answer = await self.http.request(method, url, data=data, headers=headers)
        for line in self.answer.headers.get_list("set-cookie"):
            name, _, rest = line.partition("=")
            self._cookies[name] = rest.partition(";")[0]
        return self.answer
