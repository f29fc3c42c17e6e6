from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from local_models.chat.text import TextStream


def run(pieces: list[bytes], stop: list[str]) -> tuple[list[str], bool]:
    stream, out = TextStream(stop), []
    for piece in pieces:
        out.append(stream.feed(piece))
        if stream.stopped:
            return out, True
    return [*out, stream.rest()], False


letters = st.text(alphabet="abé€😀\n", max_size=40)


@given(letters, st.lists(st.text(alphabet="abé😀\n", min_size=1, max_size=4), max_size=3), st.data())
def test_any_split_gives_the_text_before_the_first_stop(text: str, stop: list[str], data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=20)) | {0, len(raw)})
    pieces = [raw[a:b] for a, b in pairwise(cuts)] or [b""]
    out, stopped = run(pieces, stop)
    whole = "".join(out)
    assert text.startswith(whole)
    assert not any(each in whole for each in stop)
    assert stopped == any(each in text for each in stop)
    if not stopped:
        assert whole == text
    assert all("�" not in each for each in out)


def test_a_stop_string_across_tokens_is_never_emitted_in_part() -> None:
    stream = TextStream(["###"])
    assert stream.feed(b"one #") == "one "
    assert stream.feed(b"#") == ""
    assert stream.feed(b"x") == "##x"
    assert stream.feed(b"##") == ""
    assert stream.feed(b"# more") == ""
    assert stream.stopped


def test_half_a_character_at_the_end_is_dropped() -> None:
    stream = TextStream()
    assert stream.feed("ok €".encode()[:-1]) == "ok "
    assert stream.rest() == ""
