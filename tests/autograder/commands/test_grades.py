"""The help of `course grades`."""

import pytest

from course_lib.cli import main


@pytest.mark.parametrize("words", [["report"], ["export"], ["similar"]])
def test_help_has_an_example(words, capsys):
    with pytest.raises(SystemExit):
        main(["grades", *words, "--help"])
    assert f"course grades {words[0]} lora" in capsys.readouterr().out
