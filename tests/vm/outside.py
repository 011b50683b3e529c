"""A piece of internet for tests: a namespace with a public-looking address and an echo server in it."""

from __future__ import annotations

import random
import subprocess
import sys
from types import TracebackType

_SERVER = """
import socket, sys
def serve(kind):
    listening = socket.socket(socket.AF_INET, kind)
    listening.bind((sys.argv[1], int(sys.argv[2])))
    return listening
stream = serve(socket.SOCK_STREAM)
stream.listen(8)
print("up", flush=True)
while True:
    peer, address = stream.accept()
    with peer:
        peer.settimeout(120)  # for a slow guest; one that goes away is nobody's fault
        try:
            peer.sendall(address[0].encode() + b" " + peer.recv(100))
        except OSError:
            pass
"""
PORT = 8080


class Outside:
    """A server at `address`:8080, routed on this host, for as long as the scope lasts."""

    def __init__(self) -> None:
        pick = random.SystemRandom()
        self._name = f"outside{pick.randrange(10**6)}"
        first = 4 * pick.randrange(1, 63)
        self._router = f"198.51.100.{first + 1}"
        self.address = f"198.51.100.{first + 2}"

    def __enter__(self) -> Outside:
        name, link = self._name, self._name
        _ip(f"netns add {name}")
        _ip(f"link add {link} type veth peer name out0 netns {name}")
        _ip(f"addr add {self._router}/30 dev {link}")
        _ip(f"link set {link} up")
        _ip(f"addr add {self.address}/30 dev out0", within=name)
        _ip("link set out0 up", within=name)
        _ip("link set lo up", within=name)
        argv = ["nsenter", f"--net=/run/netns/{name}", sys.executable, "-c", _SERVER, self.address, str(PORT)]
        self._server = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"up\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.kill()
        self._server.wait()
        assert self._server.stdout is not None
        self._server.stdout.close()
        _ip(f"link delete {self._name}")
        _ip(f"netns delete {self._name}")


def _ip(words: str, *, within: str | None = None) -> None:
    enter = [] if within is None else ["nsenter", f"--net=/run/netns/{within}"]
    subprocess.run([*enter, "ip", *words.split()], check=True, capture_output=True)
