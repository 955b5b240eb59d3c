"""Starts a notebook's kernel inside the sandbox; the file stands alone. Its arguments are in one JSON object:

- "packages": folders with installed packages, and "course": the folder with the course's own;
- "files": the folder with what the assignment comes with, whose copy "work" is the working folder;
- "connection": Jupyter's connection file, and "sockets": descriptors of sockets that listen already, by address.

The sockets are made outside, so that the sandbox needs no folder that both sides can write to.
"""

import json
import os
import shutil
import site
import sys
from typing import Any


def main(told: dict[str, Any]) -> None:
    """Copy the files, find the packages as `site` does, and become the kernel."""
    shutil.copytree(told["files"], told["work"])
    os.chdir(told["work"])
    sys.path.insert(0, "")  # a notebook imports what lies beside it
    for folder in told["packages"]:
        site.addsitedir(folder)
    sys.path.append(told["course"])
    os.environ["PYTHONPATH"] = os.pathsep.join([*told["packages"], told["course"]])  # for what the notebook starts
    site.setquit()  # Python without `site` lacks what people use at a prompt
    site.setcopyright()
    site.sethelper()
    _hand_over(told["sockets"])
    from ipykernel.kernelapp import IPKernelApp

    sys.argv[1:] = []
    IPKernelApp.launch_instance(["-f", told["connection"], "--HistoryManager.hist_file=:memory:"])


def _hand_over(sockets: dict[str, int]) -> None:
    """Have ZeroMQ use the sockets that listen already, where it would bind new ones."""
    import zmq

    bind: Any = zmq.Socket.bind

    def bind_or_use(self: zmq.Socket, address: str) -> Any:
        if address in sockets:
            self.setsockopt(zmq.USE_FD, sockets[address])
        return bind(self, address)

    setattr(zmq.Socket, "bind", bind_or_use)  # noqa: B010 - mypy would compare the types of what is replaced


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
