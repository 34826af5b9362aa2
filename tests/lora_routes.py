"""vLLM's runtime LoRA API as `tests/slm_server.py` speaks it: the statuses and sentences are vLLM's own."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Loras:
    """The adapters that a server knows, and how it takes new ones. Tests change it while it runs."""

    folders: dict[str, str] = field(default_factory=dict[str, str])
    """The folder of each adapter by its name."""
    is_on: bool = True
    """Whether the endpoints exist."""
    max_rank: int = 32
    fault: tuple[int, Any] | None = None
    """Status and document of the next answer to every load."""
    broken: set[str] = field(default_factory=set[str])
    """Adapters that are taken in and cannot generate."""
    hung: set[str] = field(default_factory=set[str])
    """Adapters that are taken in and never answer."""

    def listed(self, model: str) -> list[dict[str, Any]]:
        """The rows of `/v1/models` that are adapters."""
        return [
            {"id": name, "object": "model", "root": folder, "parent": model} for name, folder in self.folders.items()
        ]

    def answer(self, path: str, body: dict[str, Any], model: str) -> tuple[int, Any] | None:
        """Status and document for a request to this API; None for any other."""
        if not path.endswith(("/load_lora_adapter", "/unload_lora_adapter")):
            return None
        if not self.is_on:
            return 404, {"detail": "Not Found"}
        if path.endswith("/unload_lora_adapter"):
            return self._unloaded(body["lora_name"])
        return self.fault or self._loaded(body["lora_name"], body["lora_path"], model)

    def _loaded(self, name: str, path: str, model: str) -> tuple[int, Any]:
        if name == model:
            return _error(400, f"The lora adapter '{name}' conflicts with a served base model.")
        if name in self.folders:
            return _error(400, f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in")
        config = Path(path) / "adapter_config.json"
        if not config.is_file():
            return _error(404, f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads(config.read_text())["r"]
        if rank > self.max_rank:
            return _error(500, f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}.")
        self.folders[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _unloaded(self, name: str) -> tuple[int, Any]:
        if name not in self.folders:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        del self.folders[name]
        return 200, f"Success: LoRA adapter '{name}' removed successfully."


def write_adapter(folder: Path, rank: int = 8) -> Path:
    """A folder that looks like an adapter of a rank."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    (folder / "adapter_model.safetensors").write_bytes(folder.parent.name.encode())
    return folder


def _error(status: int, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "x", "code": status}}
