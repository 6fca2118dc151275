"""The introductions of the sections of schemas and reference; a key is described where its field is."""

KINDS = {
    "Image": "A root file system that servers share; what they write goes to a layer of their own above it.",
    "Quota": "Resources with a name: what each server that names it gets, or what all of them share.",
    "Server": "A virtual server.",
}
GROUPS = {
    "cpu": "CPU time.",
    "memory": "Memory and swap.",
    "pids": "Processes.",
    "io": "Block devices.",
    "hugepages": "Huge pages, by their size.",
    "rlimits": "Limits of each process; one number stands for both the soft and the hard limit.",
}
