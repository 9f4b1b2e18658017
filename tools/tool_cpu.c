/*
 * Processors for a tool that measures. See tool_cpu.h.
 */
#include "tools/tool_cpu.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "base/base_error.h"
#include "base/base_topo.h"

/* The last core, away from where interrupts usually arrive, is the daemon's; the one before it
 * on its node is ours. */
static void pick(struct tool_cpu_pair *pair, const struct base_topo *topo)
{
	uint32_t last = topo->core_count - 1;

	pair->cores = topo->core_count;
	pair->daemon = (int)topo->pus[topo->cores[last].first_pu];
	pair->client = pair->daemon;
	for (uint32_t i = 0; i < last; i++) {
		if (pair->apart && topo->cores[i].node != topo->cores[last].node)
			continue;
		pair->client = (int)topo->pus[topo->cores[i].first_pu];
		pair->apart = true;
	}
}

int tool_cpu_pick(struct tool_cpu_pair *pair)
{
	struct base_topo *topo = malloc(sizeof(*topo));
	int err = topo ? base_topo_read(topo) : base_fail(ENOMEM, "no memory for the topology");

	*pair = (struct tool_cpu_pair){ 0 };
	if (!err && topo->core_count == 0)
		err = base_fail(ENODEV, "the topology lists no processor");
	if (!err)
		pick(pair, topo);
	free(topo);
	return err;
}

bool tool_cpu_pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) == 0;
}

bool tool_cpu_avoid(int cpu)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set))
		return false;
	CPU_CLR(cpu, &set);
	return CPU_COUNT(&set) > 0 && sched_setaffinity(0, sizeof(set), &set) == 0;
}
