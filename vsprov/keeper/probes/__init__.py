"""Readiness and health of servers.

`subject` decides when to probe and judges the results (`judge`). The probes themselves are made by the
prober, a process of its own, so that nothing that a server does can hold up the keeper, and the keeper stays
small.
"""
