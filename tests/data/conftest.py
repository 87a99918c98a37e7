import json

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def documents():
    """40 distinct documents of a few hundred characters, with what breaks naive readers: accents, tabs, CRLF, emoji."""
    return [
        f"Document {i}\r\n\tnaïve café {i * 7919} 🙂\n" + f"word{i} and {i % 5} more words. " * 12 for i in range(40)
    ]


@pytest.fixture
def jsonl(tmp_path, documents):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": d, "n": i}) + "\n" for i, d in enumerate(documents)))
    return path
