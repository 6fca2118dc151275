"""Networks: what links, addresses, routes, firewall and names the wanted objects need, and what differs.

`desired` computes the whole wanted state of the instance's networks from wanted and recorded objects,
`clashes.py` refuses what cannot be, `changes` compares the rest with what the kernel has. Pure.
"""
