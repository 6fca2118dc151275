"""Networks: what links, addresses, routes, firewall and names the wanted objects need, and what differs.

`desired.py` computes the whole wanted state of the instance's networks from wanted and recorded objects;
`compare.py` compares it with what the kernel has. Pure.
"""
