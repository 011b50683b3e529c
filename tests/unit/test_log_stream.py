"""A full disk where the logs go must not fail the work that logs."""

from __future__ import annotations

import subprocess
import sys

import pytest

_WORKER = "from sandfleet.worker.logs import configure; configure(None)"
_SERVER = "from sandfleet.controlplane.logs import configure_logs; configure_logs('info')"
_LOG = (
    "import logging, structlog; structlog.get_logger('x').info('a line'); logging.getLogger('y').error('b')"
)


@pytest.mark.parametrize(("configure", "stream"), [(_WORKER, "stdout"), (_SERVER, "stderr")])
def test_a_line_that_cannot_be_written_is_no_error_of_who_logs(configure: str, stream: str) -> None:
    program = f"import os; {configure}; {_LOG}; os._exit(0)"
    with open("/dev/full", "w") as full:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: full}
        ended = subprocess.run([sys.executable, "-c", program], timeout=100, check=False, **streams)
    assert ended.returncode == 0, (ended.stdout, ended.stderr)
    assert b"Traceback" not in (ended.stdout or b"") + (ended.stderr or b"")


@pytest.mark.parametrize(("configure", "stream"), [(_WORKER, "stdout"), (_SERVER, "stderr")])
def test_a_line_that_can_be_written_is(configure: str, stream: str) -> None:
    program = f"{configure}; {_LOG}"
    ended = subprocess.run([sys.executable, "-c", program], timeout=100, check=True, capture_output=True)
    assert b"a line" in getattr(ended, stream)
