"""Links, addresses, routes and rates of the host and of servers, by rtnetlink(7).

`netlink` is the codec and the socket, `observe` what is there; `host` changes links of the host, `interfaces`
those of servers, `rates` their queueing disciplines; `machine` holds what is not netlink: sysctls, listeners.
"""
