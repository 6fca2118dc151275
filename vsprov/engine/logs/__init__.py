"""The console logs of servers, which the keeper writes: vsprov/keeper/subjects/log.py describes the files."""
