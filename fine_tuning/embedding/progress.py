"""Says how far a training is: a bar on a terminal, now and then a line elsewhere."""

import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

_LINE_EVERY_S = 10.0


def say(line: str) -> None:
    """One line for whoever watches."""
    print(line, file=sys.stderr, flush=True)


class Progress(TrainerCallback):
    """Steps, loss and time left."""

    def __init__(self) -> None:
        """Nothing is shown before the training begins."""
        self._bar: Any = None
        self._begun_at = self._said_at = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """At the first step, or the first after a checkpoint."""
        self._begun_at, self._first_step = time.monotonic(), state.global_step
        self._said_at = self._begun_at
        if sys.stderr.isatty():
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After each step."""
        if self._bar is not None:
            self._bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """When the loss is known, which is after each hundredth of the steps."""
        if not logs or "loss" not in logs:
            return
        loss, now = f"loss {float(logs['loss']):.4f}", time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(loss)
        elif now - self._said_at >= _LINE_EVERY_S or state.global_step == state.max_steps:
            self._said_at = now
            each = (now - self._begun_at) / max(1, state.global_step - self._first_step)
            left = _clock(each * (state.max_steps - state.global_step))
            say(f"step {state.global_step} of {state.max_steps}, {loss}, {left} left")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After the last step."""
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
