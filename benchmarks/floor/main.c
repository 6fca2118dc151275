/* The minimum cost of a server: only the system calls that every program needs to start one.
 *
 *   floor -n SERVERS -l LOWER -d FOLDER -g GROUP [-p] [-v BRIDGE]
 *
 * Each server gets a control group with three limits (cpu, memory and pids, on cgroup v1 or v2), a user namespace with
 * 65536 IDs of its own and all other namespaces, an overlay on the shared, idmapped directory LOWER as its root, with
 * /proc, /sys, /dev and a loopback interface. It drops all but 11 capabilities and executes /bin/sleep. A server has
 * started when execve succeeds, which closes a pipe. The next server starts after that; with -p, all servers are
 * started before the first wait. With -v, each server also gets a pair of virtual Ethernet links, with one end on the
 * bridge BRIDGE and an address on the other. At the end, all servers are killed and everything is removed; the links go
 * with the network namespaces.
 *
 * FOLDER must exist and be empty. GROUP is the name of the parent group, which must not have children.
 * Prints one JSON object: total times in ms, and the median of each step over all servers in us.
 */
#include "floor.h"

#include <net/if.h>
#include <sys/mman.h>
#include <sys/resource.h>

static const char *const step_names[STEPS] = {
	"groups", "folders", "clone", "ids", "veth", "root",
	"attach", "wait", "mounts", "pivot", "loopback", "address", "capabilities", "exec",
};

/* Memory that the kernel could not free by dropping caches: proc_meminfo(5). */
static long held_kb(void)
{
	static const char *const held[] = { "AnonPages", "SUnreclaim", "KernelStack", "PageTables", "Percpu" };
	char line[256], name[64];
	long kb, sum = 0;
	FILE *memory = fopen("/proc/meminfo", "r");

	while (memory && fgets(line, sizeof line, memory))
		for (unsigned h = 0; h < sizeof held / sizeof *held; h++)
			if (sscanf(line, "%63[^:]: %ld", name, &kb) == 2 && !strcmp(name, held[h]))
				sum += kb;
	if (memory)
		fclose(memory);
	return sum;
}

static int ascending(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

static void print_steps(void)
{
	int64_t *sorted = calloc(count, sizeof *sorted);

	for (int step = 0; step < STEPS; step++) {
		for (int i = 0; i < count; i++)
			sorted[i] = servers[i].spent[step];
		qsort(sorted, count, sizeof *sorted, ascending);
		printf("%s\"%s\": %.1f", step ? ", " : "", step_names[step], sorted[count / 2] / 1e3);
	}
	free(sorted);
}

/* After a failure; at the usual end there is nothing left. */
static void clean_up(void)
{
	kill_all();
	remove_groups();
	remove_folders();
}

int main(int argc, char **argv)
{
	struct rlimit files;
	int option, all_at_once = 0, wrong = 0;
	long memory;
	int64_t start, up, going, dead, ungrouped, unlinked, gone;

	while ((option = getopt(argc, argv, "n:l:d:g:pv:")) > 0)
		switch (option) {
		case 'n': count = atoi(optarg); break;
		case 'l': lower = optarg; break;
		case 'd': folder = optarg; break;
		case 'g': group = optarg; break;
		case 'p': all_at_once = 1; break;
		case 'v': bridge = if_nametoindex(optarg); wrong = !bridge; break;
		default: count = 0;
		}
	if (wrong || count < 1 || count > 10000 || !lower || !folder || !group) {
		fprintf(stderr, "floor -n SERVERS -l LOWER -d FOLDER -g GROUP [-p] [-v BRIDGE], which must exist\n");
		return 2;
	}
	find_controllers();
	choose_limits();
	servers = mmap(NULL, count * sizeof *servers, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (servers == MAP_FAILED)
		return 1;
	if (!getrlimit(RLIMIT_NOFILE, &files)) { /* with -p each server holds one until the end */
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (bridge)
		must(route_socket = open_route_socket(), "netlink");
	atexit(clean_up);
	make_parents();
	sync();
	memory = held_kb();

	start = now();
	for (int i = 0; i < count; i++) {
		servers[i].number = i + 1;
		begin(&servers[i]);
		if (!all_at_once)
			await(&servers[i]);
	}
	for (int i = 0; i < count && all_at_once; i++)
		await(&servers[i]);
	up = now();
	usleep(200000); /* let what the start has set off in the kernel come to rest */
	memory = held_kb() - memory;

	going = now();
	kill_all();
	dead = now();
	remove_groups();
	ungrouped = now();
	await_links();
	unlinked = now();
	remove_folders();
	gone = now();

	printf("{\"servers\": %d, \"all_at_once\": %s, \"cgroups\": \"%s\", \"up_ms\": %.3f, \"down_ms\": %.3f, "
	       "\"memory_kb\": %ld, \"down_steps_ms\": {\"kill\": %.3f, \"groups\": %.3f, \"links\": %.3f, \"folders\": %.3f}, \"step_us\": {",
	       count, all_at_once ? "true" : "false", unified_needed ? "v2" : "v1", (up - start) / 1e6,
	       (gone - going) / 1e6, memory, (dead - going) / 1e6, (ungrouped - dead) / 1e6,
	       (unlinked - ungrouped) / 1e6, (gone - unlinked) / 1e6);
	print_steps();
	printf("}}\n");
	return 0;
}
