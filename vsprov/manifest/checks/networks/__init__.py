"""Checks of networks, of the interfaces and ports of servers, and of both together."""
