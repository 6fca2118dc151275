"""Volumes on disk: files that outlive servers.

<root>/volumes/<name>/           owner mark; root 0700
    volume.json                  the spec as last applied and when it was created, sealed
    data/                        the files, with the IDs that servers see: mounts are idmapped; or instead
    disk.img                     a file system that has them, if that limits the volume: see
                                 vsprov/store/space/shared.py
"""
