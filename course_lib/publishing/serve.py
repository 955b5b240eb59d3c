"""The built book on localhost."""

import functools
import http.server
from pathlib import Path
from typing import NoReturn

from course_lib.errors import CourseError


def serve(html: Path, port: int) -> NoReturn:
    """Serve the folder `html` on localhost until Ctrl-C.

    Args:
        html: the built pages.
        port: the first port to try; the next free one is taken.

    Raises:
        CourseError: none of fifty ports is free.
        KeyboardInterrupt: the user pressed Ctrl-C. The function ends in no other way.
    """
    handler = functools.partial(_Quiet, directory=str(html))
    for candidate in range(port, port + 50):
        try:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", candidate), handler)
        except OSError:
            continue
        with server:
            print(f"serving on http://localhost:{candidate} (Ctrl-C stops)", flush=True)
            server.serve_forever()
    raise CourseError(f"No port from {port} to {port + 49} is free: give another with --port.")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Files only, without a log line for each request."""

    def log_message(self, *_: object) -> None:
        """Print nothing; http.server calls this for each request."""
        return
