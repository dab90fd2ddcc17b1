"""The engines that run a bundle."""

from __future__ import annotations

import subprocess
import sys

# Four threads need OpenVINO's table of types at once, as each does with its first request.
AT_ONCE = """
import sys
import threading
from headstart_predict.engines import import_openvino
sys.setswitchinterval(1e-6)
openvino, together = import_openvino(), threading.Barrier(4)
def ask():
    together.wait()
    openvino.Type.u8.to_dtype()
threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_the_first_requests_of_several_threads_do_not_wait_for_each_other() -> None:
    # Threads that wait for each other there hold the interpreter, too: only its end shows.
    subprocess.run([sys.executable, "-c", AT_ONCE], timeout=60, check=True)
