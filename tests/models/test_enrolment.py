"""What a token promises: it is read as it was written, or not at all, and its secret shows nowhere by accident."""

from __future__ import annotations

import hashlib
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecase_models.enrolment import Token, TokenError, digest_of


def a_token() -> Token:
    return Token(secrets.token_hex(20), secrets.token_hex(32))


def test_a_token_is_read_as_it_was_written_also_with_the_white_space_of_a_terminal() -> None:
    token = a_token()
    assert Token.parse(str(token)) == Token.parse(f" {token}\n") == token


def test_the_secret_shows_in_no_representation() -> None:
    token = a_token()
    assert token.secret not in repr(token)
    assert digest_of(token.secret) == hashlib.sha256(token.secret.encode()).hexdigest()


@given(st.text(max_size=120))
def test_what_is_no_token_is_told_with_where_one_comes_from(text: str) -> None:
    with pytest.raises(TokenError, match="`edgecase-cloud device add NAME` prints one"):
        Token.parse(text)


@pytest.mark.parametrize("cut", [slice(1, None), slice(None, -1), slice(None, 40), slice(41, None)])
def test_a_token_of_which_a_part_is_missing_is_none(cut: slice) -> None:
    with pytest.raises(TokenError, match="not all of it"):
        Token.parse(str(a_token())[cut])
