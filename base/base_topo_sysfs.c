/*
 * Reads the machine from /sys, for builds without hwloc. Control thread, at start. It knows what placement
 * needs: nodes, cores, processors, caches, and the nodes of network cards, disks and GPUs.
 */
#include "base/base_topo_read.h"

#include "base/base_error.h"

#include <dirent.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 512, TEXT_BYTES = 4096 };

/* The processors that one thread may use, that belong to one node, or that share one core. */
struct pu_set {
	unsigned char has[BASE_TOPO_PUS];
};

/* The start of a file as text; false where there is none. */
__attribute__((format(printf, 2, 3)))
static bool read_text(char text[TEXT_BYTES], const char *format, ...)
{
	char path[PATH_BYTES];
	va_list arguments;
	size_t length;
	FILE *file;

	va_start(arguments, format);
	vsnprintf(path, sizeof(path), format, arguments);
	va_end(arguments);
	file = fopen(path, "re");
	if (!file)
		return false;
	length = fread(text, 1, TEXT_BYTES - 1, file);
	fclose(file);
	text[length] = '\0';
	return length > 0;
}

/* A list as the kernel writes it: "0-3,8,10-11". */
static void parse_list(const char *text, struct pu_set *set)
{
	memset(set, 0, sizeof(*set));
	while (*text >= '0' && *text <= '9') {
		char *end;
		unsigned long first = strtoul(text, &end, 10);
		unsigned long last = *end == '-' ? strtoul(end + 1, &end, 10) : first;

		for (unsigned long i = first; i <= last && i < BASE_TOPO_PUS; i++)
			set->has[i] = 1;
		text = *end == ',' ? end + 1 : end;
	}
}

/* What this thread may run on. */
static int read_allowed(struct pu_set *allowed)
{
	cpu_set_t *mask = CPU_ALLOC(BASE_TOPO_PUS);
	size_t mask_bytes = CPU_ALLOC_SIZE(BASE_TOPO_PUS);
	int err = mask ? 0 : ENOMEM;

	if (mask && sched_getaffinity(0, mask_bytes, mask) != 0)
		err = errno;
	for (size_t i = 0; err == 0 && i < BASE_TOPO_PUS; i++)
		allowed->has[i] = CPU_ISSET_S(i, mask_bytes, mask) != 0;
	CPU_FREE(mask);
	return err ? base_fail(err, "cannot read which processors may be used (errno %d)", err) : 0;
}

static uint32_t package_of(uint32_t pu)
{
	char text[TEXT_BYTES];

	return read_text(text, "/sys/devices/system/cpu/cpu%u/topology/physical_package_id", pu) ?
		(uint32_t)atoi(text) : 0;
}

/* Adds the core of one processor, and takes its processors out of the set that is still to be placed. */
static void add_core(struct base_topo *topo, uint32_t node, uint32_t pu, struct pu_set *left)
{
	uint32_t core = topo->core_count, package = package_of(pu);
	struct pu_set siblings = {{0}};
	char text[TEXT_BYTES];

	if (read_text(text, "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", pu))
		parse_list(text, &siblings);
	siblings.has[pu] = 1;
	for (uint32_t i = 0; i < BASE_TOPO_PUS; i++) {
		if (siblings.has[i] && left->has[i]) {
			base_topo_add_pu(topo, core, node, package, i);
			left->has[i] = 0;
		}
	}
}

static void add_cores(struct base_topo *topo, uint32_t node, const struct pu_set *of_node,
	struct pu_set *left)
{
	for (uint32_t pu = 0; pu < BASE_TOPO_PUS; pu++)
		if (left->has[pu] && of_node->has[pu])
			add_core(topo, node, pu, left);
}

/* "Node 0 MemTotal:  123 kB", or without the node in /proc/meminfo. */
static uint64_t memory_bytes(const char *text)
{
	const char *at = strstr(text, "MemTotal:");
	uint64_t kib = 0;

	if (!at || sscanf(at, "MemTotal: %" SCNu64, &kib) != 1)
		return 0;
	return kib << 10;
}

static void read_nodes(struct base_topo *topo, struct pu_set *left)
{
	struct pu_set of_node;
	char text[TEXT_BYTES];

	for (uint32_t os_index = 0; os_index < 1024; os_index++) {
		if (!read_text(text, "/sys/devices/system/node/node%u/cpulist", os_index))
			continue;
		parse_list(text, &of_node);
		text[0] = '\0';
		read_text(text, "/sys/devices/system/node/node%u/meminfo", os_index);
		base_topo_add_node(topo, os_index, memory_bytes(text));
		add_cores(topo, topo->node_count - 1, &of_node, left);
	}
	if (topo->node_count == 0) {
		text[0] = '\0';
		read_text(text, "/proc/meminfo");
		base_topo_add_node(topo, 0, memory_bytes(text));
		add_cores(topo, 0, left, left);
	}
}

static void read_caches(struct base_topo *topo)
{
	char text[TEXT_BYTES];

	for (int index = 0; index < 8; index++) {
		const char *cache = "/sys/devices/system/cpu/cpu0/cache";
		uint64_t bytes;
		int level;

		if (!read_text(text, "%s/index%d/level", cache, index))
			return;
		level = atoi(text);
		if (!read_text(text, "%s/index%d/size", cache, index))
			return;
		bytes = strtoull(text, NULL, 10) << (strchr(text, 'M') ? 20 : strchr(text, 'K') ? 10 : 0);
		if (level == 2)
			topo->l2_bytes = bytes;
		else if (level == 3)
			topo->l3_bytes = bytes;
	}
}

static uint32_t node_of_device(const struct base_topo *topo, const char *folder, const char *name)
{
	char text[TEXT_BYTES];

	if (topo->node_count == 1)
		return 0;
	if (read_text(text, "%s/%s/device/numa_node", folder, name))
		for (uint32_t i = 0; i < topo->node_count; i++)
			if ((int)topo->nodes[i].os_index == atoi(text))
				return i;
	return BASE_TOPO_ANY_NODE;
}

/* Devices that have hardware behind them, and whose name begins as asked and is no part of another one's. */
static void read_devices(struct base_topo *topo, const char *folder, const char *prefix, const char *kind)
{
	DIR *list = opendir(folder);
	struct dirent *entry;
	char text[TEXT_BYTES];

	if (!list)
		return;
	while ((entry = readdir(list)) != NULL) {
		const char *name = entry->d_name;

		if (strncmp(name, prefix, strlen(prefix)) == 0 && !strchr(name, '-') &&
			read_text(text, "%s/%s/device/uevent", folder, name))
			base_topo_add_device(topo, name, kind, node_of_device(topo, folder, name));
	}
	closedir(list);
}

int base_topo_read_machine(struct base_topo *topo)
{
	struct pu_set left;
	int err = read_allowed(&left);

	if (err != 0)
		return err;
	topo->is_this_machine = true;
	read_nodes(topo, &left);
	read_caches(topo);
	read_devices(topo, "/sys/class/net", "", "net");
	read_devices(topo, "/sys/class/drm", "card", "gpu");
	read_devices(topo, "/sys/block", "", "block");
	return 0;
}
