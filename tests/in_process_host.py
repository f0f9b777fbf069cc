"""The SDK's Host on a firmware in this process: its calls go straight to the handlers of the host's door, no socket between.

What a handler raises becomes what the door would have made of it, so that a test sees what a host sees.
"""

from __future__ import annotations

from typing import Any, TypeVar

from keyvisor_firmware.doors.host import HostHandlers
from keyvisor_firmware.doors.problems import problem_of
from keyvisor_firmware.firmware import Firmware
from keyvisor_firmware.guests.instance import Instance
from keyvisor_guest.errors import Refused
from keyvisor_guest.host import Host
from keyvisor_guest.hosting.memory import HostMemory
from keyvisor_guest.wire.messages import HOST_ROUTES, Message
from keyvisor_hsm.cards import Apqn

M = TypeVar("M", bound=Message)

_BODIES = {route.name: route.body for route in HOST_ROUTES}


class NoDoors:
    """Guests without doors; `opened` and `closed` are the names of those that would have had one."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []

    def require_possible(self, name: str) -> None:
        pass

    def open(self, instance: Instance) -> None:
        self.opened.append(instance.name)

    def close(self, name: str) -> None:
        self.closed.append(name)


class InProcessDoor:
    """What keyvisor_guest.http.Door is to a Host, without a socket. Bodies and answers go through JSON as they do there."""

    def __init__(self, firmware: Firmware) -> None:
        self.doors = NoDoors()
        self._handlers = HostHandlers(firmware, self.doors)

    def call(self, name: str, answer: type[M], body: Message | None = None, /, **parameters: str) -> M:
        arguments: dict[str, Any] = dict(parameters)
        if "apqn" in arguments:
            arguments["apqn"] = Apqn.parse(arguments["apqn"])
        if body is not None:
            message = _BODIES[name]
            assert message is not None
            arguments["body"] = message.model_validate_json(body.model_dump_json())
        try:
            given = getattr(self._handlers, name)(**arguments)
        except Exception as error:
            known = problem_of(error)
            if known is None:
                raise
            problem = known[1]
            raise Refused(
                problem.kind, problem.code, problem.message, problem.findings, handle=problem.handle
            ) from error
        return answer.model_validate_json(given.model_dump_json())


class InProcessHost(Host):
    """A Host of a firmware in this process."""

    def __init__(self, firmware: Firmware) -> None:
        self._door = InProcessDoor(firmware)  # type: ignore[assignment]
        self.memory = HostMemory(self._door)  # type: ignore[arg-type]
