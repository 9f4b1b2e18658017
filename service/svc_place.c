/*
 * Who runs where. See svc_place.h.
 */
#include "service/svc_place.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base_error.h"

static bool has_cpu(const struct base_topo *topo, uint32_t cpu)
{
	for (uint32_t i = 0; i < topo->pu_count; i++)
		if (topo->pus[i] == cpu)
			return true;
	return false;
}

/* A network device's node, or -1: the front wants to be next to it. */
static int nic_node(const struct base_topo *topo)
{
	for (uint32_t i = 0; i < topo->device_count; i++)
		if (!strcmp(topo->devices[i].kind, "net") &&
			topo->devices[i].node < topo->node_count)
			return (int)topo->devices[i].node;
	return -1;
}

static void place_workers(struct svc_place_device *device, const struct base_topo *topo,
	const struct svc_config *config)
{
	const struct base_topo_node *node = &topo->nodes[device->node];
	uint32_t wanted =
		config->workers == SVC_AUTO ? node->core_count - 1 : (uint32_t)config->workers;

	if (wanted > SVC_CPUS_MAX - 1)
		wanted = SVC_CPUS_MAX - 1;
	/* One worker a core, the cores from the first on, without the data agent's; round again
	 * when there are more workers. */
	uint32_t cores = node->core_count, next = 0;

	while (device->worker_count < wanted) {
		uint32_t cpu = topo->pus[topo->cores[node->first_core + next % cores].first_pu];

		next++;
		if ((int)cpu == device->data_cpu && cores > 1)
			continue;
		device->worker_cpus[device->worker_count++] = cpu;
	}
}

static int place_device(struct svc_place_device *device, const struct base_topo *topo,
	const struct svc_config *config, uint32_t node_index, bool first)
{
	const struct base_topo_node *node = &topo->nodes[node_index];
	uint32_t last_core = node->first_core + node->core_count - 1;

	device->node = node_index;
	device->data_cpu = (int)topo->pus[topo->cores[last_core].first_pu];
	if (first && config->front_cpu != SVC_AUTO) {
		if (!has_cpu(topo, (uint32_t)config->front_cpu))
			return base_fail(EINVAL,
				"[placement] front_cpu = %lld: no such processor for this process",
				(long long)config->front_cpu);
		device->data_cpu = (int)config->front_cpu;
	}
	snprintf(device->why, sizeof(device->why), "%s, %u core%s, workers on the others",
		first && config->front_cpu != SVC_AUTO
			? "front_cpu as configured"
			: "the node's last core, away from the first one's interrupts",
		node->core_count, node->core_count == 1 ? "" : "s");
	if (!first || !config->worker_cpus.count) {
		place_workers(device, topo, config);
		return 0;
	}
	uint32_t wanted =
		config->workers == SVC_AUTO ? config->worker_cpus.count : (uint32_t)config->workers;

	for (uint32_t i = 0; i < wanted; i++) {
		uint32_t cpu = config->worker_cpus.cpus[i % config->worker_cpus.count];

		if (!has_cpu(topo, cpu))
			return base_fail(EINVAL,
				"[placement] worker_cpus: %u is no processor of this process", cpu);
		device->worker_cpus[device->worker_count++] = cpu;
	}
	return 0;
}

int svc_place(
	struct svc_place *place, const struct base_topo *topo, const struct svc_config *config)
{
	int nic = nic_node(topo);
	uint32_t first = nic >= 0 && topo->nodes[nic].core_count ? (uint32_t)nic : 0;

	memset(place, 0, sizeof(*place));
	for (uint32_t i = 0; i < topo->node_count && place->device_count < SVC_DEVICES_MAX; i++) {
		/* The front's device comes first: it is next to the network card where there is
		 * one. */
		uint32_t node = i == 0 ? first : i <= first ? i - 1 : i;

		if (!topo->nodes[node].core_count)
			continue; /* memory without processors */
		int rc = place_device(&place->devices[place->device_count], topo, config, node,
			place->device_count == 0);

		if (rc)
			return rc;
		place->device_count++;
		if (config->nodes == SVC_NODES_FIRST)
			break;
	}
	if (!place->device_count)
		return base_fail(
			EINVAL, "no NUMA node has a processor for this process: check its cpuset");
	return 0;
}

void svc_place_print(const struct svc_place *place, const struct base_topo *topo, FILE *file)
{
	for (uint32_t i = 0; i < place->device_count; i++) {
		const struct svc_place_device *device = &place->devices[i];

		fprintf(file, "device %u  node %u  %s on cpu %d: %s\n", i,
			topo->nodes[device->node].os_index, i ? "scheduler" : "front and scheduler",
			device->data_cpu, device->why);
		for (uint32_t w = 0; w < device->worker_count; w++)
			fprintf(file, "          worker %u on cpu %u\n", w, device->worker_cpus[w]);
	}
}
