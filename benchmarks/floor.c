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
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "veth.h"

/* glibc's <sys/mount.h> and the kernel's <linux/mount.h> cannot be included together before glibc 2.37. */
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
enum { DETACH = 2 }; /* MNT_DETACH */

enum { CONTROLLERS = 3, FIRST_ID = 524288, IDS = 65536, LONGEST = 512 };

enum step {
	GROUPS, FOLDERS, CLONE, IDS_WRITTEN, VETH, ROOT_MADE,               /* in the parent */
	ATTACH, WAIT, MOUNTS, PIVOT, LOOPBACK, ADDRESS, CAPABILITIES, EXEC, /* in the server to be */
	STEPS
};
static const char *const step_names[STEPS] = {
	"groups", "folders", "clone", "ids", "veth", "root",
	"attach", "wait", "mounts", "pivot", "loopback", "address", "capabilities", "exec",
};

static struct {
	const char *name;
	char mount[LONGEST];
	int unified;
	struct { const char *file, *text; } limits[2];
} controllers[CONTROLLERS] = {
	{ .name = "cpu" }, { .name = "memory" }, { .name = "pids" },
};

struct server {
	pid_t pid;
	int number, up; /* `up` reads end of file once execve has succeeded */
	int64_t began, executed, spent[STEPS];
	char complaint[128];
};

static struct server *servers; /* shared, so that the children's times and complaints can be read */
static int count = 1, unified_needed, route_socket;
static unsigned bridge; /* the index of the link; 0: no links */
static const char *lower, *folder, *group;

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t lap(struct server *s, enum step step, int64_t since)
{
	int64_t t = now();

	s->spent[step] += t - since;
	return t;
}

__attribute__((format(printf, 1, 2))) static const char *text(const char *format, ...)
{
	static char ring[8][LONGEST];
	static unsigned next;
	char *one = ring[next++ % 8];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(one, LONGEST, format, arguments);
	va_end(arguments);
	return one;
}

static const char *group_of(int controller, int number)
{
	return text("%s/%s/%d", controllers[controller].mount, group, number);
}

static const char *place(int number, const char *below)
{
	return text("%s/%d%s", folder, number, below);
}

/* ---- down ---------------------------------------------------------------------------------------------- */

static int shares_mount(int controller)
{
	for (int before = 0; before < controller; before++)
		if (!strcmp(controllers[before].mount, controllers[controller].mount))
			return 1;
	return 0;
}

static void remove_groups(void)
{
	for (int c = 0; c < CONTROLLERS; c++) {
		if (shares_mount(c))
			continue;
		for (int n = 1; n <= count; n++)
			/* A group counts as busy until the kernel has let go of its last dead process. */
			for (int tries = 0; rmdir(group_of(c, n)) && errno == EBUSY && tries < 2000; tries++)
				usleep(500);
		rmdir(text("%s/%s", controllers[c].mount, group));
	}
}

static void remove_folders(void)
{
	static const char *const parts[] = { "/work/work", "/work/index", "/work", "/upper", "/root", "" };

	for (int n = 1; n <= count; n++)
		for (unsigned p = 0; p < sizeof parts / sizeof *parts; p++)
			rmdir(place(n, parts[p]));
}

static const char *link_of(int number)
{
	return text("vf%d.%d", (int)getpid(), number); /* the PID, for those of another run may still be dying */
}

/* A worker of the kernel removes the links of dead namespaces. */
static void await_links(void)
{
	for (int n = 1; bridge && n <= count; n++)
		while (if_nametoindex(link_of(n)))
			usleep(500);
}

static void kill_all(void)
{
	for (int i = 0; i < count; i++)
		if (servers[i].pid > 0)
			kill(servers[i].pid, SIGKILL);
	for (int i = 0; i < count; i++)
		if (servers[i].pid > 0)
			waitpid(servers[i].pid, NULL, 0);
}

__attribute__((noreturn)) static void stop(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	kill_all();
	remove_groups();
	remove_folders();
	exit(1);
}

static int must(int result, const char *what)
{
	if (result < 0)
		stop(what);
	return result;
}

/* ---- the server to be ----------------------------------------------------------------------------------- */

__attribute__((noreturn)) static void complain(struct server *s, int status, const char *what)
{
	snprintf(s->complaint, sizeof s->complaint, "%s: %s", what, strerror(errno));
	if (write(status, "!", 1) < 0)
		_exit(112);
	_exit(111);
}
#define TRY(call) do { if ((call) < 0) complain(s, status, #call); } while (0)

static int receive_file(int socket)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec data = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control,
	};
	int file = -1;

	if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message))
		memcpy(&file, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof file);
	return file;
}

static void mount_system(struct server *s, int status)
{
	static const char *const devices[] = { "null", "zero", "full", "random", "urandom", "tty" };
	const unsigned long strict = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	TRY(mount("proc", "proc", "proc", strict, NULL));
	TRY(mount("sysfs", "sys", "sysfs", strict | MS_RDONLY, NULL));
	TRY(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64m"));
	for (unsigned d = 0; d < sizeof devices / sizeof *devices; d++) {
		const char *inside = text("dev/%s", devices[d]);
		int file = open(inside, O_CREAT | O_WRONLY | O_CLOEXEC, 0666);

		TRY(file);
		close(file);
		TRY(mount(text("/dev/%s", devices[d]), inside, NULL, MS_BIND, NULL));
	}
	TRY(mkdir("dev/pts", 0755));
	TRY(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"));
	TRY(symlink("pts/ptmx", "dev/ptmx"));
}

static void loopback_up(struct server *s, int status)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int socket_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	TRY(socket_);
	TRY(ioctl(socket_, SIOCSIFFLAGS, &request));
	close(socket_);
}

static void drop_capabilities(struct server *s, int status)
{
	static const int kept[] = {
		CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL, CAP_SETGID, CAP_SETUID,
		CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT, CAP_SETFCAP,
	};
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 } };
	uint64_t set = 0;

	for (unsigned k = 0; k < sizeof kept / sizeof *kept; k++)
		set |= UINT64_C(1) << kept[k];
	for (int c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++)
		if (!(set >> c & 1))
			TRY(prctl(PR_CAPBSET_DROP, c, 0, 0, 0));
	data[0].effective = data[0].permitted = (uint32_t)set;
	data[1].effective = data[1].permitted = (uint32_t)(set >> 32);
	TRY(syscall(SYS_capset, &header, data));
	TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

__attribute__((noreturn)) static void be_server(struct server *s, int status, int socket, const int *attach)
{
	char *const argv[] = { "/bin/sleep", "infinity", NULL }, *const env[] = { "PATH=/bin:/sbin", NULL };
	int64_t t = now();
	const char *name;
	int root, null;

	for (int c = 0; c < CONTROLLERS; c++)
		if (attach[c] >= 0)
			TRY(write(attach[c], "0", 1));
	t = lap(s, ATTACH, t);
	TRY(root = receive_file(socket));
	t = lap(s, WAIT, t);
	TRY(setresgid(0, 0, 0));
	TRY(setresuid(0, 0, 0));
	TRY(unshare(CLONE_NEWCGROUP));
	TRY(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	TRY(syscall(SYS_move_mount, root, "", AT_FDCWD, place(s->number, "/root"), MOVE_MOUNT_F_EMPTY_PATH));
	TRY(chdir(place(s->number, "/root")));
	mount_system(s, status);
	t = lap(s, MOUNTS, t);
	TRY(syscall(SYS_pivot_root, ".", "."));
	TRY(umount2(".", DETACH));
	TRY(chdir("/"));
	name = text("floor%d", s->number);
	TRY(sethostname(name, strlen(name)));
	t = lap(s, PIVOT, t);
	loopback_up(s, status);
	t = lap(s, LOOPBACK, t);
	if (bridge)
		TRY(configure_veth(s->number));
	t = lap(s, ADDRESS, t);
	drop_capabilities(s, status);
	TRY(setsid());
	TRY(null = open("/dev/null", O_RDWR | O_CLOEXEC));
	for (int stream = 0; stream <= 2; stream++)
		TRY(dup2(null, stream));
	s->executed = lap(s, CAPABILITIES, t);
	execve(argv[0], argv, env);
	complain(s, status, "execve /bin/sleep");
}

/* ---- up ------------------------------------------------------------------------------------------------- */

static int write_file(const char *path, const char *content)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t written;

	if (file < 0)
		return -1;
	written = write(file, content, strlen(content));
	close(file);
	return written < 0 ? -1 : 0;
}

/* Make the groups with their limits. `attach` gets a file for each v1 group, the result is the v2 group's or -1. */
static int make_groups(int number, int *attach)
{
	int born_in = -1;

	for (int c = 0; c < CONTROLLERS; c++) {
		const char *path = group_of(c, number);

		attach[c] = -1;
		if (!shares_mount(c)) {
			must(mkdir(path, 0755), path);
			if (controllers[c].unified)
				must(born_in = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), path);
			else
				must(attach[c] = open(text("%s/cgroup.procs", path), O_WRONLY | O_CLOEXEC), path);
		}
		for (int l = 0; l < 2 && controllers[c].limits[l].file; l++) {
			const char *file = text("%s/%s", path, controllers[c].limits[l].file);

			must(write_file(file, controllers[c].limits[l].text), file);
		}
	}
	return born_in;
}

static void make_folders(int number)
{
	static const char *const parts[] = { "", "/upper", "/work", "/root" };
	uid_t first = FIRST_ID + (number - 1) * IDS;

	for (unsigned p = 0; p < sizeof parts / sizeof *parts; p++) {
		const char *path = place(number, parts[p]);

		must(mkdir(path, 0755), path);
		if (p)
			must(chown(path, first, first), path);
	}
}

/* An overlay that is mounted nowhere yet, on LOWER as the ids of `pid`'s user namespace see it. */
static int make_root(int number, pid_t pid)
{
	struct mount_attr idmap = { .attr_set = MOUNT_ATTR_IDMAP };
	int namespace, tree, overlay, root;

	must(namespace = open(text("/proc/%d/ns/user", pid), O_RDONLY | O_CLOEXEC), "user namespace");
	tree = syscall(SYS_open_tree, AT_FDCWD, lower, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	must(tree, lower);
	idmap.userns_fd = namespace;
	must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &idmap, sizeof idmap), "mount_setattr");
	close(namespace);
	must(overlay = syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC), "fsopen overlay");
	if (syscall(SYS_fsconfig, overlay, FSCONFIG_SET_FD, "lowerdir+", NULL, tree)) /* from Linux 6.13 */
		must(syscall(SYS_fsconfig, overlay, FSCONFIG_SET_STRING, "lowerdir", text("/proc/self/fd/%d", tree), 0),
		     "lowerdir");
	must(syscall(SYS_fsconfig, overlay, FSCONFIG_SET_STRING, "upperdir", place(number, "/upper"), 0), "upperdir");
	must(syscall(SYS_fsconfig, overlay, FSCONFIG_SET_STRING, "workdir", place(number, "/work"), 0), "workdir");
	must(syscall(SYS_fsconfig, overlay, FSCONFIG_CMD_CREATE, NULL, NULL, 0), "create overlay");
	must(root = syscall(SYS_fsmount, overlay, FSMOUNT_CLOEXEC, 0), "fsmount");
	close(overlay);
	close(tree);
	return root;
}

static void send_file(int socket, int file)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec data = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control,
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof file);
	memcpy(CMSG_DATA(header), &file, sizeof file);
	must(sendmsg(socket, &message, 0), "sendmsg");
}

static void begin(struct server *s)
{
	int pipe_[2], pair[2], attach[CONTROLLERS], born_in, root;
	int64_t t = s->began = now();
	struct clone_args arguments = {
		.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUSER,
		.exit_signal = SIGCHLD,
	};
	const char *map;
	pid_t pid;

	born_in = make_groups(s->number, attach);
	t = lap(s, GROUPS, t);
	make_folders(s->number);
	t = lap(s, FOLDERS, t);
	must(pipe2(pipe_, O_CLOEXEC), "pipe2");
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
	if (born_in >= 0) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = born_in;
	}
	/* Not into `s` at once: the child, which gets 0, shares that memory. */
	pid = syscall(SYS_clone3, &arguments, sizeof arguments);
	if (!pid) {
		close(pipe_[0]);
		close(pair[0]);
		be_server(s, pipe_[1], pair[1], attach);
	}
	must(s->pid = pid, "clone3");
	s->up = pipe_[0];
	close(pipe_[1]);
	close(pair[1]);
	for (int c = 0; c < CONTROLLERS; c++)
		if (attach[c] >= 0)
			close(attach[c]);
	if (born_in >= 0)
		close(born_in);
	t = lap(s, CLONE, t);
	map = text("0 %d %d\n", FIRST_ID + (s->number - 1) * IDS, IDS);
	must(write_file(text("/proc/%d/uid_map", s->pid), map), "uid_map");
	must(write_file(text("/proc/%d/gid_map", s->pid), map), "gid_map");
	t = lap(s, IDS_WRITTEN, t);
	if (bridge)
		must(make_veth(route_socket, link_of(s->number), bridge, s->pid), "veth");
	t = lap(s, VETH, t);
	root = make_root(s->number, s->pid);
	send_file(pair[0], root);
	close(root);
	close(pair[0]);
	lap(s, ROOT_MADE, t);
}

static void await(struct server *s)
{
	char byte;

	if (read(s->up, &byte, 1) != 0) {
		errno = 0;
		stop(text("server %d: %s", s->number, s->complaint));
	}
	close(s->up);
	lap(s, EXEC, s->executed);
}

/* ---- the host ------------------------------------------------------------------------------------------- */

static int is_word_of(const char *word, const char *list)
{
	for (const char *at = list; (at = strstr(at, word)); at++) {
		char before = at == list ? ',' : at[-1], after = at[strlen(word)];

		if (strchr(", ", before) && (!after || strchr(", \n", after)))
			return 1;
	}
	return 0;
}

/* proc_pid_mountinfo(5): the mount point is the fifth field, the type and the options stand after " - ". */
static void find_controllers(void)
{
	char line[4096], unified[LONGEST] = "";
	FILE *mounts = fopen("/proc/self/mountinfo", "r");

	while (mounts && fgets(line, sizeof line, mounts)) {
		char point[LONGEST], type[64], options[1024] = "";
		const char *tail = strstr(line, " - ");

		if (!tail || sscanf(line, "%*s %*s %*s %*s %511s", point) != 1 ||
		    sscanf(tail, " - %63s %*s %1023s", type, options) != 2)
			continue;
		if (!strcmp(type, "cgroup2") && !*unified)
			strcpy(unified, point);
		for (int c = 0; c < CONTROLLERS && !strcmp(type, "cgroup"); c++)
			if (is_word_of(controllers[c].name, options))
				strcpy(controllers[c].mount, point);
	}
	if (mounts)
		fclose(mounts);
	for (int c = 0; c < CONTROLLERS; c++)
		if (!*controllers[c].mount) {
			strcpy(controllers[c].mount, unified);
			controllers[c].unified = unified_needed = 1;
		}
}

static void choose_limits(void)
{
	if (controllers[0].unified) {
		controllers[0].limits[0].file = "cpu.max";
		controllers[0].limits[0].text = "50000 100000";
	} else {
		controllers[0].limits[0].file = "cpu.cfs_period_us";
		controllers[0].limits[0].text = "100000";
		controllers[0].limits[1].file = "cpu.cfs_quota_us";
		controllers[0].limits[1].text = "50000";
	}
	controllers[1].limits[0].file = controllers[1].unified ? "memory.max" : "memory.limit_in_bytes";
	controllers[1].limits[0].text = "67108864";
	controllers[2].limits[0].file = "pids.max";
	controllers[2].limits[0].text = "128";
}

static void make_parents(void)
{
	for (int c = 0; c < CONTROLLERS; c++) {
		const char *path = text("%s/%s", controllers[c].mount, group);
		const char *enable = text("+%s", controllers[c].name);

		if (!shares_mount(c))
			must(mkdir(path, 0755), path);
		if (controllers[c].unified) {
			must(write_file(text("%s/cgroup.subtree_control", controllers[c].mount), enable), enable);
			must(write_file(text("%s/cgroup.subtree_control", path), enable), enable);
		}
	}
}

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

/* ---- what it took --------------------------------------------------------------------------------------- */

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
