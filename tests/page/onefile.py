"""What a page of one file holds."""

import base64
import json
import re
import zlib


def inlined(page):
    """The data in a file."""
    (data,) = re.findall(r'<script type="application/json" id="ww-data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def inflated(text):
    """The bytes of a column or of spectra."""
    return zlib.decompress(base64.b64decode(text))
