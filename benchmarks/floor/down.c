/* What ends with the servers. */
#include "floor.h"

#include <net/if.h>
#include <signal.h>
#include <sys/wait.h>

void remove_folders(void)
{
	static const char *const parts[] = { "/work/work", "/work/index", "/work", "/upper", "/root", "" };

	for (int n = 1; n <= count; n++)
		for (unsigned p = 0; p < sizeof parts / sizeof *parts; p++)
			rmdir(place(n, parts[p]));
}

/* A worker of the kernel removes the links of dead namespaces. */
void await_links(void)
{
	for (int n = 1; bridge && n <= count; n++)
		while (if_nametoindex(link_of(n)))
			usleep(500);
}

void kill_all(void)
{
	for (int i = 0; i < count; i++)
		if (servers[i].pid > 0)
			kill(servers[i].pid, SIGKILL);
	for (int i = 0; i < count; i++)
		if (servers[i].pid > 0) {
			waitpid(servers[i].pid, NULL, 0);
			servers[i].pid = 0;
		}
}
