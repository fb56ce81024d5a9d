"""Policy documents: the team's YAML, checked against a published schema and compiled per customer."""

from __future__ import annotations

from spendgate_daemon.documents.check import check_file
from spendgate_daemon.documents.compile import compile_default, compile_policy
from spendgate_daemon.documents.diff import Change, diff_documents, diff_files, render_diff
from spendgate_daemon.documents.document import PolicyDocument
from spendgate_daemon.documents.errors import (
    DocumentError,
    Fault,
    PolicyError,
    UnknownBillingDay,
    UnknownPlan,
    UnknownZone,
)
from spendgate_daemon.documents.load import DEFAULT_DOCUMENT, SCHEMA, load_default, load_document

__all__ = [
    "DEFAULT_DOCUMENT",
    "SCHEMA",
    "Change",
    "DocumentError",
    "Fault",
    "PolicyDocument",
    "PolicyError",
    "UnknownBillingDay",
    "UnknownPlan",
    "UnknownZone",
    "check_file",
    "compile_default",
    "compile_policy",
    "diff_documents",
    "diff_files",
    "load_default",
    "load_document",
    "render_diff",
]
