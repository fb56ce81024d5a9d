"""The API described by OpenAPI 3.1: both halves of it in one document, from one table of operations.

The table is written by hand because both halves read their input themselves. Tests hold it to the routes that exist, and
send what it describes to the running API.
"""

from __future__ import annotations

from spendgate_daemon.api.openapi.document import openapi_document
from spendgate_daemon.api.openapi.route import handlers

__all__ = ["handlers", "openapi_document"]
