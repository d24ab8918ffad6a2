"""The description of the HTTP API (OpenAPI 3.1), and the page that shows it.

What people write is YAML: one file for each group of routes, ``common.yaml`` for what they share. The schemas of documents that
are defined by Structs come from those (``structs.py``); the YAML says of them only what a type does not. So neither can promise
what the other does not know.
"""

from services.control.openapi.document import document
from services.control.openapi.page import Page, page

__all__ = ["Page", "document", "page"]
