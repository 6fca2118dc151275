"""Introductions to the sections of the schemas and the reference. Keys are described at their fields."""

GROUPS = {
    "cpu": "CPU time.",
    "memory": "Memory and swap.",
    "pids": "Processes.",
    "io": "Block I/O.",
    "hugepages": "Huge pages, by page size.",
    "rlimits": "Limits of each process. A single number sets both the soft and the hard limit.",
}
