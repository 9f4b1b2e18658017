/*
 * Placement: from the machine's topology and the configuration to who runs where. Pure; tested on
 * recorded machines.
 *
 * Each NUMA node with processors is a device: one data agent (its scheduler; on the first node also
 * the front) on one core, workers on its further cores, all of its memory on that node. The text
 * agent and the control thread are not bound.
 */
#ifndef SVC_PLACE_H
#define SVC_PLACE_H

#include "base/base_topo.h"
#include "service/svc_config.h"

enum { SVC_DEVICES_MAX = 16 };

struct svc_place_device {
	uint32_t node; /* index in the topology */
	int data_cpu;  /* os index */
	uint32_t worker_count;
	uint32_t worker_cpus[SVC_CPUS_MAX];
	char why[160];
};

struct svc_place {
	uint32_t device_count;
	struct svc_place_device devices[SVC_DEVICES_MAX];
};

/* -EINVAL with a message for a configuration that names processors which are not there. */
int svc_place(
	struct svc_place *place, const struct base_topo *topo, const struct svc_config *config);
/* One line per thread, for the log and attnctl: "device0 front+sched cpu 3 node 0: ...". */
void svc_place_print(const struct svc_place *place, const struct base_topo *topo, FILE *file);

#endif
