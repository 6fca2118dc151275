"""What networks, and the servers on them, should be. Pure.

`compute.py` computes it for the whole instance, from wanted objects and from the records of those that stay.
"""
