/* What the files of floor share; main.c says what it does. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { CONTROLLERS = 3, FIRST_ID = 524288, IDS = 65536, LONGEST = 512 };

enum step {
	GROUPS, FOLDERS, CLONE, IDS_WRITTEN, VETH, ROOT_MADE,               /* in the parent */
	ATTACH, WAIT, MOUNTS, PIVOT, LOOPBACK, ADDRESS, CAPABILITIES, EXEC, /* in the server to be */
	STEPS
};

struct server {
	pid_t pid;
	int number, up; /* `up` reads end of file once execve has succeeded */
	int64_t began, executed, spent[STEPS];
	char complaint[128];
};

extern struct server *servers; /* shared, so that the children's times and complaints can be read */
extern int count, route_socket;
extern unsigned bridge; /* the index of the link; 0: no links */
extern const char *lower, *folder, *group;

/* common.c */
int64_t now(void);
int64_t lap(struct server *s, enum step step, int64_t since);
__attribute__((format(printf, 1, 2))) const char *text(const char *format, ...);
__attribute__((noreturn)) void stop(const char *what); /* the program, which cleans up */
int must(int result, const char *what);
int write_file(const char *path, const char *content);
const char *place(int number, const char *below);
const char *link_of(int number); /* the host's end of the pair */

/* groups.c */
extern int unified_needed;
void find_controllers(void);
void choose_limits(void);
void make_parents(void);
int make_groups(int number, int *attach);
void remove_groups(void);

/* up.c and down.c */
void begin(struct server *s);
void await(struct server *s);
void kill_all(void);
void await_links(void);
void remove_folders(void);

/* server.c */
__attribute__((noreturn)) void be_server(struct server *s, int status, int socket, const int *attach);

/* veth.c: these return -1 and set errno on failure. */
int open_route_socket(void);
int make_veth(int socket, const char *name, unsigned link, uint32_t pid);
int configure_veth(int number);
