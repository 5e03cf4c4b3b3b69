"""Language models that rewrite reports: a local transformers model, an OpenAI-compatible endpoint.

Neither is used unless the user names it. An endpoint is sent the text of reports: name one only
where that is allowed.
"""

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from unix_cxr.reports.rewriting import RewriterError

_MAX_ANSWER_BYTES: Final = 1 << 20


class EndpointRewriter:
    """A chat model behind an OpenAI-compatible HTTP endpoint.

    Args:
        base_url: e.g. `http://localhost:8000/v1`; `/chat/completions` is added.
        model: the model's name at the endpoint.
        api_key: sent as a bearer token where given, and to no other host: redirects are errors.
        timeout_s: longest wait for one answer.
        retries: how often a failed request is sent again.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 1,
    ) -> None:
        if urlsplit(base_url).scheme not in {"http", "https"}:
            raise ValueError(f"the endpoint must be an http(s) URL, got {base_url!r}")
        self.name = model
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._retries = retries
        self._opener = urllib.request.build_opener(_NoRedirect)

    def complete(self, prompt: str) -> str:
        """The model's answer at temperature 0.

        Raises:
            RewriterError: no answer within the time and the retries, or none that can be read.
        """
        body = {
            "model": self.name,
            "temperature": 0,
            "messages": [{"role": "user", "content": prompt}],
        }
        error: Exception | None = None
        for _ in range(1 + self._retries):
            try:
                return self._content(self._send(json.dumps(body).encode()))
            except urllib.error.HTTPError as failure:
                failure.close()
                error = failure
            except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError) as failure:
                error = failure
        raise RewriterError(f"{self._url}: {type(error).__name__}: {error}") from error

    def _send(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        request = urllib.request.Request(self._url, body, headers)
        with self._opener.open(request, timeout=self._timeout_s) as response:
            data: bytes = response.read(_MAX_ANSWER_BYTES + 1)
        if len(data) > _MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of more than {_MAX_ANSWER_BYTES} bytes")
        return data

    @staticmethod
    def _content(data: bytes) -> str:
        content = json.loads(data)["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise TypeError(f"content is {type(content).__name__}, no string")
        return content


class TransformersRewriter:
    """A causal language model that runs here; nothing leaves the machine.

    Args:
        model: a `transformers` causal language model.
        tokenizer: its tokenizer; a chat template is used where it has one.
        name: the name that stands in the output and in the cache's key.
        max_new_tokens: longest answer.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - transformers' classes have no common public type
        tokenizer: Any,  # noqa: ANN401 - as above
        *,
        name: str,
        max_new_tokens: int = 512,
    ) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str = "cpu", max_new_tokens: int = 512
    ) -> "TransformersRewriter":
        """Load a model from a local folder; nothing is downloaded.

        Raises:
            FileNotFoundError: the folder does not exist.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder with a language model")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        return cls(
            model.to(device).eval(), tokenizer, name=folder.name, max_new_tokens=max_new_tokens
        )

    def complete(self, prompt: str) -> str:
        """The model's greedy answer."""
        import torch

        if getattr(self._tokenizer, "chat_template", None):
            inputs = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
        else:
            inputs = self._tokenizer(prompt, return_tensors="pt")
        inputs = {
            name: inputs[name].to(self._model.device) for name in ("input_ids", "attention_mask")
        }
        length = inputs["input_ids"].shape[1]
        with torch.no_grad():
            output = self._model.generate(
                **inputs, max_new_tokens=self._max_new_tokens, do_sample=False
            )
        return str(self._tokenizer.decode(output[0, length:], skip_special_tokens=True))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Reports go to the host that was named and to no other."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Refuse; urllib then raises the redirect as an error."""
        return
