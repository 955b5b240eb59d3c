"""The kernel that runs a notebook: the Python that runs us, whatever kernels a user has registered elsewhere."""

import os
import sys
import tempfile
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

LONGEST = 80  # bytes of a folder's name: with the socket's, Linux allows 107 and macOS 103


class ThisInterpreter(AsyncKernelManager):
    """Starts the kernel with our own Python, where the course is, whatever `python3` means on JUPYTER_PATH.

    Where the system has them, the sockets are files in a folder of their own. Of TCP ports, jupyter_client looks for
    free ones and lets them go again before the kernel takes them: where many kernels start, two get the same.
    """

    def __init__(self, **options: Any) -> None:
        """Prepare it.

        Args:
            options: jupyter_client's own.
        """
        if os.name == "posix":
            place = os.environ.get("JUPYTER_RUNTIME_DIR") or tempfile.gettempdir()
            if len(os.fsencode(place)) > LONGEST:
                place = "/tmp"
            os.makedirs(place, exist_ok=True)
            self.sockets = tempfile.TemporaryDirectory(prefix="kernel-", dir=place)
            options |= {"transport": "ipc", "connection_file": f"{self.sockets.name}/k.json"}
        super().__init__(**options)

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        """jupyter_client's method; at the end it also removes the folder of the sockets."""
        await super()._async_cleanup_resources(restart=restart)
        if os.name == "posix" and not restart:
            self.sockets.cleanup()

    cleanup_resources = _async_cleanup_resources  # nbclient calls this one, jupyter_client the other

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command that starts the kernel."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")
