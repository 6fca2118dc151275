/* The server to be, until it executes its command. */
#include "floor.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* glibc's <sys/mount.h> and the kernel's <linux/mount.h> cannot be included together before glibc 2.37. */
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
enum { DETACH = 2 }; /* MNT_DETACH */

#define TRY(call) do { if ((call) < 0) complain(s, status, #call); } while (0)

__attribute__((noreturn)) static void complain(struct server *s, int status, const char *what)
{
	snprintf(s->complaint, sizeof s->complaint, "%s: %s", what, strerror(errno));
	if (write(status, "!", 1) < 0)
		_exit(112);
	_exit(111);
}

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

void be_server(struct server *s, int status, int socket, const int *attach)
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
