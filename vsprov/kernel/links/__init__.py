"""Links, addresses, routes and rates of the host and of servers, by rtnetlink(7).

`netlink` is the codec and the socket, `rtnetlink` the numbers; `read` and `requests` are what the kernel
answers and what it is asked for. `observe` is what is there; `host` changes links of the host, `interfaces`
those of servers, with `creation`; `traffic` limits rates. `machine` holds what is not on a link.
"""
