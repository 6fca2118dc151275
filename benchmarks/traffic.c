/* TCP traffic between two network namespaces.
 *
 *   traffic serve PORT                        answer any number of clients, one after the other
 *   traffic stream ADDRESS PORT MILLISECONDS  bytes per second to the server
 *   traffic ping ADDRESS PORT TIMES           ns for sending one byte and getting one back; median
 *   traffic connect ADDRESS PORT TIMES        ns for a new connection, one byte and back; median
 *
 * IPv4. The first byte that a client sends tells the server what to do. Both run on one CPU, where a stream shows the
 * whole cost of a packet; the scheduler would choose CPUs arbitrarily. Link it statically, so that it runs in any root.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { STREAM = 's', PING = 'p', BLOCK = 1 << 17 };

static char block[BLOCK];

static void must(int ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
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

static struct sockaddr_in address(const char *host, const char *port)
{
	struct sockaddr_in found = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };

	must(inet_pton(AF_INET, host, &found.sin_addr) == 1, host);
	return found;
}

static int tcp_socket(void)
{
	int one = 1, found = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	must(found >= 0, "socket");
	must(!setsockopt(found, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), "TCP_NODELAY");
	must(!setsockopt(found, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "SO_REUSEADDR");
	return found;
}

/* ---- server --------------------------------------------------------------------------------------------- */

static void answer(int client)
{
	int64_t received = 0;
	char byte = 0;
	ssize_t got;

	if (read(client, &byte, 1) != 1)
		return;
	if (byte == PING) {
		while (write(client, &byte, 1) == 1 && read(client, &byte, 1) == 1)
			;
		return;
	}
	while ((got = read(client, block, sizeof block)) > 0)
		received += got;
	must(write(client, &received, sizeof received) == sizeof received, "write");
}

static void serve(const char *port)
{
	struct sockaddr_in all = address("0.0.0.0", port);
	int listening = tcp_socket(), client;

	must(!bind(listening, (struct sockaddr *)&all, sizeof all), "bind");
	must(!listen(listening, 64), "listen");
	for (;;) {
		must((client = accept4(listening, NULL, NULL, SOCK_CLOEXEC)) >= 0, "accept");
		answer(client);
		close(client);
	}
}

/* ---- client --------------------------------------------------------------------------------------------- */

static int ask_for(char what, struct sockaddr_in server)
{
	int connection = tcp_socket();

	must(!connect(connection, (struct sockaddr *)&server, sizeof server), "connect");
	must(write(connection, &what, 1) == 1, "write");
	return connection;
}

static double stream(struct sockaddr_in server, int64_t milliseconds)
{
	int connection = ask_for(STREAM, server);
	int64_t start = now(), end = start + milliseconds * 1000000, received = 0;

	while (now() < end)
		must(write(connection, block, sizeof block) > 0, "write");
	must(!shutdown(connection, SHUT_WR), "shutdown");
	must(read(connection, &received, sizeof received) == sizeof received, "read");
	return received / ((now() - start) / 1e9);
}

static int ascending(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

static double median(int64_t *times, int count)
{
	qsort(times, count, sizeof *times, ascending);
	return times[count / 2];
}

static double ping(struct sockaddr_in server, int64_t *times, int count)
{
	int connection = ask_for(PING, server);
	char byte = PING;

	must(read(connection, &byte, 1) == 1, "read");
	for (int i = 0; i < count; i++) {
		int64_t start = now();

		must(write(connection, &byte, 1) == 1 && read(connection, &byte, 1) == 1, "ping");
		times[i] = now() - start;
	}
	return median(times, count);
}

static double connect_often(struct sockaddr_in server, int64_t *times, int count)
{
	for (int i = 0; i < count; i++) {
		int64_t start = now();
		int connection = ask_for(PING, server);
		char byte;

		must(read(connection, &byte, 1) == 1, "read");
		times[i] = now() - start;
		close(connection);
	}
	return median(times, count);
}

int main(int argc, char **argv)
{
	int64_t *times;
	int count;

	stay_on_one_processor();
	if (argc == 3 && !strcmp(argv[1], "serve"))
		serve(argv[2]);
	count = argc == 5 ? atoi(argv[4]) : 0;
	if (count < 1) {
		fprintf(stderr, "traffic serve PORT | traffic stream|ping|connect ADDRESS PORT NUMBER\n");
		return 2;
	}
	must((times = calloc(count, sizeof *times)) != NULL, "calloc");
	if (!strcmp(argv[1], "stream"))
		printf("%.0f\n", stream(address(argv[2], argv[3]), count));
	else if (!strcmp(argv[1], "ping"))
		printf("%.0f\n", ping(address(argv[2], argv[3]), times, count));
	else
		printf("%.0f\n", connect_often(address(argv[2], argv[3]), times, count));
	return 0;
}
