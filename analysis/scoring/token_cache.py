"""Texts as token ids, kept: a benchmark's texts are the same for every arm, and so, mostly, is the tokenizer."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from attnlab.data.tokenizer import Tokenizer

MOST = 32  # lists of texts, two per benchmark; HellaSwag's 40,168 texts, the largest, make some 20 MB (reckoned)

Ids = list[NDArray[np.uint32]]


class Encodings:
    """The lists of texts encoded last. Threads that ask for the same one wait for whoever asked first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Future[Ids]] = OrderedDict()

    def of(self, tokenizer: Tokenizer, texts: Sequence[str]) -> Ids:
        """The token ids of each text, uint32 [its tokens] as `Tokenizer.encode` gives them; not to be changed.

        Raises what `encode` raises, for everyone who waited; then nothing is kept.
        """
        digest = hashlib.blake2b()
        for text in texts:
            raw = text.encode()
            digest.update(len(raw).to_bytes(8, "little") + raw)
        key = (tokenizer.sha256, digest.hexdigest())
        with self._lock:
            found = self._kept.pop(key, None)
            mine = found is None
            self._kept[key] = future = found or Future()
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        if mine:
            try:
                future.set_result(tokenizer.encode(texts))
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._kept.pop(key, None)
        return future.result()
