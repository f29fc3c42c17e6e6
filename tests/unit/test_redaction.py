"""What is kept of a text has a mark where an address, a number or a secret stood, and every other word as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.privacy import classify
from gateway.redaction import Unclear, redact

TOKEN = "eyJhbGciOiJIUzI1NiIsInR5cCI6.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"
PLANTED = {
    "alice.o+x@example.co.uk": "[EMAIL]",
    "jörg@müller.de": "[EMAIL]",
    "+44 20 7946 0958": "[PHONE]",
    "(555) 867-5309": "[PHONE]",
    "4111 1111 1111 1111": "[CARD]",
    "123-45-6789": "[ID]",
    "DE89 3704 0044 0532 0130 00": "[ID]",
    "GB82WEST12345698765432": "[ID]",
    "AB 12 34 56 C": "[ID]",
    "sk-abcdefghijklmnopqrstuvwxyz-123": "[SECRET]",
    "Password: 'geheim123'": "[SECRET]",
    TOKEN: "[SECRET]",
    BLOCK: "[SECRET]",
}


@pytest.mark.parametrize(("planted", "mark"), PLANTED.items())
def test_what_is_personal_or_secret_is_replaced_and_the_rest_stays(planted: str, mark: str) -> None:
    assert redact(f"Write to {planted}, please; it is 12 o'clock.") == f"Write to {mark}, please; it is 12 o'clock."


def test_a_number_with_letters_may_begin_within_another_word() -> None:
    assert redact("NR 12 DE89 3704 0044 0532 0130 00 IS MINE") == "NR 12 [ID] IS MINE"


def test_an_unfinished_key_is_taken_to_the_end() -> None:
    assert redact("-----BEGIN PRIVATE KEY-----\nMIIEow and on") == "[SECRET]"


@given(st.lists(st.sampled_from(list(PLANTED)) | st.text(max_size=12), max_size=8), st.sampled_from([" ", "\n", ", "]))
def test_nothing_planted_is_left_wherever_it_stands(words: list[str], between: str) -> None:
    text = between.join(words)
    try:
        left = redact(text)
    except Unclear:
        return
    assert classify(left) == ""
    assert not any(planted in left for planted in PLANTED)


def test_what_cannot_be_looked_through_is_refused() -> None:
    with pytest.raises(Unclear, match="unknown"):
        redact("2024-01-01 and " * 1_001)
