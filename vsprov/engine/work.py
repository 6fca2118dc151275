"""How a command works, as far as its user chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from vsprov.engine.run.spawn import Spawner

PARALLELISM = 32
SETTLE = 0.25
WAIT = 300.0


class WorkOptions(Struct, frozen=True):
    """`parallelism`: the most objects changed at the same time. `lock_timeout`: seconds to wait for the lock
    of the instance. `settle`: seconds for which started servers are watched, see `settle.watch`.
    `wait`: whether to wait until started servers are ready, and `wait_timeout` how many seconds at most; also
    for the conditions of dependencies.
    `stop_within`: seconds after which servers that stop are killed, whatever their stop timeouts.
    `spawner`: one that was started ahead, for the first plan that needs it.
    """

    parallelism: int = PARALLELISM
    lock_timeout: float = 0.0
    settle: float = SETTLE
    wait: bool = False
    wait_timeout: float = WAIT
    stop_within: float | None = None
    spawner: Spawner | None = None


DEFAULT = WorkOptions()
