"""One `em` command in this process."""

import pytest

from em import cli


def em(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["em", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code
