/* What starts a server. */
#include "floor.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

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

void begin(struct server *s)
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

void await(struct server *s)
{
	char byte;

	if (read(s->up, &byte, 1) != 0) {
		errno = 0;
		stop(text("server %d: %s", s->number, s->complaint));
	}
	close(s->up);
	lap(s, EXEC, s->executed);
}
