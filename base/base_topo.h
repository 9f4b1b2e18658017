/*
 * The machine: NUMA nodes, cores, caches, and the devices next to them. The only user of hwloc.
 * HWLOC_SYNTHETIC and HWLOC_XMLFILE (hwloc's own variables) feed it any other machine; binding is then a no-op
 * that says so. Control thread, at start; the result is constant.
 */
#ifndef BASE_TOPO_H
#define BASE_TOPO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { BASE_TOPO_NODES = 64, BASE_TOPO_CORES = 1024, BASE_TOPO_PUS = 2048, BASE_TOPO_DEVICES = 64 };

/* The node of a device that is next to no single one. */
#define BASE_TOPO_ANY_NODE UINT32_MAX

struct base_topo_core { uint32_t node, package, first_pu, pu_count; }; /* into pus[] */
struct base_topo_node { uint32_t os_index; uint64_t memory_bytes; uint32_t first_core, core_count; };
/* kind: net, gpu, block. node: into nodes[], or BASE_TOPO_ANY_NODE. */
struct base_topo_device { char name[32]; char kind[16]; uint32_t node; };

struct base_topo {
	bool is_this_machine;
	bool numa;             /* more than one node */
	uint32_t node_count, core_count, pu_count, device_count;
	uint64_t l2_bytes, l3_bytes;
	uint64_t huge_2m_total, huge_2m_free;
	uint32_t left_out; /* nodes, processors and devices beyond the limits above; logged */
	struct base_topo_node nodes[BASE_TOPO_NODES];
	struct base_topo_core cores[BASE_TOPO_CORES];
	uint32_t pus[BASE_TOPO_PUS]; /* os indices */
	struct base_topo_device devices[BASE_TOPO_DEVICES];
};

/* Only processors this process may run on (its cpuset) are listed. -errno with a message. */
int base_topo_read(struct base_topo *topo);
/* A person's view: a tree with nodes, cores, devices, memory. */
void base_topo_print(const struct base_topo *topo, FILE *file);

/* Binds the calling thread to one processor (os index). 0, -ENOTSUP when the topology is not this machine's,
 * or -errno with a message. */
int base_topo_bind_self(const struct base_topo *topo, uint32_t pu_os_index);

/* On which node the pages of a range really lie, by move_pages(2): fills pages_per_node[BASE_TOPO_NODES], by
 * the nodes' os index, and returns how many pages were found; -errno with a message where the kernel refuses.
 * Samples at most 4096. */
int base_topo_pages(const void *memory, size_t size_bytes, uint32_t *pages_per_node);

#endif
