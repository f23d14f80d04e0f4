"""The process of a work step that does nothing but what a test told it: prints, leaves a receipt, exits."""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

told, _, step, *flags = sys.argv[1:]
arguments = dict(zip(flags[::2], flags[1::2], strict=True))
behaviour = json.loads(Path(told).read_text()).get(step, {})
store = Path(os.environ["SLIPWAY_STORE"].removeprefix("file://"))
document = json.loads((store / arguments["--inputs"]).read_text())

if behaviour.get("waits"):
    if behaviour.get("guarded", True):
        from pipelines.process import die_with_parent

        die_with_parent()
    rank = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    Path(behaviour["waits"] + ".part").write_text(f"{os.getpid()} {rank.pid}")
    Path(behaviour["waits"] + ".part").rename(behaviour["waits"])
    time.sleep(600)
if "environment" in behaviour:
    Path(behaviour["environment"]).write_text(json.dumps(dict(os.environ)))
for line in behaviour.get("prints", []):
    print(line, flush=True)
if "alone" in behaviour:
    mine = behaviour["alone"] + os.environ.get("JOB_COMPLETION_INDEX", "")
    lock = Path(mine).open("w")  # noqa: SIM115 - the kernel unlocks it when this process ends, however it ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        Path(f"{mine}.twice").touch()
time.sleep(behaviour.get("seconds", 0))
while "then_waits" in behaviour and not Path(behaviour["then_waits"]).exists():
    time.sleep(0.02)
if behaviour.get("leaves", True):
    receipt = {
        "step": step,
        "run": document["run"],
        "key": "0" * 64,
        "started": 1.0,
        "seconds": 0.1,
        "result": behaviour.get("result", {}),
    }
    (store / arguments["--result"]).write_text(json.dumps(receipt))
sys.exit(behaviour.get("status", 0))
