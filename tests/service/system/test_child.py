"""How processes of ours are started, limited and ended."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.system.child import ROOT, start_child

SCRIPT = """
import json, os, sys
print(json.dumps({
    "arguments": sys.argv[1:],
    "session": os.getsid(0),
    "foley": [name for name in os.environ if name.startswith("FOLEY_")],
    "said": sys.stdin.readline(),
    "service": __import__("service").__file__,
}))
"""


def test_a_child_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spoken.py").write_text(SCRIPT)
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working directory')")
    (tmp_path / "modules").mkdir()
    (tmp_path / "spoken.py").rename(tmp_path / "modules" / "spoken.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setenv("FOLEY_PORT", "1")
    child = start_child("spoken", "first", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = child.communicate("hello\n", timeout=60)
    assert child.returncode == 0
    told = json.loads(out)
    assert told["arguments"] == ["first"]
    assert told["session"] == child.pid != os.getsid(0), "a terminal's Ctrl-C does not reach it"
    assert told["foley"] == []
    assert told["said"] == "hello\n"
    assert Path(told["service"]).is_relative_to(ROOT)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_child_dies_with_its_parent() -> None:
    parent = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
        "from service.system.child import die_with_parent; die_with_parent(signal.SIGKILL); "
        "print(1, flush=True); time.sleep(600)'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", parent], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = os.pidfd_open(int(process.stdout.readline()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert select.select([child], [], [], 60)[0], "it lives on"
    os.close(child)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_limits_are_only_ever_lowered() -> None:
    script = (
        "import resource; from service.system.child import limit_memory, lower_limit\n"
        "lower_limit(resource.RLIMIT_NOFILE, 32); lower_limit(resource.RLIMIT_NOFILE, 64)\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "limit_memory(1 << 24)\n"
        "try: bytearray(1 << 26)\n"
        "except MemoryError: print('refused')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True
    ).stdout
    assert out.split() == [b"32", b"32", b"refused"]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 32
