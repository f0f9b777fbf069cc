"""YAML files read strictly, with the place of everything that is wrong in them.

    document = read_document(text, "firmware.yaml")
    config = validate(document, Config)      # DocumentError: every finding at once

How scalars reach a model is told in `scalars`.
"""

from keyvisor_policy.errors import DocumentError, Finding
from keyvisor_policy.strict_yaml.composing import LIMITS, Limits
from keyvisor_policy.strict_yaml.document import Document
from keyvisor_policy.strict_yaml.reading import read_document, read_file
from keyvisor_policy.strict_yaml.scalars import (
    Boolean,
    Integer,
    Plain,
    Text,
    Verbatim,
    from_text,
    one_of,
    read_boolean,
    read_integer,
    read_text,
    read_verbatim,
)
from keyvisor_policy.strict_yaml.validation import StrictModel, examine, ordered, validate

__all__ = [
    "LIMITS",
    "Boolean",
    "Document",
    "DocumentError",
    "Finding",
    "Integer",
    "Limits",
    "Plain",
    "StrictModel",
    "Text",
    "Verbatim",
    "examine",
    "from_text",
    "one_of",
    "ordered",
    "read_boolean",
    "read_document",
    "read_file",
    "read_integer",
    "read_text",
    "read_verbatim",
    "validate",
]
