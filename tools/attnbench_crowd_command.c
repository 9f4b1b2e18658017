/*
 * attnbench load: requests over many connections at once, from one thread; how many a second, how long each took, what the daemon spends on
 * them in system calls and memory, and what a bare epoll server of the same packets does.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/base_error.h"
#include "tools/attnbench_crowd.h"
#include "tools/attnbench_frame.h"
#include "tools/attnbench_report.h"
#include "tools/tool_args.h"
#include "tools/tool_control.h"
#include "tools/tool_text.h"

enum {
	SIZE_MAX_BYTES = 4 << 20,
	DESCRIPTORS_BESIDE = 64, /* of a process, whatever it is connected to */
	CONNECTIONS_BESIDE = 8,  /* the one that asks the daemon what it is, and some to spare */
	OPTIONS = 4,
	FEW = 16,              /* connections, over which many requests may have to go */
	IN_FLIGHT_OF_FEW = 960, IN_FLIGHT = 64, /* the latter as a daemon that nobody told otherwise */
};

struct load {
	struct attnbench_options options;
	uint32_t connections, idle, size_bytes;
	bool closed, at_random, has_baseline;
	struct attnbench_crowd_clients clients;
	struct attnbench_crowd_bare bare;
	struct attnbench_crowd *crowd, *bare_crowd;
	struct attnbench_frame *frame;
	uint64_t random;
	int64_t span_ns;
	int err;                                     /* of the baseline */
	double baseline_rps[ATTNBENCH_ROUNDS_MAX], ratio_rps[ATTNBENCH_ROUNDS_MAX]; /* by round that counts */
	struct attnbench_result baseline;            /* all of it */
	cJSON *before, *after;                       /* the daemon's status; NULL: it is not ours */
	int64_t bare_memory_bytes, memory_bytes;     /* the daemon's, without connections and at the end; 0: not known */
	pid_t daemon;                                /* 0: it is not ours */
	int64_t cpu_ns, baseline_cpu_ns;             /* processor time of the daemon, and of the bare server, while each was asked */
	uint64_t cpu_requests, baseline_cpu_requests;
	char daemon_options[OPTIONS][64];
};

/* ---- command line -------------------------------------------------------------------------------------------- */

enum { KEY_CONNECTIONS = 0x300, KEY_IDLE, KEY_CLOSED, KEY_RANDOM, KEY_BASELINE };

static const struct argp_option option_table[] = {
	{ "connections", KEY_CONNECTIONS, "N", 0, "that requests are spread over (1)", 1 },
	{ "idle", KEY_IDLE, "M", 0, "further connections, on which nothing is asked (0)", 1 },
	{ "size", 's', "N", 0, "the daemon copies N bytes from input to output (0)", 1 },
	{ "closed", KEY_CLOSED, NULL, 0,
		"instead of --rate: each connection has --in-flight requests out, as many a second as it goes; those answered together go "
		"together", 1 },
	{ "random", KEY_RANDOM, NULL, 0, "with --rate: each request goes by a connection drawn at random; else they take turns", 1 },
	{ "baseline", KEY_BASELINE, "SERVER", 0,
		"with --closed: epoll: after each round the same load on a bare epoll server that takes the daemon's place", 1 },
	{ 0 },
};

static void check(const struct load *load, const struct argp_state *state)
{
	const struct attnbench_options *options = &load->options;

	if (tool_daemon_transport(&options->daemon) == TOOL_TRANSPORT_SHM)
		argp_error(state, "load is for connections: --transport tcp, udp or unix, or an --address of one of these");
	if (load->closed == (options->rate > 0))
		argp_error(state, "say --rate R for an open loop or --closed for a closed one");
	if (load->has_baseline && (!load->closed || !options->daemon.spawn))
		argp_error(state, "--baseline is for --closed and --spawn");
	if (load->closed && (options->in_flight > ATTNBENCH_CROWD_BATCH ||
		(uint64_t)options->in_flight * load->connections > ATTNBENCH_CROWD_SLOTS))
		argp_error(state, "--in-flight is at most %d here, and over all connections at most %d", ATTNBENCH_CROWD_BATCH,
			ATTNBENCH_CROWD_SLOTS);
	if (load->has_baseline && options->in_flight > 1 && options->in_flight * load->size_bytes > ATTNBENCH_CROWD_BARE_BYTES_MAX)
		argp_error(state, "--baseline takes at most %d bytes in flight on a connection", ATTNBENCH_CROWD_BARE_BYTES_MAX);
	if (load->has_baseline && load->size_bytes > ATTNBENCH_CROWD_BARE_BYTES_MAX)
		argp_error(state, "--baseline takes a --size of at most %d", ATTNBENCH_CROWD_BARE_BYTES_MAX);
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	static const char *const servers[] = { "epoll", NULL };
	struct load *load = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &load->options;
		return 0;
	case KEY_CONNECTIONS:
		load->connections = (uint32_t)tool_args_u64("--connections", value, 1, ATTNBENCH_CROWD_MAX);
		return 0;
	case KEY_IDLE:
		load->idle = (uint32_t)tool_args_u64("--idle", value, 0, ATTNBENCH_CROWD_MAX);
		return 0;
	case 's':
		load->size_bytes = (uint32_t)tool_args_size("--size", value, 0, SIZE_MAX_BYTES);
		return 0;
	case KEY_CLOSED:
		load->closed = true;
		return 0;
	case KEY_RANDOM:
		load->at_random = true;
		return 0;
	case KEY_BASELINE:
		(void)tool_args_choice("--baseline", value, servers);
		load->has_baseline = true;
		return 0;
	case ARGP_KEY_FINI:
		check(load, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &attnbench_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = { .options = option_table,
	.parser = parse,
	.children = children,
	.doc = "Requests that compute nothing, spread over many connections by one thread that spins: how many a second, and how long each "
	       "took from its intended time." };

/* ---- the daemon from outside --------------------------------------------------------------------------------- */

/* NULL where the daemon is another's. */
static cJSON *ask_status(const struct load *load)
{
	char path[TOOL_SPAWN_PATH_BYTES + 16], *text;
	cJSON *status;

	if (!load->options.daemon.spawn)
		return NULL;
	tool_daemon_control_path(&load->options.daemon, path, sizeof(path));
	if (tool_control_ask(path, "status", &text))
		tool_die(TOOL_NO_DAEMON, "%s", base_error_message());
	status = cJSON_Parse(text);
	free(text);
	return status;
}

/* What of the daemon is in memory. */
static int64_t resident_bytes(const cJSON *status)
{
	char path[64], line[128];
	long long kilobytes = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%.0f/status", tool_json_number(status, "pid"));
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "VmRSS: %lld kB", &kilobytes) == 1)
			break;
	if (file)
		fclose(file);
	return kilobytes * 1024;
}

static double counted(const struct load *load, const char *name)
{
	return tool_json_number(load->after, name) - tool_json_number(load->before, name);
}

static double calls_per_request(const struct load *load)
{
	const double requests = counted(load, "network.requests");

	return requests > 0 ? counted(load, "network.port.system_calls") / requests : 0;
}

/* Processor time that a process has had; 0: not known. */
static int64_t cpu_ns_of(pid_t process)
{
	struct timespec time;
	clockid_t clock;

	if (process <= 0 || clock_getcpuclockid(process, &clock) || clock_gettime(clock, &time))
		return 0;
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static double cpu_us_each(int64_t cpu_ns, uint64_t requests)
{
	return requests > 0 ? (double)cpu_ns / (double)requests / 1e3 : 0;
}

/* A server that spins has always been busy. */
static bool sleeps(const struct load *load)
{
	return strcmp(tool_daemon_option(&load->options.daemon, "placement.idle", "spin"), "sleep") == 0;
}

/* ---- measuring ----------------------------------------------------------------------------------------------- */

static double per_second(const struct attnbench_result *result)
{
	return result->span_ns > 0 ? (double)result->answered * 1e9 / (double)result->span_ns : 0;
}

static void run_baseline(void *context)
{
	static struct attnbench_result result;
	struct load *load = context;

	attnbench_result_clear(&result);
	load->baseline_cpu_ns -= cpu_ns_of(load->bare.server);
	attnbench_crowd_bare_run(&load->bare, true);
	load->err = attnbench_crowd_closed(load->bare_crowd, load->options.in_flight, load->span_ns, &result);
	attnbench_crowd_bare_run(&load->bare, false);
	load->baseline_cpu_ns += cpu_ns_of(load->bare.server);
	load->baseline_cpu_requests += result.answered;
	attnbench_result_merge(&load->baseline, &result);
	load->baseline_rps[load->frame->rounds] = per_second(&result);
}

static int round_of(void *context, struct attnbench_frame *frame, int64_t span_ns, struct attnbench_result *results)
{
	struct load *load = context;
	struct attnbench_pace pace;
	int err;

	load->span_ns = span_ns;
	if (!load->closed) {
		attnbench_pace_start(&pace, load->options.rate, load->options.poisson, load->options.seed + frame->rounds, 0);
		return attnbench_crowd_open(load->crowd, &pace, load->at_random ? &load->random : NULL, span_ns, &results[ATTNBENCH_OPEN]);
	}
	load->cpu_ns -= cpu_ns_of(load->daemon);
	load->cpu_requests -= results[ATTNBENCH_CLOSED].answered;
	err = attnbench_crowd_closed(load->crowd, load->options.in_flight, span_ns, &results[ATTNBENCH_CLOSED]);
	load->cpu_requests += results[ATTNBENCH_CLOSED].answered;
	load->cpu_ns += cpu_ns_of(load->daemon);
	if (err || !load->has_baseline)
		return err;
	attnbench_frame_aside(frame, run_baseline, load);
	if (load->baseline_rps[frame->rounds] > 0)
		load->ratio_rps[frame->rounds] = per_second(&results[ATTNBENCH_CLOSED]) / load->baseline_rps[frame->rounds];
	return load->err;
}

/* ---- reports ------------------------------------------------------------------------------------------------- */

static const struct attnbench_result *result_of(const struct load *load)
{
	return &load->frame->all[load->closed ? ATTNBENCH_CLOSED : ATTNBENCH_OPEN];
}

static uint64_t failures(const struct attnbench_result *result)
{
	uint64_t sum = 0;

	for (int i = 0; i < ATTND_STATUS_END; i++)
		sum += result->failed[i];
	return sum;
}

/* What the daemon counted meanwhile. */
static void add_differences(cJSON *object, const cJSON *before, const cJSON *after)
{
	const cJSON *one;

	cJSON_ArrayForEach(one, after) {
		if (cJSON_IsNumber(one))
			tool_json_add(object, one->string, one->valuedouble - tool_json_number(before, one->string), 0);
		else if (cJSON_IsObject(one))
			add_differences(cJSON_AddObjectToObject(object, one->string), tool_json_member(before, one->string), one);
	}
}

static void add_daemon(cJSON *object, const struct load *load)
{
	if (!load->after)
		return;
	tool_json_add(object, "system_calls_per_request", calls_per_request(load), 4);
	if (sleeps(load) && load->closed)
		tool_json_add(object, "cpu_us_per_request", cpu_us_each(load->cpu_ns, load->cpu_requests), 3);
	tool_json_add(object, "memory_before_bytes", (double)load->bare_memory_bytes, 0);
	tool_json_add(object, "memory_bytes", (double)load->memory_bytes, 0);
	add_differences(cJSON_AddObjectToObject(object, "network"), tool_json_member(load->before, "network"),
		tool_json_member(load->after, "network"));
}

static void print_json(const struct load *load)
{
	const struct attnbench_result *result = result_of(load);
	cJSON *object = attnbench_json_new(load->frame, "load");

	tool_json_add(object, "connections", load->connections, 0);
	tool_json_add(object, "idle", load->idle, 0);
	tool_json_add(object, "in_flight", load->options.in_flight, 0);
	tool_json_add(object, "size_bytes", load->size_bytes, 0);
	cJSON_AddBoolToObject(object, "closed", load->closed);
	tool_json_add(object, "rate", load->options.rate, 3);
	cJSON_AddBoolToObject(object, "poisson", load->options.poisson);
	tool_json_add(object, "sent", (double)(result->answered + failures(result)), 0);
	attnbench_json_hist(object, "latency", &result->latency);
	attnbench_json_load(object, result);
	attnbench_json_parts(object, result);
	add_daemon(object, load);
	if (load->has_baseline) {
		cJSON_AddStringToObject(object, "baseline", "epoll");
		tool_json_add(object, "baseline_rps", attnbench_frame_median(load->frame, load->baseline_rps), 1);
		tool_json_add(object, "ratio_rps", attnbench_frame_median(load->frame, load->ratio_rps), 3);
		if (sleeps(load))
			tool_json_add(object, "baseline_cpu_us_per_request", cpu_us_each(load->baseline_cpu_ns, load->baseline_cpu_requests), 3);
		attnbench_json_hist(object, "baseline", &load->baseline.latency);
	}
	attnbench_json_print(object);
}

static void print_daemon(const struct load *load)
{
	char before[TOOL_NUMBER_BYTES], now[TOOL_NUMBER_BYTES];

	if (!load->after)
		return;
	printf("  the daemon: %.3f system calls a request; %s in memory when there was no connection, %s at the end\n", calls_per_request(load),
		tool_bytes(before, (uint64_t)load->bare_memory_bytes), tool_bytes(now, (uint64_t)load->memory_bytes));
	if (sleeps(load) && load->closed)
		printf("  processor time a request: the daemon %.2f us", cpu_us_each(load->cpu_ns, load->cpu_requests));
	if (sleeps(load) && load->has_baseline)
		printf(", the bare epoll server %.2f us", cpu_us_each(load->baseline_cpu_ns, load->baseline_cpu_requests));
	if (sleeps(load) && load->closed)
		putchar('\n');
}

static void print_tables(const struct load *load)
{
	const struct attnbench_result *result = result_of(load);
	struct tool_table *table = attnbench_report_table("");
	char size[TOOL_NUMBER_BYTES], rate[64];

	snprintf(rate, sizeof(rate), "%u in flight on each", load->options.in_flight);
	if (!load->closed)
		snprintf(rate, sizeof(rate), "%.0f/s%s, from the intended time", load->options.rate, load->options.poisson ? " at random" : "");
	tool_table_title(stdout, "%u connections over %s, and %u idle ones; echo of %s; %s", load->connections,
		attnbench_report_way(&load->options.daemon), load->idle, tool_bytes(size, load->size_bytes), rate);
	if (load->has_baseline)
		attnbench_report_row(table, "bare epoll server", &load->baseline.latency);
	attnbench_report_row(table, "attnd", &result->latency);
	tool_table_colour(table, "green");
	tool_table_print(table, stdout);
	printf("  %.0f answers/s", per_second(result));
	if (load->has_baseline)
		printf(", %.2f times the %.0f of the bare epoll server (medians of %u rounds)",
			attnbench_frame_median(load->frame, load->ratio_rps),
			attnbench_frame_median(load->frame, load->baseline_rps), load->frame->rounds);
	putchar('\n');
	print_daemon(load);
	attnbench_report_trouble(result);
	attnbench_report_parts(result);
	attnbench_report_frame(load->frame);
}

static int report(const struct load *load)
{
	if (load->options.json)
		print_json(load);
	else
		print_tables(load);
	if (result_of(load)->answered == 0) {
		tool_say("no request was answered with a result");
		return TOOL_FAILED;
	}
	return attnbench_report_raw(load->frame, "load", &result_of(load)->latency);
}

/* ---- the whole ----------------------------------------------------------------------------------------------- */

/* The daemon and the baseline's server have as many, and the same limit. */
static void raise_descriptors(const struct load *load)
{
	const unsigned long long asked = load->connections * (load->has_baseline ? 2ull : 1ull);
	const unsigned long long wanted = asked + load->idle + DESCRIPTORS_BESIDE;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max >= wanted)
		return;
	tool_die(TOOL_FAILED, "%u connections need %llu descriptors, and this process may have %llu at most: raise its hard limit (ulimit -Hn)",
		load->connections + load->idle, wanted, (unsigned long long)limit.rlim_max);
}

static void prepare_daemon(struct load *load)
{
	struct tool_daemon *daemon = &load->options.daemon;

	if (!daemon->spawn)
		return;
	snprintf(load->daemon_options[0], sizeof(load->daemon_options[0]), "net.connections=%u",
		load->connections + load->idle + CONNECTIONS_BESIDE);
	snprintf(load->daemon_options[1], sizeof(load->daemon_options[1]), "placement.workers=0");
	/* What is in memory is to be the connections', then. */
	snprintf(load->daemon_options[2], sizeof(load->daemon_options[2]), "kv.pool=16m");
	snprintf(load->daemon_options[3], sizeof(load->daemon_options[3]), "net.in_flight=%d",
		load->connections > FEW ? IN_FLIGHT : IN_FLIGHT_OF_FEW);
	for (int i = 0; i < OPTIONS; i++)
		tool_daemon_default(daemon, load->daemon_options[i]);
}

static void connect_baseline(void *context)
{
	struct load *load = context;

	load->err = attnbench_crowd_bare_open(&load->bare);
	if (!load->err)
		attnbench_crowd_bare_run(&load->bare, false);
}

static void open_baseline(struct load *load)
{
	const struct tool_daemon *daemon = &load->options.daemon;

	load->bare = (struct attnbench_crowd_bare){ .transport = tool_daemon_transport(daemon), .count = load->connections,
		.size_bytes = load->size_bytes,
		.sleeps = sleeps(load),
		.cpu = load->frame->cpus.apart ? load->frame->cpus.daemon : -1 };
	attnbench_frame_aside(load->frame, connect_baseline, load);
	if (load->err || attnbench_crowd_create(&load->bare_crowd, &attnbench_crowd_bare_way, &load->bare, load->connections, load->connections,
				 &load->frame->clock))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	attnbench_result_clear(&load->baseline);
}

static void open_all(struct load *load)
{
	const uint32_t count = load->connections + load->idle;

	load->before = ask_status(load);
	load->bare_memory_bytes = resident_bytes(load->before);
	load->daemon = load->before ? (pid_t)tool_json_number(load->before, "pid") : 0;
	cJSON_Delete(load->before);
	load->clients = (struct attnbench_crowd_clients){ .size_bytes = load->size_bytes,
		.priority_class = (uint8_t)load->options.priority_class,
		.deadline_ns = (int64_t)(load->options.deadline_us * 1e3) };
	attnbench_crowd_clients_open(&load->clients, &load->options.daemon, count, &load->frame->clock);
	if (attnbench_crowd_create(&load->crowd, &attnbench_crowd_clients_way, &load->clients, count, load->connections, &load->frame->clock))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	attnbench_crowd_set_ahead(load->crowd, load->clients.ahead_ns);
	if (load->has_baseline)
		open_baseline(load);
	load->before = ask_status(load);
}

static void close_all(struct load *load)
{
	if (load->has_baseline)
		attnbench_crowd_bare_close(&load->bare);
	attnbench_crowd_destroy(load->bare_crowd);
	attnbench_crowd_destroy(load->crowd);
	attnbench_crowd_clients_close(&load->clients);
	cJSON_Delete(load->before);
	cJSON_Delete(load->after);
}

int attnbench_load(int argc, char **argv)
{
	static struct load load = { .connections = 1 };
	int status;

	attnbench_defaults(&load.options);
	tool_args_parse(&argp, argc, argv, &load);
	load.random = load.options.seed;
	raise_descriptors(&load);
	prepare_daemon(&load);
	load.frame = attnbench_frame_open(&load.options);
	open_all(&load);
	status = attnbench_frame_measure(load.frame, round_of, &load);
	if (status == TOOL_OK) {
		load.after = ask_status(&load);
		load.memory_bytes = load.after ? resident_bytes(load.after) : 0;
		status = report(&load);
	}
	close_all(&load);
	return attnbench_frame_close(load.frame, status);
}
