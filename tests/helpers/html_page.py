"""What a browser would find in a report, and that nothing in it can act."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "input", "link"}
ATTACK = (
    "<script>alert(1)</script><img src=x onerror=alert(2)></dd></article></style>"
    "<style>@import url(https://evil.example/x.css);</style>{{ 7 * 7 }}"
    "\u202egpj.exe\u2066\x1b[2J\x00\ud7ff<svg onload=alert(3)><a href='javascript:alert(4)'>"
)


class Page(HTMLParser):
    """What a browser would find: elements with attributes, style sheets, and the text of table rows."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.styles, self.texts, self.rows, self.stack = [], [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "style":
            self.styles.append(data)
            return
        self.texts.append(data)
        if self.rows and {"td", "th"} & set(self.stack):
            self.rows[-1][-1] += data.strip()

    @property
    def text(self):
        return "".join(self.texts)

    def row(self, *start):
        return next(row for row in self.rows if tuple(row[: len(start)]) == start)


def assert_inert(page, html):
    allowed = {
        "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "nav", "article",
        "h1", "h2", "h3", "p", "dl", "dt", "dd", "div", "span", "strong", "ul", "li", "a", "code", "bdi", "i",
        "table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "details", "summary",
        "img",
    }  # fmt: skip
    assert {tag for tag, _ in page.elements} <= allowed
    assert page.stack == []
    for tag, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on")}
        if tag == "img":  # a chart: a browser runs no script in it and lets it load nothing
            assert attributes.pop("src").startswith("data:image/svg+xml;base64,")
        assert not {"src", "srcset", "action", "formaction", "xlink:href", "data", "background"} & set(
            attributes
        )
        if "href" in attributes:
            assert attributes["href"].startswith("#"), (tag, attributes)
        assert not re.search(r"url\(|https?:|//|expression|@import", attributes.get("style") or "")
    assert len(page.styles) == 1
    assert not re.search(r"url\(|https?:|//|@import", page.styles[0])
    policies = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for _, attributes in page.elements if "href" in attributes}
    assert targets <= set(ids)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]", html)
