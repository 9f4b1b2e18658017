/*
 * The topology's own side: filling it within its limits, printing it, binding a thread, and asking the kernel
 * where pages lie. Control thread; a role binds itself once, when it starts.
 */
#include "base/base_topo.h"

#include "base/base_error.h"
#include "base/base_log.h"
#include "base/base_topo_read.h"

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGES_SAMPLED = 4096 };

void base_topo_add_node(struct base_topo *topo, uint32_t os_index, uint64_t memory_bytes)
{
	if (topo->node_count == BASE_TOPO_NODES) {
		topo->left_out++;
		return;
	}
	topo->nodes[topo->node_count++] = (struct base_topo_node){
		.os_index = os_index, .memory_bytes = memory_bytes};
}

static void begin_core(struct base_topo *topo, uint32_t node, uint32_t package)
{
	struct base_topo_node *of = &topo->nodes[node];

	if (of->core_count++ == 0)
		of->first_core = topo->core_count;
	topo->cores[topo->core_count++] = (struct base_topo_core){
		.node = node, .package = package, .first_pu = topo->pu_count};
}

void base_topo_add_pu(struct base_topo *topo, uint32_t core, uint32_t node, uint32_t package,
	uint32_t pu_os_index)
{
	if (topo->pu_count == BASE_TOPO_PUS || core >= BASE_TOPO_CORES || node >= topo->node_count) {
		topo->left_out++;
		return;
	}
	if (core == topo->core_count)
		begin_core(topo, node, package);
	topo->pus[topo->pu_count++] = pu_os_index;
	topo->cores[core].pu_count++;
}

void base_topo_add_device(struct base_topo *topo, const char *name, const char *kind, uint32_t node)
{
	struct base_topo_device *device;

	if (topo->device_count == BASE_TOPO_DEVICES) {
		topo->left_out++;
		return;
	}
	device = &topo->devices[topo->device_count++];
	snprintf(device->name, sizeof(device->name), "%.31s", name);
	snprintf(device->kind, sizeof(device->kind), "%.15s", kind);
	device->node = node;
}

static uint64_t huge_pages(const char *name)
{
	char path[128];
	uint64_t count = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-2048kB/%s", name);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%" SCNu64, &count) != 1)
		count = 0;
	fclose(file);
	return count;
}

/* Memory that a hypervisor added later is missing from the node's own count. */
static void count_added_memory(struct base_topo *topo)
{
	uint64_t bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

	if (topo->node_count == 1 && topo->nodes[0].memory_bytes < bytes)
		topo->nodes[0].memory_bytes = bytes;
}

int base_topo_read(struct base_topo *topo)
{
	int err;

	memset(topo, 0, sizeof(*topo));
	err = base_topo_read_machine(topo);
	if (err != 0)
		return err;
	if (topo->pu_count == 0)
		return base_fail(ENODEV, "no processor was found that this process may run on");
	topo->numa = topo->node_count > 1;
	if (topo->is_this_machine) {
		topo->huge_2m_total = huge_pages("nr_hugepages");
		topo->huge_2m_free = huge_pages("free_hugepages");
		count_added_memory(topo);
	}
	if (topo->left_out)
		base_log(BASE_LOG_WARN, "control", "topology_cut",
			"left_out=%" PRIu32 " max_nodes=%d max_cores=%d max_processors=%d max_devices=%d",
			topo->left_out, BASE_TOPO_NODES, BASE_TOPO_CORES, BASE_TOPO_PUS, BASE_TOPO_DEVICES);
	return 0;
}

static int by_number(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

	return (a > b) - (a < b);
}

/* "0-3,8,10-11"; sorts the numbers. */
static void print_list(uint32_t *numbers, uint32_t count, FILE *file)
{
	qsort(numbers, count, sizeof(*numbers), by_number);
	for (uint32_t i = 0; i < count;) {
		uint32_t last = i;

		while (last + 1 < count && numbers[last + 1] == numbers[last] + 1)
			last++;
		fprintf(file, "%s%" PRIu32, i ? "," : "", numbers[i]);
		if (last > i)
			fprintf(file, "-%" PRIu32, numbers[last]);
		i = last + 1;
	}
}

static void print_bytes(uint64_t bytes, FILE *file)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)bytes;
	size_t unit = 0;

	for (; value >= 1024 && unit < 4; unit++)
		value /= 1024;
	fprintf(file, value < 10 && unit > 0 && value != (double)(int)value ? "%.1f %s" : "%.0f %s", value,
		units[unit]);
}

static void print_node(const struct base_topo *topo, uint32_t node, FILE *file)
{
	const struct base_topo_node *of = &topo->nodes[node];
	uint32_t pus[BASE_TOPO_PUS], count = 0;
	bool last = node + 1 == topo->node_count;

	fprintf(file, "%s node %" PRIu32 ": ", last ? "`-" : "|-", of->os_index);
	print_bytes(of->memory_bytes, file);
	fprintf(file, ", %" PRIu32 " cores", of->core_count);
	for (uint32_t i = 0; i < topo->core_count; i++)
		for (uint32_t k = 0; topo->cores[i].node == node && k < topo->cores[i].pu_count; k++)
			pus[count++] = topo->pus[topo->cores[i].first_pu + k];
	if (count > 0) {
		fprintf(file, ", processors ");
		print_list(pus, count, file);
	}
	fputc('\n', file);
	for (uint32_t i = 0; i < topo->device_count; i++)
		if (topo->devices[i].node == node)
			fprintf(file, "%s   - %s %s\n", last ? " " : "|", topo->devices[i].kind,
				topo->devices[i].name);
}

void base_topo_print(const struct base_topo *topo, FILE *file)
{
	fprintf(file, "%s: %" PRIu32 " %s, %" PRIu32 " cores, %" PRIu32 " processors, L2 ",
		topo->is_this_machine ? "this machine" : "another machine (hwloc's variables are set)",
		topo->node_count, topo->numa ? "nodes" : "node", topo->core_count, topo->pu_count);
	print_bytes(topo->l2_bytes, file);
	fprintf(file, ", L3 ");
	print_bytes(topo->l3_bytes, file);
	fprintf(file, ", huge pages %" PRIu64 " of %" PRIu64 " free\n", topo->huge_2m_free,
		topo->huge_2m_total);
	for (uint32_t node = 0; node < topo->node_count; node++)
		print_node(topo, node, file);
	for (uint32_t i = 0; i < topo->device_count; i++)
		if (topo->devices[i].node == BASE_TOPO_ANY_NODE)
			fprintf(file, "   - %s %s (next to no single node)\n", topo->devices[i].kind,
				topo->devices[i].name);
}

int base_topo_bind_self(const struct base_topo *topo, uint32_t pu_os_index)
{
	size_t mask_bytes = CPU_ALLOC_SIZE(pu_os_index + 1);
	cpu_set_t *mask;
	int result = 0;

	if (!topo->is_this_machine)
		return -ENOTSUP;
	mask = CPU_ALLOC(pu_os_index + 1);
	if (!mask)
		return base_fail(ENOMEM, "no memory to bind to processor %" PRIu32, pu_os_index);
	CPU_ZERO_S(mask_bytes, mask);
	CPU_SET_S(pu_os_index, mask_bytes, mask);
	if (sched_setaffinity(0, mask_bytes, mask) != 0)
		result = base_fail(errno, "cannot bind to processor %" PRIu32 " (errno %d): it must be in this "
			"process's set", pu_os_index, errno);
	CPU_FREE(mask);
	return result;
}

/* Without a list of target nodes move_pages(2) moves nothing and reports where each page lies. */
int base_topo_pages(const void *memory, size_t size_bytes, uint32_t *pages_per_node)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE), step, count = 0;
	uintptr_t start = (uintptr_t)memory & ~(page_bytes - 1), end = (uintptr_t)memory + size_bytes;
	size_t pages = (end - start + page_bytes - 1) / page_bytes;
	void *addresses[PAGES_SAMPLED];
	int status[PAGES_SAMPLED], found = 0;

	memset(pages_per_node, 0, BASE_TOPO_NODES * sizeof(*pages_per_node));
	step = (pages + PAGES_SAMPLED - 1) / PAGES_SAMPLED;
	for (size_t page = 0; page < pages; page += step)
		addresses[count++] = (void *)(start + page * page_bytes);
	if (count == 0)
		return 0;
	if (syscall(SYS_move_pages, 0, count, addresses, NULL, status, 0) != 0)
		return base_fail(errno, "the kernel does not say where pages lie (errno %d)", errno);
	for (size_t i = 0; i < count; i++) {
		if (status[i] >= 0 && status[i] < BASE_TOPO_NODES) {
			pages_per_node[status[i]]++;
			found++;
		}
	}
	return found;
}
