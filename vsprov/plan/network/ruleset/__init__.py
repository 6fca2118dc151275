"""The instance's nft tables: rules that do not grow, over sets and maps whose elements do.

`tables` computes them, `commands` the commands that lead from what there is to what there should be. Tables
are in the JSON of libnftables-json(5), as `nft -j list table` shows them, so that a difference is an unequal
object.
"""

from vsprov.plan.network.ruleset.commands import Commands, changes
from vsprov.plan.network.ruleset.others import members as members_of
from vsprov.plan.network.ruleset.script import command
from vsprov.plan.network.ruleset.tables import tables
from vsprov.plan.network.ruleset.text import canonical, table_name

__all__ = ["Commands", "canonical", "changes", "command", "members_of", "table_name", "tables"]
