/* A pair of virtual Ethernet links for each server: rtnetlink(7), without a library. */
#include "floor.h"

#include <arpa/inet.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sys/socket.h>

enum { PREFIX = 16, ROOM = 512 };

struct request {
	struct nlmsghdr head;
	char body[ROOM];
};

static void *extend(struct request *r, size_t size)
{
	void *end = (char *)r + r->head.nlmsg_len;

	r->head.nlmsg_len += NLMSG_ALIGN(size);
	return end;
}

/* Requests start zeroed, so that all padding is zero. */
static void *begin_request(struct request *r, int type, int flags, size_t size)
{
	memset(r, 0, sizeof *r);
	r->head.nlmsg_len = NLMSG_HDRLEN;
	r->head.nlmsg_type = type;
	r->head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	return extend(r, size);
}

static struct rtattr *add(struct request *r, int type, const void *data, size_t size)
{
	struct rtattr *a = extend(r, RTA_LENGTH(size));

	a->rta_type = type;
	a->rta_len = RTA_LENGTH(size);
	if (size)
		memcpy(RTA_DATA(a), data, size);
	return a;
}

static void end_nest(struct request *r, struct rtattr *nest)
{
	nest->rta_len = (char *)r + r->head.nlmsg_len - (char *)nest;
}

int open_route_socket(void)
{
	return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

static int ask(int socket, const struct request *r)
{
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
		char copy[sizeof(struct request)];
	} answer;

	if (send(socket, r, r->head.nlmsg_len, 0) < 0 || recv(socket, &answer, sizeof answer, 0) < 0)
		return -1;
	errno = -answer.error.error;
	return errno ? -1 : 0;
}

/* One message makes the pair, with its one end in the server as eth0 and the other end, which is up, on the bridge. */
int make_veth(int socket, const char *name, unsigned bridge, uint32_t pid)
{
	struct request r;
	struct ifinfomsg *link = begin_request(&r, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof *link);
	struct rtattr *info, *data, *peer;

	link->ifi_flags = link->ifi_change = IFF_UP;
	add(&r, IFLA_IFNAME, name, strlen(name) + 1);
	add(&r, IFLA_MASTER, &bridge, sizeof bridge);
	info = add(&r, IFLA_LINKINFO, NULL, 0);
	add(&r, IFLA_INFO_KIND, "veth", 4);
	data = add(&r, IFLA_INFO_DATA, NULL, 0);
	peer = add(&r, VETH_INFO_PEER, NULL, 0);
	extend(&r, sizeof *link);
	add(&r, IFLA_IFNAME, "eth0", 5);
	add(&r, IFLA_NET_NS_PID, &pid, sizeof pid);
	end_nest(&r, peer);
	end_nest(&r, data);
	end_nest(&r, info);
	return ask(socket, &r);
}

/* In the server: eth0 with the address 10.231.0.0 + number, up. */
int configure_veth(int number)
{
	int socket_ = open_route_socket(), result;
	unsigned index = if_nametoindex("eth0");
	uint32_t address = htonl(0x0ae70000u + number);
	struct request r;
	struct ifinfomsg *link;
	struct ifaddrmsg *inside;

	if (socket_ < 0 || !index)
		return -1;
	link = begin_request(&r, RTM_NEWLINK, 0, sizeof *link);
	link->ifi_index = index;
	link->ifi_flags = link->ifi_change = IFF_UP;
	result = ask(socket_, &r);
	inside = begin_request(&r, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof *inside);
	inside->ifa_family = AF_INET;
	inside->ifa_prefixlen = PREFIX;
	inside->ifa_index = index;
	add(&r, IFA_LOCAL, &address, sizeof address);
	add(&r, IFA_ADDRESS, &address, sizeof address);
	result = result ? result : ask(socket_, &r);
	close(socket_);
	return result;
}
