"""What a run does when its alarms ring."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from selfplay.config import Action, Alarms
from selfplay.metrics import ALARMS, demanded


class Heed:
    """Says in log.txt when an alarm begins to ring, and keeps what is asked for until it is done."""

    def __init__(self, alarms: Alarms) -> None:
        self.alarms = alarms
        self.action: Action = "log"
        """What the alarms ask for now; log = go on."""
        self.reason = ""
        self._ringing: set[str] = set()

    def listen(self, values: Mapping[str, float], *, step: int, roll_backs: int, log: Callable[[str], None]) -> None:
        """Take in what was written at a step or a generation's end."""
        ringing = {name for name in ALARMS if values.get(f"alarm/{name}", float(name in self._ringing)) == 1.0}
        for name in sorted(ringing - self._ringing):
            log(f"alarm {name} rings at step {step}")
        self._ringing = ringing
        found = demanded(values, self.alarms)
        if found is None or found[1] == "log":
            return
        self.reason, self.action = f"alarm {found[0]} rang at step {step}", found[1]
        if self.action == "roll_back" and roll_backs >= self.alarms.most_roll_backs:
            self.action = "stop"
            self.reason += f", after {roll_backs} roll-backs (alarms.most_roll_backs)"

    def forget(self) -> None:
        """What was asked for is done."""
        self.action, self.reason, self._ringing = "log", "", set()
