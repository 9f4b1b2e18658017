/*
 * Between the readers of a machine (hwloc, or /sys without it) and the topology they fill. Private to base.
 * Nodes are added first, then processors, core by core and node by node, then devices. What is beyond the
 * limits of struct base_topo is left out and counted, and base_topo_read says so.
 */
#ifndef BASE_TOPO_READ_H
#define BASE_TOPO_READ_H

#include "base/base_topo.h"

/* The reader: base_topo_hwloc.c or base_topo_sysfs.c, chosen by the Makefile. Fills a zeroed topology, all
 * but the huge pages of this machine. 0 or -errno with a message. */
int base_topo_read_machine(struct base_topo *topo);

void base_topo_add_node(struct base_topo *topo, uint32_t os_index, uint64_t memory_bytes);
/* core is the number of the core among those added: topo->core_count begins a new one. */
void base_topo_add_pu(struct base_topo *topo, uint32_t core, uint32_t node, uint32_t package,
	uint32_t pu_os_index);
void base_topo_add_device(struct base_topo *topo, const char *name, const char *kind, uint32_t node);

#endif
