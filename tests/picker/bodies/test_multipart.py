"""Forms: the model is found where every server finds it, or the form is refused."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.bodies import multipart
from picker.bodies.multipart import InvalidForm, find_model, with_form_model

TYPE = "multipart/form-data; boundary=XX"
FILE = b'Content-Disposition: form-data; name="file"; filename="\xc3\xa9.wav"\r\nContent-Type: x/y'
MODEL = b'Content-Disposition: form-data; name="model"'


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"XX", end: bytes = b"--\r\n") -> bytes:
    written = (b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary, head, content) for head, content in parts)
    return b"".join(written) + b"--" + boundary + end


def model_of(body: bytes, kind: str = TYPE) -> bytes | None:
    place = find_model(body, kind)
    return None if place is None else body[place]


@pytest.mark.parametrize(
    "head",
    [
        MODEL,
        b"content-disposition:form-data;name=model",
        b'Content-Type: text/plain; charset=utf-8\r\nCONTENT-DISPOSITION: Form-Data; NAME="model"',
    ],
)
def test_the_model_is_found_and_replaced(head: bytes) -> None:
    audio = bytes(range(256)) * 8_000 + b"\r\n--X\r\n--XY"[:6]
    for parts in (((head, b"a"), (FILE, audio)), ((FILE, audio), (head, b"a"))):
        body = form(*parts)
        place = find_model(body, TYPE)
        assert place is not None
        assert body[place] == b"a"
        changed = form(*((h, b"served \xc3\xa9" if c == b"a" else c) for h, c in parts))
        assert with_form_model(body, place, "served é") == changed


def test_a_form_may_name_none() -> None:
    assert model_of(form((FILE, b"x"))) is None
    assert model_of(b"--XX--") is None
    assert model_of(form((b'Content-Disposition: form-data; name="Model"', b"a"))) is None


@pytest.mark.parametrize(
    "kind",
    [
        'multipart/form-data; boundary="XX"',
        "multipart/form-data;charset=utf-8;Boundary=XX",
        "Multipart/Form-Data; boundary=XX; charset=utf-8",
    ],
)
def test_ways_to_write_the_boundary(kind: str) -> None:
    assert model_of(form((MODEL, b"a")), kind) == b"a"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (form((MODEL, b"a"), (MODEL, b"b")), TYPE),
        (form((MODEL + b'; filename="x"', b"a")), TYPE),
        (form((MODEL + b"\r\nContent-Transfer-Encoding: base64", b"YQ==")), TYPE),
        (form((MODEL + b"; name*=utf-8''other", b"a")), TYPE),
        (form((MODEL + b'; name="other"', b"a")), TYPE),
        (form((MODEL + b"\r\n" + MODEL, b"a")), TYPE),
        (form((MODEL + b"\r\n folded", b"a")), TYPE),
        (form((b'Content-Disposition: form-data; name="mod\\"el"', b"a")), TYPE),
        (form((b'Content-Disposition: attachment; name="model"', b"a")), TYPE),
        (form((b"no colon", b"a")), TYPE),
        (form((MODEL, b"\xff")), TYPE),
        (form((MODEL, b"a" * 5_000)), TYPE),
        (form((FILE, b"x"), end=b" --\r\n"), TYPE),
        (form((FILE, b"x"), end=b"\r\n"), TYPE),
        (form((FILE, b"x"), end=b""), TYPE),
        (form(*[(FILE, b"")] * 1_025), TYPE),
        (b"preamble\r\n" + form((MODEL, b"a")), TYPE),
        (b"", TYPE),
        (form((MODEL, b"a")), "multipart/form-data"),
        (form((MODEL, b"a")), "multipart/form-data; boundary=XX; boundary=YY"),
        (form((MODEL, b"a")), 'multipart/form-data; boundary="X'),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(InvalidForm):
        find_model(body, kind)


def test_a_search_goes_through_a_large_part_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "_WINDOW_BYTES", 7)
    for length in range(40):
        assert model_of(form((FILE, b"x" * length), (MODEL, b"a"))) == b"a"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["model", "file", "language", "Model", "model "]),
            st.binary(max_size=12),
            st.booleans(),
        ),
        max_size=4,
    ),
    st.integers(0, 60),
    st.binary(max_size=2),
)
def test_it_agrees_with_another_parser(
    fields: list[tuple[str, bytes, bool]], cut: int, noise: bytes
) -> None:
    parts = []
    for name, content, is_file in fields:
        head = b'Content-Disposition: form-data; name="%s"' % name.encode()
        parts.append((head + (b'; filename="f"' if is_file else b""), content.hex().encode()))
    body = form(*parts)
    body = body[:cut] + noise + body[cut:]
    try:
        found = model_of(body)
    except InvalidForm:
        return
    parsed = BytesParser().parsebytes(b"Content-Type: " + TYPE.encode() + b"\r\n\r\n" + body)
    read = [one for one in parsed.walk() if _name_of(one) == "model"]
    assert [one.get_payload(decode=True) for one in read] == ([] if found is None else [found])


def _name_of(part: Message) -> object:
    return part.get_param("name", header="content-disposition")


@pytest.mark.parametrize(
    "name", [b"<model>", b"(x)model", b"model@", b"mod/el", b"'model", b"m\xc3\xb6"]
)
def test_a_name_without_quotes_is_a_token(name: bytes) -> None:
    """Others are read in several ways: Python's mail parser takes the brackets off."""
    head = b"Content-Disposition: form-data; name=" + name
    plain = name == b"'model"
    if plain:
        assert model_of(form((head, b"a"))) is None
        return
    with pytest.raises(InvalidForm):
        find_model(form((head, b"a")), TYPE)


def test_two_names_are_two_however_they_are_written() -> None:
    for both in (b"name=a; name=model", b'name="a";name=model', b'name=model ; NAME="a"'):
        with pytest.raises(InvalidForm):
            find_model(form((b"Content-Disposition: form-data; " + both, b"a")), TYPE)
