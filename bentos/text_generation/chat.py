"""Turn a conversation into a prompt with the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from bentos.text_generation.errors import Refusal
from bentos.text_generation.protocol import Message

PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""For models that were never taught a conversation: the messages, a line each, to be continued."""


class ChatTemplate:
    """The template of one model; it runs in `transformers`' sandbox."""

    def __init__(self, folder: Path) -> None:
        """Load the template of the tokenizer in a Hugging Face model folder."""
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        self._template = self._tokenizer.chat_template or PLAIN_TEMPLATE
        self._control_tokens = tuple(self._tokenizer.added_tokens_encoder)

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt that asks for the next message.

        Raises:
            Refusal: 422 when the template refuses the conversation (two user messages in a row, say), or when a message
                holds a control token: with it a user could speak as the assistant.
        """
        for number, message in enumerate(messages):
            forged = next((token for token in self._control_tokens if token in message.text), None)
            if forged:
                field = f"messages[{number}].content"
                raise Refusal(422, f"{field}: holds the control token {forged!r}; remove it", param=field)
        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                turns, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise Refusal(422, f"messages: {error}", param="messages") from error
        return str(text)
