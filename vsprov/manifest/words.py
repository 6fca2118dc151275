"""What the schemas add to the model, key by key: a description for people, and what a text must look like.

`patternErrorMessage` is what editors and `problems` say in place of the pattern, after the text.
"""

from __future__ import annotations

from typing import Any

from vsprov.model import kinds, objects

Schema = dict[str, Any]

_PART = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LABEL = "[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"

NAME: Schema = {
    "type": "string",
    "pattern": objects.NAME_PATTERN,
    "patternErrorMessage": "is not a name: up to 63 of a-z, 0-9 and -, with a letter or digit at both ends",
}
HOSTNAME: Schema = {
    "maxLength": 64,  # the kernel's __NEW_UTS_LEN
    "pattern": rf"^{_PART}(\.{_PART})*$",
    "patternErrorMessage": "is not a host name: letters, digits and -, in parts of up to 63 joined by dots",
}
ABSOLUTE: Schema = {
    "type": "string",
    "maxLength": 4095,  # PATH_MAX
    "pattern": r"^/[^\u0000]*$",
    "patternErrorMessage": "is not an absolute path",
}
PATH: Schema = {
    "maxLength": 4095,
    "pattern": r"^[^\u0000]+$",
    "patternErrorMessage": "is not a path",
}
WORD: Schema = {
    "type": "string",
    "pattern": r"^[^\u0000]*$",
    "patternErrorMessage": "holds a NUL, where the kernel would end it",
}
LABEL_NAME: Schema = {
    "pattern": rf"^([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_LABEL}$",
    "patternErrorMessage": "is not a label's name: up to 63 letters, digits and ._-, perhaps after prefix/",
}
LABELS: Schema = {
    "description": "Words to select by.",
    "type": "object",
    "maxProperties": 64,
    "propertyNames": LABEL_NAME,
    "additionalProperties": {
        "type": "string",
        "pattern": rf"^({_LABEL})?$",
        "patternErrorMessage": "is not a label: up to 63 of letters, digits and ._-, none of these at an end",
    },
    "default": {},
}
ANNOTATIONS: Schema = {
    "description": f"Notes. {objects.IGNORE} lists knobs, joined by commas, that vsprov leaves as they are. "
    f"{objects.REQUIRE}: hard makes it an error when the host cannot do all that is asked.",
    "type": "object",
    "maxProperties": 64,
    "propertyNames": LABEL_NAME,
    "additionalProperties": {"type": "string", "maxLength": 4096},
    "default": {},
}

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

QUOTA: Schema = {
    "scope": {
        "description": "server: each server that names the quota gets this much. pool: they share this much."
    },
    "resources": {},
}
HOST_SOURCE: Schema = {
    "paths": {"description": "More folders of the host, shown read-only.", "items": ABSOLUTE},
}
TAR_SOURCE: Schema = {
    "path": {**PATH, "description": "The archive; relative to the manifest."},
    "sha256": {
        "description": "What its SHA-256 must be, in hexadecimal.",
        "pattern": "^[0-9a-f]{64}$",
        "patternErrorMessage": "is not a SHA-256: 64 of 0-9 and a-f",
    },
}
OCI_SOURCE: Schema = {
    "ref": {
        "description": "An image in a registry: docker.io/library/debian:12.",
        "maxLength": 512,
        "pattern": r"^[A-Za-z0-9\[][A-Za-z0-9._:/@\[\]-]*$",
        "patternErrorMessage": "is not a reference to an image; write registry/repository:tag",
    },
    "layout": {**PATH, "description": "A folder in the OCI image layout; relative to the manifest."},
    "archive": {
        **PATH,
        "description": "A file of docker save, podman save or skopeo copy; relative to the manifest.",
    },
    "name": {
        "description": "Which image of a layout or archive that holds several.",
        "maxLength": 512,
        "pattern": r"^[A-Za-z0-9._:/@+-]+$",
        "patternErrorMessage": "is not the name of an image",
    },
    "digest": {
        "description": "What the reference must lead to, whatever its tag says by now.",
        "pattern": "^sha256:[0-9a-f]{64}$",
        "patternErrorMessage": "is not a digest: sha256: and 64 of 0-9 and a-f",
    },
    "insecure": {
        "description": "Allow a registry without TLS, or with a certificate that nobody known has signed."
    },
}
_PACKAGE: Schema = {
    "type": "string",
    "pattern": "^[a-z0-9][a-z0-9+.-]{0,127}(:[a-z0-9-]+)?$",
    "patternErrorMessage": "is not the name of a package",
}
BOOTSTRAP_SOURCE: Schema = {
    "suite": {
        "description": "The release: bookworm, stable, noble, …",
        "maxLength": 64,
        "pattern": "^[a-z][a-z0-9.-]*$",
        "patternErrorMessage": "is not the name of a suite",
    },
    "packages": {
        "description": "Packages to install besides those of the variant.",
        "items": _PACKAGE,
        "maxItems": 1000,
    },
    "mirror": {
        "description": "Where the packages come from; the program's own choice if absent.",
        "maxLength": 512,
        "pattern": r"^(https?|file|copy)://?[^\s,'\"\\]+$",
        "patternErrorMessage": "is not the address of a mirror, as http://deb.debian.org/debian",
    },
    "components": {
        "description": "Parts of the archive.",
        "items": {**_PACKAGE, "patternErrorMessage": "is not a component: main, contrib, non-free, …"},
        "minItems": 1,
        "maxItems": 16,
    },
    "variant": {"description": "minbase: what apt needs. standard: also what every Debian has."},
}
_OWNER: Schema = {"type": ["string", "integer"], "description": "UID or UID:GID of what is made."}
_MODE: Schema = {
    "pattern": "^[0-7]{3,4}$",
    "patternErrorMessage": 'is not a file mode; write "0644" or "755"',
}
_TARGET: Schema = {**ABSOLUTE, "maxLength": 4095}
COPY_STEP: Schema = {
    "source": {**PATH, "description": "A file or a folder; relative to the manifest."},
    "target": {
        **_TARGET,
        "description": "Where in the image. What is in a folder comes into it; a file too, if it ends in /.",
    },
    "owner": _OWNER,
    "mode": {**_MODE, "description": "The permissions of files; theirs if absent."},
}
WRITE_STEP: Schema = {
    "path": {**_TARGET, "description": "The file."},
    "content": {**WORD, "description": "What it holds.", "maxLength": 1 << 20},
    "owner": _OWNER,
    "mode": {**_MODE, "description": "Its permissions."},
}
_COMMAND: Schema = {
    "type": ["array", "string"],
    "items": WORD,
    "minItems": 1,
    "pattern": r"^[^\u0000]*[^\u0000\s][^\u0000]*$",
    "patternErrorMessage": "is no command",
}
RUN_STEP: Schema = {
    "command": {**_COMMAND, "description": "A line for /bin/sh -ec, or a program and its arguments."},
    "network": {"description": "none: loopback only. host: the host's network, as package managers need it."},
    "env": {"description": "Environment variables of the command, besides those of the image."},
    "user": {"type": ["string", "integer"], "description": "Who runs it."},
    "workingDir": {**ABSOLUTE, "description": "Where it starts."},
}
STEP: Schema = {
    "copy": {"description": "Copy a file, or what is in a folder, into the image."},
    "write": {"description": "Make a file."},
    "run": {
        "description": "Run a command in a server of its own: a line for /bin/sh -ec, or a map.",
        "type": ["object", "string"],
        "pattern": r"^[^\u0000]*[^\u0000\s][^\u0000]*$",
        "patternErrorMessage": "is no command",
    },
}
DEFAULTS: Schema = {
    "command": {"description": "What servers run.", "items": WORD},
    "env": {"description": "Environment variables of servers, besides those of `from`."},
    "workingDir": {**ABSOLUTE, "description": "Where their command starts."},
    "user": {"type": ["string", "integer"], "description": "Who runs it."},
    "stopSignal": {"type": ["string", "integer"], "description": "The signal that asks it to end."},
}
BUILD_SOURCE: Schema = {
    "from": {**NAME, "description": "The Image to build on."},
    "steps": {"description": "Each makes a layer; one is done again only when it or one before it changes."},
    "defaults": {"description": "What servers do where they do not say it themselves."},
}
SOURCE: Schema = {
    "host": {
        "description": "The host's own /usr, read-only, with a small generated root: nothing to download."
    },
    "directory": {**PATH, "description": "A folder that holds a root file system; relative to the manifest."},
    "tar": {"description": "An archive of a root file system: plain, gz, bz2, xz or zst."},
    "oci": {"description": "An OCI or Docker image: one of ref, layout and archive."},
    "bootstrap": {"description": "A Debian or a relative of it, installed by mmdebstrap or debootstrap."},
    "build": {"description": "Another image with further layers."},
}
LIMITS: Schema = {
    "size": {**kinds.BYTES.schema, "description": "Bytes; an import that would make more is stopped."},
    "files": {"description": "Files, folders and links.", "minimum": 1, "maximum": 100_000_000},
}
IMAGE: Schema = {"limits": {"description": "The most that the image may hold."}}
INIT: Schema = {
    "command": {
        "description": "The program and its arguments; looked up on PATH inside the server. The image's own "
        "if absent.",
        "items": WORD,
        "minItems": 1,
    },
    "args": {
        "description": "Arguments after the command; without a command, after the image's entrypoint.",
        "items": WORD,
    },
    "style": {"description": "How the server runs: exec makes the command its pid 1."},
    "env": {
        "description": "Environment variables of the command, besides those of the image.",
        "propertyNames": {
            "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
            "patternErrorMessage": "is not a variable's name: letters, digits and _, not a digit first",
        },
        "additionalProperties": WORD,
    },
    "workingDir": {
        **ABSOLUTE,
        "description": "Where the command starts; where the image says, or /, if absent.",
    },
    "user": {
        "type": ["string", "integer"],
        "description": "Who runs the command: UID, UID:GID, or names in the image's passwd and group files. "
        "Whom the image says, or root, if absent.",
    },
    "reaper": {
        "description": "Put a small init before the command that reaps orphans and passes signals on."
    },
    "stopSignal": {
        "type": ["string", "integer"],
        "description": "The signal that asks the command to end: TERM, INT, RTMIN+3, … The image's, or TERM, "
        "if absent.",
    },
    "stopTimeout": {
        **kinds.DURATION.schema,
        "description": "How long a server may take to end before it is killed.",
    },
}
MOUNT: Schema = {
    "type": {"description": "bind shows a path of the host; tmpfs is memory, empty at each start."},
    "target": {**ABSOLUTE, "description": "Where in the server; made when it is missing."},
    "source": {**ABSOLUTE, "description": "For bind: the host's folder or file."},
    "readOnly": {"description": "Refuse writes, to what is mounted below as well."},
    "recursive": {"description": "For bind: with what is mounted below the source."},
    "idMap": {
        "description": "For bind: the server's root owns what the host's root owns, if the file system can."
    },
    "size": {
        **kinds.BYTES.schema,
        "description": "For tmpfs: the most it may hold; absent, half of the memory.",
    },
    "mode": {
        "description": "For tmpfs: the permissions of its root, in octal and quotes.",
        "pattern": "^[0-7]{3,4}$",
        "patternErrorMessage": 'is not a file mode; write "1777" or "755"',
    },
}
_CAPABILITY: Schema = {"type": "string", "examples": list(objects.CAPABILITIES)}
CAPABILITIES: Schema = {
    "add": {
        "description": "Capabilities to keep besides the default, by name, without CAP_.",
        "items": _CAPABILITY,
    },
    "drop": {"description": "Capabilities of the default to take away.", "items": _CAPABILITY},
}
SECURITY: Schema = {
    "userNamespace": {
        "description": "auto: a range of 65536 ids of its own; the server's root is nobody outside."
    },
    "capabilities": {
        "description": f"Changes to the default: {', '.join(sorted(objects.DEFAULT_CAPABILITIES))}."
    },
    "noNewPrivileges": {
        "description": "Programs cannot gain rights by setuid or file capabilities (PR_SET_NO_NEW_PRIVS)."
    },
    "readOnlyRoot": {"description": "The server cannot write to its root; mounts stay as they are declared."},
}
DEPENDENCY: Schema = {
    "name": {**NAME, "description": "The other server."},
    "condition": {"description": "What must be true of it. started: its command runs."},
}
SERVER: Schema = {
    "image": {**NAME, "description": "The Image whose files the server starts from."},
    "quota": {
        **NAME,
        "description": "The Quota whose resources the server gets, or shares with others when it is a pool.",
    },
    "resources": {
        "description": "Resources of this server; each wins over the same key of a quota of scope server."
    },
    "state": {"description": "Whether the server is to run."},
    "hostname": {**HOSTNAME, "description": "The server's own host name; its name if absent."},
    "init": {"description": "What runs in the server."},
    "mounts": {"description": "Further mounts, each at its own target.", "maxItems": 256},
    "security": {"description": "What the server's root may do."},
    "dependsOn": {
        "description": "Servers that start before this one and stop after it.",
        "maxItems": 256,
    },
    "ephemeral": {"description": "What the server wrote to its root is thrown away when it stops."},
}
