/*
 * The topology of this machine and of recorded and made-up ones: counts, neighbourhood of devices, the
 * person's view, binding, and where pages lie.
 */
#include "base/base_topo.h"

#include "base/base_error.h"
#include "base/base_features.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/recorded_machine.h"
static struct base_topo topo;

static int forget_other_machines(void **state)
{
	(void)state;
	unsetenv("HWLOC_SYNTHETIC");
	unsetenv("HWLOC_XMLFILE");
	return 0;
}

static void read_machine(const char *variable, const char *value)
{
	if (!BASE_HAVE_HWLOC) {
		print_message("skip: built without hwloc\n");
		skip();
	}
	setenv(variable, value, 1);
	if (base_topo_read(&topo) != 0)
		fail_msg("%s", base_error_message());
	assert_false(topo.is_this_machine);
}

/* Every processor in exactly one core, every core in exactly one node, in order. */
static void check_consistent(void)
{
	uint32_t next_pu = 0, cores = 0;

	for (uint32_t i = 0; i < topo.core_count; i++) {
		assert_int_equal(topo.cores[i].first_pu, next_pu);
		assert_true(topo.cores[i].pu_count > 0);
		next_pu += topo.cores[i].pu_count;
	}
	assert_int_equal(next_pu, topo.pu_count);
	for (uint32_t node = 0; node < topo.node_count; node++) {
		const struct base_topo_node *of = &topo.nodes[node];

		for (uint32_t i = 0; i < of->core_count; i++)
			assert_int_equal(topo.cores[of->first_core + i].node, node);
		cores += of->core_count;
	}
	assert_int_equal(cores, topo.core_count);
	for (uint32_t a = 0; a < topo.pu_count; a++)
		for (uint32_t b = a + 1; b < topo.pu_count; b++)
			assert_int_not_equal(topo.pus[a], topo.pus[b]);
}

/* The person's view; the caller frees it. */
static char *print_topo(void)
{
	char *text = NULL;
	size_t length;
	FILE *file = open_memstream(&text, &length);

	base_topo_print(&topo, file);
	fclose(file);
	return text;
}

static void test_this_machine(void **state)
{
	cpu_set_t allowed;
	char *text;

	(void)state;
	assert_int_equal(base_topo_read(&topo), 0);
	assert_true(topo.is_this_machine);
	assert_int_equal(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
	assert_int_equal(topo.pu_count, CPU_COUNT(&allowed));
	for (uint32_t i = 0; i < topo.pu_count; i++)
		assert_true(CPU_ISSET(topo.pus[i], &allowed));
	assert_true(topo.nodes[0].memory_bytes > 0);
	assert_int_equal(topo.numa, topo.node_count > 1);
	check_consistent();
	text = print_topo();
	assert_non_null(strstr(text, "this machine: "));
	free(text);
}

static void test_only_allowed_processors(void **state)
{
	cpu_set_t all, one;
	uint32_t pu;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	assert_int_equal(base_topo_read(&topo), 0);
	pu = topo.pus[topo.pu_count - 1];
	assert_int_equal(base_topo_bind_self(&topo, pu), 0);
	assert_int_equal(sched_getaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(CPU_COUNT(&one), 1);
	assert_true(CPU_ISSET(pu, &one));

	assert_int_equal(base_topo_read(&topo), 0);
	assert_int_equal(topo.pu_count, 1);
	assert_int_equal(topo.core_count, 1);
	assert_int_equal(topo.pus[0], pu);
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	assert_true(base_topo_bind_self(&topo, 100000) < 0);
	assert_non_null(strstr(base_error_message(), "100000"));
}

static void test_made_up_machine(void **state)
{
	(void)state;
	read_machine("HWLOC_SYNTHETIC", "pack:2 [numa(memory=1073741824)] l3:2(size=16777216) core:4 pu:2");
	assert_int_equal(topo.node_count, 2);
	assert_true(topo.numa);
	assert_int_equal(topo.core_count, 16);
	assert_int_equal(topo.pu_count, 32);
	assert_int_equal(topo.l3_bytes, 16777216);
	assert_int_equal(topo.nodes[1].first_core, 8);
	assert_int_equal(topo.nodes[1].core_count, 8);
	assert_int_equal(topo.nodes[1].memory_bytes, 1073741824);
	assert_int_equal(topo.cores[15].package, 1);
	check_consistent();
	assert_int_equal(base_topo_bind_self(&topo, 0), -ENOTSUP);
}

/* Two kinds of memory next to each package: the first node has the cores, the second one is memory alone. */
static void test_nodes_without_cores(void **state)
{
	(void)state;
	read_machine("HWLOC_SYNTHETIC", "pack:2 [numa] [numa] core:3 pu:1");
	assert_int_equal(topo.node_count, 4);
	assert_int_equal(topo.core_count, 6);
	assert_int_equal(topo.nodes[0].core_count, 3);
	assert_int_equal(topo.nodes[1].core_count, 0);
	assert_int_equal(topo.nodes[2].core_count, 3);
	assert_int_equal(topo.nodes[2].first_core, 3);
	assert_int_equal(topo.nodes[3].core_count, 0);
	check_consistent();
}

/* A description without a core level. */
static void test_processors_without_cores(void **state)
{
	(void)state;
	read_machine("HWLOC_SYNTHETIC", "numa:2 pu:3");
	assert_int_equal(topo.core_count, 6);
	assert_int_equal(topo.pu_count, 6);
	check_consistent();
}

static void test_machine_beyond_the_limits(void **state)
{
	(void)state;
	read_machine("HWLOC_SYNTHETIC", "numa:2 core:800 pu:2");
	assert_int_equal(topo.core_count, BASE_TOPO_CORES);
	assert_int_equal(topo.left_out, 2 * (1600 - BASE_TOPO_CORES));
	check_consistent();
}

static void test_devices_and_their_nodes(void **state)
{
	char *text;

	(void)state;
	read_machine("HWLOC_XMLFILE", "tests/data/two-nodes-nic-gpu.xml");
	assert_int_equal(topo.node_count, 2);
	assert_int_equal(topo.device_count, 3);
	assert_string_equal(topo.devices[0].name, "enp1s0");
	assert_string_equal(topo.devices[0].kind, "net");
	assert_int_equal(topo.devices[0].node, 0);
	assert_string_equal(topo.devices[1].kind, "block");
	assert_string_equal(topo.devices[2].name, "cuda0");
	assert_string_equal(topo.devices[2].kind, "gpu");
	assert_int_equal(topo.devices[2].node, 1);
	check_consistent();

	text = print_topo();
	assert_string_equal(text,
		"another machine (hwloc's variables are set): 2 nodes, 8 cores, 16 processors, L2 1 MiB, "
		"L3 32 MiB, huge pages 0 of 0 free\n"
		"|- node 0: 64 GiB, 4 cores, processors 0-7\n"
		"|   - net enp1s0\n"
		"|   - block nvme0n1\n"
		"`- node 1: 64 GiB, 4 cores, processors 8-15\n"
		"    - gpu cuda0\n");
	free(text);
}

static void test_recorded_machine(void **state)
{
	char path[32];

	(void)state;
	if (recorded_machine(path))
		skip();
	read_machine("HWLOC_XMLFILE", path);
	unlink(path);
	assert_int_equal(topo.core_count, 192);
	assert_int_equal(topo.pu_count, 384);
	assert_int_equal(topo.l2_bytes, 1 << 20);
	assert_int_equal(topo.l3_bytes, 32 << 20);
	assert_int_equal(topo.cores[191].package, 1);
	assert_int_equal(topo.cores[0].pu_count, 2);
	/* Siblings of one core are 192 apart on this machine. */
	assert_int_equal(topo.pus[topo.cores[5].first_pu], 5);
	assert_int_equal(topo.pus[topo.cores[5].first_pu + 1], 197);
	check_consistent();
}

static void test_unreadable_machine(void **state)
{
	(void)state;
	if (!BASE_HAVE_HWLOC)
		skip();
	setenv("HWLOC_XMLFILE", "/nonexistent.xml", 1);
	assert_true(base_topo_read(&topo) < 0 || topo.is_this_machine);
}

static void test_pages(void **state)
{
	enum { PAGES = 6000 };
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	unsigned char *memory = mmap(NULL, PAGES * page_bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t per_node[BASE_TOPO_NODES], sum = 0;
	int found;

	(void)state;
	madvise(memory, PAGES * page_bytes, MADV_NOHUGEPAGE);
	found = base_topo_pages(memory, PAGES * page_bytes, per_node);
	if (found == -ENOSYS || found == -EPERM) {
		print_message("skip: %s\n", base_error_message());
		skip();
	}
	assert_int_equal(found, 0);
	memset(memory, 1, PAGES * page_bytes);
	found = base_topo_pages(memory, PAGES * page_bytes, per_node);
	assert_int_equal(found, PAGES / 2);
	for (int i = 0; i < BASE_TOPO_NODES; i++)
		sum += per_node[i];
	assert_int_equal(sum, PAGES / 2);
	assert_int_equal(base_topo_pages(memory, 1, per_node), 1);
	assert_int_equal(base_topo_pages(memory, 0, per_node), 0);
	munmap(memory, PAGES * page_bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_this_machine, forget_other_machines),
		cmocka_unit_test_teardown(test_only_allowed_processors, forget_other_machines),
		cmocka_unit_test_teardown(test_made_up_machine, forget_other_machines),
		cmocka_unit_test_teardown(test_nodes_without_cores, forget_other_machines),
		cmocka_unit_test_teardown(test_processors_without_cores, forget_other_machines),
		cmocka_unit_test_teardown(test_machine_beyond_the_limits, forget_other_machines),
		cmocka_unit_test_teardown(test_devices_and_their_nodes, forget_other_machines),
		cmocka_unit_test_teardown(test_recorded_machine, forget_other_machines),
		cmocka_unit_test_teardown(test_unreadable_machine, forget_other_machines),
		cmocka_unit_test_teardown(test_pages, forget_other_machines),
	};

	forget_other_machines(NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
