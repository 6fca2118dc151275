/* Control groups of v1 and v2, with their limits. */
#include "floor.h"

#include <fcntl.h>
#include <sys/stat.h>

static struct {
	const char *name;
	char mount[LONGEST];
	int unified;
	struct { const char *file, *text; } limits[2];
} controllers[CONTROLLERS] = {
	{ .name = "cpu" }, { .name = "memory" }, { .name = "pids" },
};

int unified_needed;

static const char *group_of(int controller, int number)
{
	return text("%s/%s/%d", controllers[controller].mount, group, number);
}

static int shares_mount(int controller)
{
	for (int before = 0; before < controller; before++)
		if (!strcmp(controllers[before].mount, controllers[controller].mount))
			return 1;
	return 0;
}

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
void find_controllers(void)
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

void choose_limits(void)
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

void make_parents(void)
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

/* Make the groups with their limits. `attach` gets a file for each v1 group, the result is the v2 group's or -1. */
int make_groups(int number, int *attach)
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

void remove_groups(void)
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
