/*
 * Reads the machine through hwloc, the one place that knows it. Control thread, at start. hwloc's variables
 * HWLOC_SYNTHETIC and HWLOC_XMLFILE put another machine in this one's place.
 */
#include "base/base_topo_read.h"

#include "base/base_error.h"

#include <hwloc.h>
#include <sched.h>
#include <string.h>

static bool is_core_of(hwloc_topology_t hwloc, hwloc_obj_t core, unsigned node)
{
	hwloc_obj_t obj = hwloc_get_obj_by_type(hwloc, HWLOC_OBJ_NUMANODE, node);

	return hwloc_bitmap_isset(core->nodeset, obj->os_index);
}

/* Of several nodes next to a core (its DRAM and its high bandwidth memory) the first one has it. */
static uint32_t node_of_core(hwloc_topology_t hwloc, hwloc_obj_t core, uint32_t node_count)
{
	for (uint32_t i = 0; i < node_count; i++)
		if (is_core_of(hwloc, core, i))
			return i;
	return 0;
}

/* A device belongs to a node where exactly one node is next to it. */
static uint32_t node_of_device(hwloc_topology_t hwloc, hwloc_obj_t device, uint32_t node_count)
{
	hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(hwloc, device);
	uint32_t found = BASE_TOPO_ANY_NODE;

	for (uint32_t i = 0; place && i < node_count; i++) {
		if (!is_core_of(hwloc, place, i))
			continue;
		if (found != BASE_TOPO_ANY_NODE)
			return BASE_TOPO_ANY_NODE;
		found = i;
	}
	return found;
}

static void read_nodes(hwloc_topology_t hwloc, struct base_topo *topo)
{
	hwloc_obj_t obj = NULL;

	while ((obj = hwloc_get_next_obj_by_type(hwloc, HWLOC_OBJ_NUMANODE, obj)) != NULL) {
		base_topo_add_node(topo, obj->os_index, obj->attr->numanode.local_memory);
		for (unsigned i = 0; i < obj->attr->numanode.page_types_len && !topo->is_this_machine; i++)
			if (obj->attr->numanode.page_types[i].size == 2 << 20)
				topo->huge_2m_total += obj->attr->numanode.page_types[i].count;
	}
}

static uint32_t package_of(hwloc_topology_t hwloc, hwloc_obj_t core)
{
	hwloc_obj_t package = hwloc_get_ancestor_obj_by_type(hwloc, HWLOC_OBJ_PACKAGE, core);

	return package ? package->logical_index : 0;
}

/* allowed: what this thread may run on; NULL for all. */
static void read_core(hwloc_topology_t hwloc, hwloc_obj_t core, hwloc_const_bitmap_t allowed,
	struct base_topo *topo)
{
	uint32_t node = node_of_core(hwloc, core, topo->node_count), package = package_of(hwloc, core);
	uint32_t core_id = topo->core_count;
	int pu;

	hwloc_bitmap_foreach_begin(pu, core->cpuset)
		if (!allowed || hwloc_bitmap_isset(allowed, (unsigned)pu))
			base_topo_add_pu(topo, core_id, node, package, (uint32_t)pu);
	hwloc_bitmap_foreach_end();
}

/* Node by node, so that the cores of a node are neighbours in the table. */
static void read_cores(hwloc_topology_t hwloc, hwloc_const_bitmap_t allowed, struct base_topo *topo)
{
	/* A machine described without cores still has processors. */
	hwloc_obj_type_t type = hwloc_get_nbobjs_by_type(hwloc, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE
										    : HWLOC_OBJ_PU;

	for (uint32_t node = 0; node < topo->node_count; node++) {
		hwloc_obj_t obj = NULL;

		while ((obj = hwloc_get_next_obj_by_type(hwloc, type, obj)) != NULL)
			if (node_of_core(hwloc, obj, topo->node_count) == node)
				read_core(hwloc, obj, allowed, topo);
	}
}

static uint64_t cache_bytes(hwloc_topology_t hwloc, hwloc_obj_type_t type)
{
	hwloc_obj_t cache = hwloc_get_next_obj_by_type(hwloc, type, NULL);

	return cache ? cache->attr->cache.size : 0;
}

static const char *device_kind(hwloc_obj_t device)
{
	switch (device->attr->osdev.type) {
	case HWLOC_OBJ_OSDEV_NETWORK:
		return "net";
	case HWLOC_OBJ_OSDEV_GPU:
	case HWLOC_OBJ_OSDEV_COPROC:
		return "gpu";
	case HWLOC_OBJ_OSDEV_BLOCK:
		return "block";
	default:
		return NULL;
	}
}

static void read_devices(hwloc_topology_t hwloc, struct base_topo *topo)
{
	hwloc_obj_t device = NULL;

	while ((device = hwloc_get_next_osdev(hwloc, device)) != NULL) {
		const char *kind = device_kind(device);

		if (kind && device->name && strcmp(device->name, "lo") != 0)
			base_topo_add_device(topo, device->name, kind,
				node_of_device(hwloc, device, topo->node_count));
	}
}

static int read_loaded(hwloc_topology_t hwloc, struct base_topo *topo)
{
	hwloc_bitmap_t allowed = NULL;

	topo->is_this_machine = hwloc_topology_is_thissystem(hwloc);
	if (topo->is_this_machine) {
		allowed = hwloc_bitmap_alloc();
		if (!allowed || hwloc_get_cpubind(hwloc, allowed, HWLOC_CPUBIND_THREAD) != 0) {
			hwloc_bitmap_free(allowed);
			return base_fail(errno, "cannot read which processors may be used (errno %d)", errno);
		}
	}
	read_nodes(hwloc, topo);
	read_cores(hwloc, allowed, topo);
	hwloc_bitmap_free(allowed);
	topo->l2_bytes = cache_bytes(hwloc, HWLOC_OBJ_L2CACHE);
	topo->l3_bytes = cache_bytes(hwloc, HWLOC_OBJ_L3CACHE);
	read_devices(hwloc, topo);
	return 0;
}

int base_topo_read_machine(struct base_topo *topo)
{
	hwloc_topology_t hwloc;
	int result;

	if (hwloc_topology_init(&hwloc) != 0)
		return base_fail(ENOMEM, "hwloc cannot start (errno %d)", errno);
	if (hwloc_topology_set_io_types_filter(hwloc, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) != 0 ||
		hwloc_topology_load(hwloc) != 0)
		result = base_fail(errno ? errno : EINVAL, "hwloc cannot read the machine (errno %d): where "
			"HWLOC_XMLFILE or HWLOC_SYNTHETIC is set, HWLOC_XML_VERBOSE=1 and "
			"HWLOC_SYNTHETIC_VERBOSE=1 say why", errno);
	else
		result = read_loaded(hwloc, topo);
	hwloc_topology_destroy(hwloc);
	return result;
}
