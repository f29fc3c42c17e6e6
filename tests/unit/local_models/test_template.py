from __future__ import annotations

import pytest

from local_models.chat.template import ChatTemplate, TemplateRefused

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def render(source: str, content: str = "hi") -> str:
    return ChatTemplate(source, "<s>", "</s>").render([{"role": "user", "content": content}])


def test_messages_become_the_prompt_up_to_the_answer() -> None:
    assert render(CHATML) == "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_text_is_not_escaped_for_html() -> None:
    assert "<b> & 'é'" in render(CHATML, "<b> & 'é'")
    assert render("{{ messages[0].content | tojson }}", "<é>") == '"<é>"'


def test_what_templates_in_the_wild_call_is_there() -> None:
    assert render("{% for m in messages %}{% break %}{% endfor %}ok{{ eos_token }}") == "ok</s>"
    assert len(render("{{ strftime_now('%Y') }}")) == 4


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{% for m in messages %}", "does not compile"),
    ],
)
def test_a_template_that_refuses_or_misbehaves_is_an_error_not_a_crash(source: str, complaint: str) -> None:
    with pytest.raises(TemplateRefused, match=complaint):
        render(source)
