"""The simplest task that asks and may ask again, for tests of batches."""

from __future__ import annotations

from drift_data.llm.request import Answer, Request, Sampling, Schema


class Question:
    """Asks a text; asks once more, in other words, when the answer is BAD."""

    is_needed = False

    def __init__(self, text: str, model: str = "tiny") -> None:
        self.text, self.answer = text, Answer(error="never answered")
        self.sampling = Sampling(model=model, max_tokens=10)
        self.request: Request | None = self._request(text)

    def _request(self, text: str) -> Request:
        return Request("system", text, self.sampling, Schema("any", {"type": "string"}), "test")

    def receive(self, answer: Answer) -> None:
        retry = answer.text == "BAD" and self.request == self._request(self.text)
        self.answer = answer
        self.request = self._request(f"again: {self.text}") if retry else None
