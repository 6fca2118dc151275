"""Introductions to the sections of the schemas and the reference. Keys are described at their fields."""

KINDS = {
    "Image": "A root file system shared by servers. Each server writes to its own layer on top of it.",
    "Quota": "A named set of resources, for each server that names it or shared by all of them.",
    "Server": "A virtual server.",
}
GROUPS = {
    "cpu": "CPU time.",
    "memory": "Memory and swap.",
    "pids": "Processes.",
    "io": "Block I/O.",
    "hugepages": "Huge pages, by page size.",
    "rlimits": "Limits of each process. A single number sets both the soft and the hard limit.",
}
