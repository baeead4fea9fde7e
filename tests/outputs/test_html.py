from html.parser import HTMLParser

import numpy as np

import ww_callbacks as ww


class Page(HTMLParser):
    """Tags and text of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_a_notebook_shows_the_table_of_a_report():
    rng = np.random.default_rng(0)
    model = {"good": rng.standard_t(3, (120, 60)), "<script>alert(1)</script>": rng.standard_normal((100, 50))}
    page = Page(ww.analyze(model | {"zero": np.zeros((40, 40))}, baseline=model)._repr_html_())
    assert page.tags.count("table") == 1
    assert page.tags.count("tr") == 3
    assert not {"script", "button"} & set(page.tags)
    assert "<script>alert(1)</script>" in page.text
    assert "zero" in page.text
