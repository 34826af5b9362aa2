"""A training environment for the tests: its Python does what a training script does, as far as the service can see."""

import stat
import sys
from pathlib import Path

_FAKE = r"""#!{python}
import ast, datetime, fcntl, hashlib, json, os, shutil, sys, time
from pathlib import Path

how = Path(sys.argv[0]).parent.parent.joinpath("how").read_text().strip()
if Path(sys.argv[1]).name == "dolphin_llm2vec_pipeline.py":
    flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
    if how == "makes no checkpoint":
        sys.exit("there is not enough memory.")
    if how == "hangs in the pipeline":
        time.sleep(600)
    output = Path(flags["--output"])
    shutil.copytree(flags["--adapter"], output / "adapters")
    (output / "run_metadata.json").write_text(json.dumps({{"run_id": "0", "metrics": {{"smoke": {{"dimension": 8}}}}}}))
    (output / "wrapper_config.json").write_text(json.dumps({{"base_model": flags["--base-model"]}}))
    sys.exit()
constants = {{}}
for node in ast.parse(Path(sys.argv[1]).read_text()).body:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        try:
            constants[node.targets[0].id] = eval(ast.unparse(node.value), {{"Path": Path}})
        except NameError:
            pass
output, dataset, heldout = constants["OUTPUT"], constants["DATASET"], constants["HELDOUT"]
if how == "fails at once":
    sys.exit("There is no model in nowhere.")
lock = (output / ".lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
data = {{str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (dataset, heldout) if path.is_file()}}
work = output / "checkpoints" / "0123456789ab"
resumed = work.exists()
(work / "rows").mkdir(parents=True, exist_ok=True)
for number, path in enumerate(data):
    (work / "rows" / f"{{number}}.arrow").write_bytes(Path(path).read_bytes())
metadata = {{"run_id": "0123456789ab", "method": constants["METHOD"], "base_model": constants["BASE_MODEL"]}}
metadata |= {{"data_sha256": data, "started_at": "2026-01-31T12:00:00+00:00", "finished_at": None}}
metadata |= {{"environment": {{"device": "fake"}}, "code_version": constants["CODE_VERSION"]}}
(output / "run_metadata.json").write_text(json.dumps(metadata))
print("training begins", flush=True)
for step in range(1, 4):
    with (output / "checkpoints" / "progress.jsonl").open("a") as lines:
        lines.write(json.dumps({{"step": step, "total": 3, "loss": 1 / step}}) + "\n")
    if how == "hangs" and step == 2:
        time.sleep(600)
    if how == "fails" and step == 2:
        sys.exit("CUDA is out of memory, or so.")
(output / "adapter").mkdir(exist_ok=True)
(output / "adapter" / "adapter_config.json").write_text("{{}}")
(output / "adapter" / "adapter_model.safetensors").write_bytes(output.name.encode())
rows = {{"train": len(dataset.read_text().splitlines()), "heldout": 0, "too_long": 0}}
metrics = {{"before": {{"loss": 1.0}}, "after": {{"loss": 0.5}}, "train": [], "heldout": [], "rows": rows, "steps": 3}}
metrics["resumed_from_step"] = 2 if resumed else None
(output / "metrics.json").write_text(json.dumps(metrics))
metadata |= {{"finished_at": "2026-01-31T12:01:00+00:00", "exports": ["adapter"]}}
(output / "run_metadata.json").write_text(json.dumps(metadata))
shutil.rmtree(output / "checkpoints")
"""


class FakeTraining:
    """`venv` is what TRAIN_VENV names; `how` a training goes: `well`, `fails`, `fails at once` or `hangs`; of a
    bundle's second half: `makes no checkpoint` or `hangs in the pipeline`."""

    def __init__(self, venv: Path) -> None:
        self.venv = venv
        self.python = venv / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        self.python.write_text(_FAKE.format(python=sys.executable))
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        self.goes("well")

    def goes(self, how: str) -> None:
        """How the trainings from now on go."""
        (self.venv / "how").write_text(how)
