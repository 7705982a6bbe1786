"""Where the HTTP API listens."""

import socket

import pytest

from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.serving import _listening


def test_an_answer_in_two_parts_does_not_wait_for_the_client():
    with _listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_one_line():
    with _listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UsageError, match=rf"--port {port} of 127\.0\.0\.1 cannot be had"):
            _listening("127.0.0.1", port)
