/* What all of floor uses: times, texts, names, failures. */
#include "floor.h"

#include <fcntl.h>
#include <stdarg.h>
#include <time.h>

struct server *servers;
int count = 1, route_socket;
unsigned bridge;
const char *lower, *folder, *group;

int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t lap(struct server *s, enum step step, int64_t since)
{
	int64_t t = now();

	s->spent[step] += t - since;
	return t;
}

const char *text(const char *format, ...)
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

const char *place(int number, const char *below)
{
	return text("%s/%d%s", folder, number, below);
}

const char *link_of(int number)
{
	return text("vf%d.%d", (int)getpid(), number); /* the PID, for those of another run may still be dying */
}

int write_file(const char *path, const char *content)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t written;

	if (file < 0)
		return -1;
	written = write(file, content, strlen(content));
	close(file);
	return written < 0 ? -1 : 0;
}

void stop(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

int must(int result, const char *what)
{
	if (result < 0)
		stop(what);
	return result;
}
