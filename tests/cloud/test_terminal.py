"""How commands end and what they print: one line that says what to do, and text as it is."""

from __future__ import annotations

import pytest
import typer

from edgecase_cloud.durable import Busy
from edgecase_cloud.errors import Unusable
from edgecase_cloud.store import StoreError
from edgecase_cloud.terminal import one_line, say


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (Unusable("no such file;\n  give another"), "no such file; give another", 2),
        (Unusable(""), "", 2),
        (Busy("the folder is in use"), "the folder is in use; wait for it to end", 2),
        (StoreError("it does not answer"), "it does not answer", 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_person_can_mend_ends_with_one_line(
    error: Exception, line: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, one_line():
        raise error
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == f"edgecase-cloud: {line}\n"


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), one_line():
        _ = 1 / 0


def test_a_line_is_printed_as_it_is_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    line = "[red] :car: /" + "long/" * 60
    say(line)
    assert capsys.readouterr().out == f"{line}\n"
