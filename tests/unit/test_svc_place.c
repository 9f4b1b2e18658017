/*
 * Placement on machines that are not this one: synthetic ones, and recorded ones where the data is
 * there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "base/base_features.h"
#include "service/svc_place.h"
#include "tests/unit/recorded_machine.h"

static struct base_topo topo;
static struct svc_config config;
static struct svc_place place;

static void read_machine(const char *variable, const char *value)
{
	if (!BASE_HAVE_HWLOC)
		skip();
	setenv(variable, value, 1);
	int rc = base_topo_read(&topo);

	unsetenv(variable);
	assert_int_equal(rc, 0);
	svc_config_defaults(&config);
}

static uint32_t node_of(uint32_t cpu)
{
	for (uint32_t i = 0; i < topo.core_count; i++)
		for (uint32_t p = 0; p < topo.cores[i].pu_count; p++)
			if (topo.pus[topo.cores[i].first_pu + p] == cpu)
				return topo.cores[i].node;
	return UINT32_MAX;
}

/* What must hold on every machine: everybody on the device's own node, the data agent's core its
 * own, one worker a core. */
static void check_place(void)
{
	for (uint32_t d = 0; d < place.device_count; d++) {
		const struct svc_place_device *device = &place.devices[d];

		assert_int_equal(node_of((uint32_t)device->data_cpu), device->node);
		for (uint32_t w = 0; w < device->worker_count; w++) {
			assert_int_equal(node_of(device->worker_cpus[w]), device->node);
			assert_int_not_equal(device->worker_cpus[w], device->data_cpu);
			for (uint32_t v = 0; v < w; v++)
				assert_int_not_equal(
					device->worker_cpus[w], device->worker_cpus[v]);
		}
	}
}

static void test_two_nodes(void **state)
{
	(void)state;
	read_machine("HWLOC_SYNTHETIC", "pack:2 [numa] l3:2 core:4 pu:2");
	assert_int_equal(svc_place(&place, &topo, &config), 0);
	assert_int_equal(place.device_count, 2);
	assert_int_equal(place.devices[0].worker_count, 7);
	assert_int_equal(place.devices[1].worker_count, 7);
	check_place();
	config.nodes = SVC_NODES_FIRST;
	assert_int_equal(svc_place(&place, &topo, &config), 0);
	assert_int_equal(place.device_count, 1);
}

static void test_one_core(void **state)
{
	(void)state;
	read_machine("HWLOC_SYNTHETIC", "numa:1 core:1 pu:1");
	assert_int_equal(svc_place(&place, &topo, &config), 0);
	assert_int_equal(place.devices[0].worker_count, 0);
	config.workers = 2; /* asked for all the same: they share the core */
	assert_int_equal(svc_place(&place, &topo, &config), 0);
	assert_int_equal(place.devices[0].worker_count, 2);
}

static void test_configured(void **state)
{
	(void)state;
	read_machine("HWLOC_SYNTHETIC", "numa:1 core:4 pu:1");
	assert_int_equal(svc_config_set(&config, "placement.front_cpu=1"), 0);
	assert_int_equal(svc_config_set(&config, "placement.worker_cpus=2,3"), 0);
	assert_int_equal(svc_place(&place, &topo, &config), 0);
	assert_int_equal(place.devices[0].data_cpu, 1);
	assert_int_equal(place.devices[0].worker_count, 2);
	assert_int_equal(place.devices[0].worker_cpus[1], 3);
	config.front_cpu = 9;
	assert_int_equal(svc_place(&place, &topo, &config), -EINVAL);
	assert_non_null(strstr(base_error_message(), "front_cpu = 9"));
	config.front_cpu = 1;
	config.worker_cpus.cpus[0] = 77;
	assert_int_equal(svc_place(&place, &topo, &config), -EINVAL);
}

static void test_nic_decides(void **state)
{
	(void)state;
	read_machine("HWLOC_XMLFILE", "tests/data/two-nodes-nic-gpu.xml");
	assert_int_equal(svc_place(&place, &topo, &config), 0);
	for (uint32_t i = 0; i < topo.device_count; i++)
		if (!strcmp(topo.devices[i].kind, "net")) {
			assert_int_equal(place.devices[0].node, topo.devices[i].node);
			check_place();
			return;
		}
	fail_msg("the recorded machine has no network card");
}

static void test_recorded_epyc(void **state)
{
	char path[32];

	(void)state;
	if (recorded_machine(path))
		skip();
	read_machine("HWLOC_XMLFILE", path);
	unlink(path);
	assert_int_equal(svc_place(&place, &topo, &config), 0);
	assert_int_equal(place.device_count, topo.node_count);
	check_place();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_two_nodes),
		cmocka_unit_test(test_one_core),
		cmocka_unit_test(test_configured),
		cmocka_unit_test(test_nic_decides),
		cmocka_unit_test(test_recorded_epyc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
