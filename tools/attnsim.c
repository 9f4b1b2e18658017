/*
 * attnsim: replays a trace of requests through the real scheduler, on modelled devices and in virtual
 * time, and says what became of them. It compares policies, at one load or over many.
 *
 * Needs no daemon, no model and no GPU. The same options and seed print the same figures.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base_error.h"
#include "tools/attnsim_report.h"
#include "tools/tool_args.h"
#include "tools/tool_text.h"

enum sim_option {
	TRACE = 256, LOAD, POLICY, DEVICE, DEVICES, MODEL, REQUESTS, SEED, MIX, SLACK, TENANTS, SESSIONS, STEP_ROWS, KV, RESIDUALS,
	GIVE_UP, CAPACITY, SWEEP, SVG, JOBS, PREFIX
};

enum { JOBS_MAX = 64, RESIDUAL_BYTES = 64 << 20, BAR = 30 };

static const double LOADS[] = { 0.5, 0.8, 0.95, 1.2, 2.0 };
enum { LOAD_COUNT = sizeof(LOADS) / sizeof(LOADS[0]), POINTS = LOAD_COUNT * ATTNSIM_POLICIES };

struct simulation {
	const char *trace_name, *model_name, *residuals_name, *svg;
	uint64_t requests; /* 0: all */
	uint32_t devices, jobs;
	bool json, sweep;
	struct attnsim_trace trace;
	struct attnsim_noise noise;
	struct attnsim_setup setup;
	struct attnsim_point points[POINTS];
	size_t count;
	struct attnsim_prefix_rates prefixes;
	/* Of the threads that work on points. */
	pthread_mutex_t lock;
	size_t next, done;
};

static const struct argp_option options[] = {
	{ "trace", TRACE, "FILE", 0, "an Azure CSV or a Mooncake JSONL file, or one made up: poisson, bursts", 0 },
	{ "requests", REQUESTS, "N", 0, "only the first N of the file (all); how many are made up (10000)", 0 },
	{ "load", LOAD, "L", 0, "arrivals are scaled to so many times the capacity (1)", 0 },
	{ "policy", POLICY, "P", 0, "ours (default), fifo, edf or budget", 0 },
	{ "seed", SEED, "N", 0, "of whatever is random (1)", 0 },
	{ "mix", MIX, "T,N,U", 0, "percent of requests with tight, normal and no deadlines (30,50,20)", 0 },
	{ "slack", SLACK, "T,N", 0, "a deadline is so many times the ideal time after arrival (5,20)", 0 },
	{ "tenants", TENANTS, "N", 0, "who share the devices (4)", 0 },
	{ "give-up", GIVE_UP, NULL, 0, "who is late without a first token goes away, under every policy", 0 },
	{ 0, 0, NULL, 0, "What it runs on:", 1 },
	{ "device", DEVICE, "NAME", 0, "cpu2, cpu16, gpu (default) or gpu8", 1 },
	{ "devices", DEVICES, "N", 0, "so many of these", 1 },
	{ "model", MODEL, "NAME", 0, "135m, 1.1b or 8b (default on gpu; else 135m)", 1 },
	{ "sessions", SESSIONS, "N", 0, "of one device at once (256)", 1 },
	{ "step-rows", STEP_ROWS, "N", 0, "tokens of one step (by the device)", 1 },
	{ "kv", KV, "FORMAT", 0, "of the cache: f32, bf16, int8 (default), f16, fp8 or int4", 1 },
	{ "prefix", PREFIX, "P", 0, "prompts that begin alike share pages; what is evicted goes by ours (default) or lru; none: no "
		"sharing", 1 },
	{ "residuals", RESIDUALS, "FILE", 0, "measured over expected times of works, one a line; none: no noise", 1 },
	{ "capacity", CAPACITY, "R", 0, "requests/s of load 1 (measured: a sample that is there at once, in order of "
		"arrival, chunked)", 1 },
	{ 0, 0, NULL, 0, "What it prints:", 2 },
	{ "sweep", SWEEP, NULL, 0, "loads 0.5, 0.8, 0.95, 1.2 and 2 under every policy", 2 },
	{ "svg", SVG, "FILE", 0, "a sweep, drawn as curves", 2 },
	{ "jobs", JOBS, "N", 0, "replays of a sweep at once (as many as processors)", 2 },
	{ "json", 'j', NULL, 0, "one JSON object instead of tables", 2 },
	{ 0 },
};

static void read_device(struct attnsim_setup *setup, const char *name)
{
	const struct attnsim_machine *machine = attnsim_machine_find(name);

	if (!machine)
		tool_die(TOOL_USAGE, "--device takes one of cpu2, cpu16, gpu, gpu8, not '%s'", name);
	setup->machine = *machine;
}

static error_t parse_setup(struct attnsim_setup *setup, int key, char *value)
{
	switch (key) {
	case LOAD: setup->load = tool_args_double("--load", value, 0.001, 1000.0); return 0;
	case POLICY:
		setup->policy = (enum attnsim_policy)tool_args_choice("--policy", value, attnsim_policies);
		return 0;
	case DEVICE: read_device(setup, value); return 0;
	case SEED: setup->seed = tool_args_u64("--seed", value, 0, UINT32_MAX); return 0;
	case MIX: tool_args_shares("--mix", value, ATTNSIM_URGENCIES, setup->share); return 0;
	case SLACK: tool_args_doubles("--slack", value, ATTNSIM_NONE, 1.0, 1e6, setup->slack); return 0;
	case TENANTS:
		setup->tenants = (uint32_t)tool_args_u64("--tenants", value, 1, ATTNSIM_TENANTS_MAX);
		return 0;
	case SESSIONS: setup->sessions = (uint32_t)tool_args_u64("--sessions", value, 1, 4096); return 0;
	case STEP_ROWS: setup->step_rows = (uint32_t)tool_args_u64("--step-rows", value, 4, 8192); return 0;
	case KV: setup->kv = (enum kern_kv)tool_args_choice("--kv", value, tool_args_kv); return 0;
	case PREFIX:
		setup->prefix = (enum attnsim_prefix)tool_args_choice("--prefix", value, attnsim_prefixes);
		return 0;
	case GIVE_UP: setup->give_up = true; return 0;
	case CAPACITY: setup->capacity_rps = tool_args_double("--capacity", value, 1e-6, 1e9); return 0;
	default: return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct simulation *simulation = state->input;

	switch (key) {
	case TRACE: simulation->trace_name = value; return 0;
	case REQUESTS: simulation->requests = tool_args_u64("--requests", value, 1, ATTNSIM_REQUESTS_MAX); return 0;
	case DEVICES: simulation->devices = (uint32_t)tool_args_u64("--devices", value, 1, 64); return 0;
	case MODEL: simulation->model_name = value; return 0;
	case RESIDUALS: simulation->residuals_name = value; return 0;
	case SWEEP: simulation->sweep = true; return 0;
	case SVG:
		simulation->svg = value;
		simulation->sweep = true;
		return 0;
	case JOBS: simulation->jobs = (uint32_t)tool_args_u64("--jobs", value, 1, JOBS_MAX); return 0;
	case 'j': simulation->json = true; return 0;
	case ARGP_KEY_END:
		if (!simulation->trace_name)
			argp_error(state, "nothing to replay: give --trace FILE, or --trace poisson");
		return 0;
	default: return parse_setup(&simulation->setup, key, value);
	}
}

static const struct argp argp = { .options = options,
	.parser = parse,
	.doc = "Replay a trace of requests through attnd's scheduler, on a modelled device, in virtual time.\v"
	       "A request counts as good when it was answered to its end and its first token came by its deadline; without a "
	       "deadline, when its answer was complete before the last arrival. Refused is what the scheduler would not "
	       "promise; missed is what it admitted and did not serve in time." };

/* ---- what it needs ---------------------------------------------------------------------------- */

static void die_of_error(void)
{
	tool_die(TOOL_FAILED, "%s", base_error_message());
}

static void read_noise(struct simulation *simulation)
{
	const char *name = simulation->residuals_name;
	struct attnsim_noise *noise = &simulation->noise;
	char *text;
	size_t size;
	FILE *file;

	simulation->setup.noise = noise;
	if (!name) {
		attnsim_noise_builtin(noise);
		return;
	}
	if (strcmp(name, "none") == 0) {
		simulation->setup.noise = NULL;
		return;
	}
	file = fopen(name, "r");
	text = malloc(RESIDUAL_BYTES);
	if (!file || !text)
		tool_die(TOOL_FAILED, "%s cannot be read: %s", name, strerror(errno));
	size = fread(text, 1, RESIDUAL_BYTES, file);
	if (ferror(file) || size == RESIDUAL_BYTES)
		tool_die(TOOL_FAILED, "%s cannot be read, or has more than 64 MiB", name);
	fclose(file);
	if (attnsim_noise_parse(noise, name, text, size) < 0)
		die_of_error();
	free(text);
}

static void prepare(struct simulation *simulation)
{
	struct attnsim_setup *setup = &simulation->setup;
	const bool cpu = strncmp(setup->machine.name, "cpu", 3) == 0;
	uint64_t pages;

	if (simulation->devices)
		setup->machine.devices = simulation->devices;
	setup->model = attnsim_model_find(simulation->model_name ? simulation->model_name : cpu ? "135m" : "8b");
	if (!setup->model)
		tool_die(TOOL_USAGE, "--model takes one of 135m, 1.1b, 8b, not '%s'", simulation->model_name);
	if (setup->step_rows == 0)
		setup->step_rows = setup->machine.step_rows;
	if (setup->kv == 0)
		setup->kv = KERN_KV_INT8;
	if (attnsim_trace_get(&simulation->trace, simulation->trace_name, simulation->requests, setup->seed) < 0)
		die_of_error();
	read_noise(simulation);
	setup->trace = &simulation->trace;
	if (attnsim_pages(setup, &pages) < 0 || attnsim_prefix_rates(setup->trace, pages, &simulation->prefixes) < 0)
		die_of_error();
	if (setup->capacity_rps == 0.0) {
		tool_progress("measuring the capacity ...");
		if (attnsim_capacity(setup) < 0)
			die_of_error();
	}
}

/* ---- one and many ----------------------------------------------------------------------------- */

static void bar(const char *what, double share)
{
	char cells[BAR + 1];

	for (int i = 0; i < BAR; i++)
		cells[i] = i < (int)(share * BAR) ? '#' : '.';
	cells[BAR] = '\0';
	tool_progress("%s [%s] %3.0f %%", what, cells, 100 * share);
}

static void show_replay(void *context, double share)
{
	(void)context;
	bar("replaying", share);
}

static bool take_point(struct simulation *simulation, struct attnsim_point **point)
{
	bool taken;

	pthread_mutex_lock(&simulation->lock);
	taken = simulation->next < simulation->count;
	if (taken)
		*point = &simulation->points[simulation->next++];
	pthread_mutex_unlock(&simulation->lock);
	return taken;
}

static void *work(void *context)
{
	struct simulation *simulation = context;
	struct attnsim_point *point;

	while (take_point(simulation, &point)) {
		point->rc = attnsim_run(&point->setup, &point->result);
		if (point->rc < 0)
			snprintf(point->message, sizeof(point->message), "%s", base_error_message());
		pthread_mutex_lock(&simulation->lock);
		if (simulation->sweep)
			bar("replaying", (double)++simulation->done / (double)simulation->count);
		pthread_mutex_unlock(&simulation->lock);
	}
	return NULL;
}

static void run_points(struct simulation *simulation)
{
	pthread_t threads[JOBS_MAX];
	uint32_t wanted = simulation->jobs, started = 0;
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	if (wanted == 0)
		wanted = processors < 1 ? 1 : processors > JOBS_MAX ? JOBS_MAX : (uint32_t)processors;
	pthread_mutex_init(&simulation->lock, NULL);
	/* This thread works as well, so that a sweep ends even where no other can be had. */
	while (started + 1 < wanted && started + 1 < simulation->count &&
		pthread_create(&threads[started], NULL, work, simulation) == 0)
		started++;
	work(simulation);
	while (started > 0)
		pthread_join(threads[--started], NULL);
	pthread_mutex_destroy(&simulation->lock);
	tool_progress(NULL);
	for (size_t i = 0; i < simulation->count; i++)
		if (simulation->points[i].rc < 0)
			tool_die(TOOL_FAILED, "%s at load %g: %s", attnsim_policies[simulation->points[i].setup.policy],
				simulation->points[i].setup.load, simulation->points[i].message);
}

static void list_points(struct simulation *simulation)
{
	if (!simulation->sweep) {
		simulation->setup.progress = show_replay;
		simulation->points[0].setup = simulation->setup;
		simulation->count = 1;
		return;
	}
	for (size_t l = 0; l < LOAD_COUNT; l++) {
		for (unsigned policy = 0; policy < ATTNSIM_POLICIES; policy++) {
			struct attnsim_point *point = &simulation->points[simulation->count++];

			point->setup = simulation->setup;
			point->setup.load = LOADS[l];
			point->setup.policy = (enum attnsim_policy)policy;
		}
	}
}

static const char *file_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int report(const struct simulation *simulation)
{
	const char *name = file_name(simulation->trace_name);

	if (simulation->json)
		attnsim_report_json(simulation->points, simulation->count, simulation->sweep, &simulation->prefixes, name);
	else if (simulation->sweep)
		attnsim_report_sweep(simulation->points, simulation->count, name);
	else
		attnsim_report_table(&simulation->points[0], &simulation->prefixes, name);
	return simulation->svg ? attnsim_report_svg(simulation->svg, simulation->points, simulation->count, name) : TOOL_OK;
}

int main(int argc, char **argv)
{
	static struct simulation simulation = {
		.setup = { .load = 1.0,
			.share = { 0.3, 0.5, 0.2 },
			.slack = { 5.0, 20.0 },
			.tenants = 4,
			.sessions = 256,
			.seed = 1 },
	};
	int status;

	read_device(&simulation.setup, "gpu");
	tool_args_parse(&argp, argc, argv, &simulation);
	prepare(&simulation);
	list_points(&simulation);
	run_points(&simulation);
	status = report(&simulation);
	if (simulation.setup.noise)
		attnsim_noise_free(&simulation.noise);
	attnsim_trace_free(&simulation.trace);
	return status;
}
