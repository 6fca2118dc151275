/* The cost of common operations, on the host and in a server: nanoseconds per operation, as one JSON object.
 *
 *   inside FOLDER      FOLDER is a directory on a tmpfs
 *
 * fork: fork a child that exits, and wait; exec: the same, but the child executes this program, which exits; pipe: send
 * one byte to another process and back; file: create, write 4 KiB, close, open, read, close and unlink; getppid: the
 * cheapest system call, which shows the cost of a seccomp filter.
 *
 * Everything runs on one CPU: sending a byte to a process on another CPU takes several times as long, and the scheduler
 * would choose arbitrarily. Link it statically, so that it runs in any root.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char path[4096];

static void must(int ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "inside: %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void fork_once(void)
{
	pid_t child = fork();

	must(child >= 0, "fork");
	if (!child)
		_exit(0);
	must(waitpid(child, NULL, 0) == child, "waitpid");
}

static void exec_once(void)
{
	int status;
	pid_t child = fork();

	must(child >= 0, "fork");
	if (!child) {
		execl("/proc/self/exe", "inside", (char *)NULL);
		_exit(1);
	}
	must(waitpid(child, &status, 0) == child && !status, "exec");
}

static void file_once(void)
{
	static char block[4096];
	int file = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

	must(file >= 0 && write(file, block, sizeof block) == sizeof block && !close(file), path);
	file = open(path, O_RDONLY | O_CLOEXEC);
	must(file >= 0 && read(file, block, sizeof block) == sizeof block && !close(file), path);
	must(!unlink(path), path);
}

static int there[2], back[2];

static void pipe_once(void)
{
	char byte = 0;

	must(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1, "pipe");
}

static pid_t echo(void)
{
	char byte;
	pid_t child;

	must(!pipe2(there, O_CLOEXEC) && !pipe2(back, O_CLOEXEC), "pipe2");
	must((child = fork()) >= 0, "fork");
	if (child) {
		close(there[0]);
		return child;
	}
	close(there[1]);
	while (read(there[0], &byte, 1) == 1)
		must(write(back[1], &byte, 1) == 1, "pipe");
	_exit(0);
}

static void getppid_once(void)
{
	syscall(SYS_getppid);
}

static void stay_on_one_processor(void)
{
	cpu_set_t allowed, one;
	int cpu = 0;

	must(!sched_getaffinity(0, sizeof allowed, &allowed), "sched_getaffinity");
	while (!CPU_ISSET(cpu, &allowed))
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	must(!sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
}

static void measure(const char *name, void (*once)(void), int times)
{
	static int measured;
	double start;

	for (int i = 0; i < times / 10; i++)
		once();
	start = now();
	for (int i = 0; i < times; i++)
		once();
	printf("%s\"%s\": %.1f", measured++ ? ", " : "{", name, (now() - start) / times);
}

int main(int argc, char **argv)
{
	pid_t child;

	if (argc == 1)
		return 0; /* as executed by exec_once */
	stay_on_one_processor();
	snprintf(path, sizeof path, "%s/inside.%d", argv[1], (int)getpid());
	measure("fork", fork_once, 2000);
	measure("exec", exec_once, 1000);
	child = echo();
	measure("pipe", pipe_once, 20000);
	close(there[1]);
	must(waitpid(child, NULL, 0) == child, "waitpid");
	measure("file", file_once, 20000);
	measure("getppid", getppid_once, 1000000);
	printf("}\n");
	return 0;
}
