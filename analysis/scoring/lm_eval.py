"""`Scorer` as lm-eval's `LM`: its tasks, prompts and metrics over our way of scoring."""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM as Base

from analysis.scoring.scorer import Advance, Scorer

NEW_TOKENS = 256  # lm-eval's default where a task names no `max_gen_toks`


class LM(Base):
    """What `lm_eval.evaluate(lm, tasks)` asks for; `advance` hears of requests done."""

    def __init__(self, scorer: Scorer, advance: Advance = lambda n: None):
        super().__init__()
        self.scorer, self.advance = scorer, advance

    def loglikelihood(self, requests: list[Instance], **unused: Any) -> list[tuple[float, bool]]:
        """Of each request's (context, continuation): (nats, whether greedy decoding gives it)."""
        scored = self.scorer.loglikelihoods([request.args for request in requests], self.advance)
        return [(one.loglikelihood, one.greedy) for one in scored]

    def loglikelihood_rolling(self, requests: list[Instance], **unused: Any) -> list[float]:
        """Of each request's whole text, in windows of what the model reads at most."""
        texts = [request.args[0] for request in requests]
        return [-nats for nats, _ in self.scorer.rolling(texts, self.scorer.max_length, self.advance)]

    def generate_until(self, requests: list[Instance], **unused: Any) -> list[str]:
        """Greedy text up to each request's first stopping string. Raises ValueError: sampling is asked for."""
        if any(request.args[1].get("do_sample") for request in requests):
            raise ValueError("the task asks for sampled answers; only greedy decoding is offered")
        new = [request.args[1].get("max_gen_toks", NEW_TOKENS) for request in requests]
        texts = self.scorer.greedy([request.args[0] for request in requests], new, self.advance)
        for i, request in enumerate(requests):
            stops = request.args[1].get("until") or []
            for stop in [stops] if isinstance(stops, str) else stops:
                texts[i] = texts[i].split(stop)[0]
        return texts
