"""Texts translated into another language and back by a chat model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

from rayloom.errors import InputError, ResourceError
from rayloom.specs.cleaning.augmentation import BackTranslation

TIMEOUT_SECONDS = 300


class Translator:
    """A client of one endpoint that translates text by text."""

    def __init__(self, spec: BackTranslation) -> None:
        self.spec = spec
        self._url = f"{spec.url.rstrip('/')}/chat/completions"
        self._headers = {"Content-Type": "application/json"}
        if spec.api_key_variable is not None:
            key = os.environ.get(spec.api_key_variable)
            if not key:
                fix = f"Set {spec.api_key_variable} where the job runs (on every node)."
                raise InputError("The key of the translation endpoint is missing", where=self._url, fix=fix)
            self._headers["Authorization"] = f"Bearer {key}"

    def there_and_back(self, text: str) -> str:
        """The text translated into the other language and back."""
        return self._translated(self._translated(text, self.spec.through), self.spec.language)

    def _translated(self, text: str, language: str) -> str:
        prompt = f"Translate into {language}. Answer with the translation alone.\n\n{text}"
        body = {
            "model": self.spec.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.spec.max_new_tokens,
        }
        answer = self._asked(json.dumps(body).encode())
        try:
            return str(answer["choices"][0]["message"]["content"] or "").strip()
        except (KeyError, IndexError, TypeError):
            what = f"The translation endpoint answered without a choice: {json.dumps(answer)[:200]}"
            raise InputError(what, where=self._url, fix="Name an OpenAI-compatible chat endpoint.") from None

    def _asked(self, body: bytes) -> Any:
        request = urllib.request.Request(self._url, body, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            reply = error.read(400).decode("utf-8", "replace")
            fix = "Check url, model and api_key_variable of the augmentation."
            raise InputError(f"The endpoint refused ({error.code}): {reply}", where=self._url, fix=fix) from None
        except (OSError, ValueError) as error:
            fix = "Start it, or leave back_translation out; running again goes on with the rows that are left."
            raise ResourceError(f"The endpoint does not answer: {error}", where=self._url, fix=fix) from None
