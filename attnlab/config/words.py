"""What a schema found wrong, in plain words instead of pydantic's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from attnlab.util.text import quoted

# every type of error that a schema of this project can give, by the contract test of this file
WORDS = {
    **dict.fromkeys(("int_parsing", "int_from_float", "int_type"), "a whole number, not {input}"),
    "int_parsing_size": "a whole number of 64 bits, not {input}",
    **dict.fromkeys(("float_parsing", "float_type"), "a number, not {input}"),
    "finite_number": "a finite number, not {input}",
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false, not {input}"),
    "string_type": "a text, not {input}",
    "string_unicode": "a text that can be written, not {input}",
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a mapping, not {input}"),
    **dict.fromkeys(("tuple_type", "list_type", "iterable_type"), "a list, not {input}"),
    **dict.fromkeys(("literal_error", "enum"), "one of {ctx[expected]}, not {input}"),
    "greater_than": "above {ctx[gt]}, not {input}",
    "greater_than_equal": "at least {ctx[ge]}, not {input}",
    "less_than": "below {ctx[lt]}, not {input}",
    "less_than_equal": "at most {ctx[le]}, not {input}",
    "missing": "missing, and it has no default",
    "too_short": "empty; give at least one",
    "too_long": "at most {ctx[max_length]} of them, not {ctx[actual_length]}",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-' only, not {input}",
    "recursion_loop": "it holds itself",
    "invalid_key": "a key is a text, not {input}",
    "extra_forbidden": "unknown key",
}
OTHER = "{input} cannot stand here"


def said(error: Mapping[str, Any]) -> Iterator[str]:
    """What one of a ValidationError's `errors()` says, in lines."""
    if error["type"] in ("value_error", "assertion_error"):  # our own words
        yield from str(error["ctx"]["error"]).split("\n")
    else:
        yield WORDS.get(error["type"], OTHER).format(input=quoted(error["input"]), ctx=error.get("ctx", {}))


def first(error: ValidationError) -> str:
    """The first mistake on one line, after the key that it is of."""
    found = error.errors(include_url=False)[0]
    key, line = ".".join(map(str, found["loc"])), next(said(found))
    return f"{key}: {line}" if key else line
