/*
 * attnbench echo: the round trip of a request that computes nothing, through the whole daemon.
 */
#include <stdio.h>
#include <string.h>

#include "tools/attnbench_frame.h"
#include "tools/attnbench_pingpong.h"
#include "tools/attnbench_report.h"
#include "tools/tool_args.h"
#include "tools/tool_control.h"
#include "tools/tool_text.h"

enum { SIZE_MAX_BYTES = 16 << 20, WARM_NS = 20000000, OPEN_SLOTS = 256, RECORD_BYTES = 64 };

struct echo {
	struct attnbench_options options;
	uint32_t size_bytes;
	bool sleeps;
	struct attnd_request request;
	struct base_hist futex, unix_socket;
};

enum { KEY_SLEEP = 0x300 };

static const struct argp_option option_table[] = {
	{ "size", 's', "N", 0, "the daemon copies N bytes from input to output (0)", 1 },
	{ "sleep", KEY_SLEEP, NULL, 0,
		"the private daemon sleeps when it has nothing to do (placement.idle=sleep)", 1 },
	{ 0 },
};

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct echo *echo = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &echo->options;
		return 0;
	case 's':
		echo->size_bytes = (uint32_t)tool_args_size("--size", value, 0, SIZE_MAX_BYTES);
		return 0;
	case KEY_SLEEP:
		echo->sleeps = true;
		return 0;
	case ARGP_KEY_END:
		if (echo->sleeps && !echo->options.daemon.spawn)
			argp_error(state, "--sleep needs --spawn");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &attnbench_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = { .options = option_table,
	.parser = parse,
	.children = children,
	.doc = "Round trip of a request that computes nothing, through the whole daemon: client "
	       "ring, scheduler, completion ring. Both sides spin. Over a socket a bare echo of "
	       "messages of the same size runs before and after each round: ratio_p50 is attnd's "
	       "p50 over that echo's, over shared memory over a cache line's ping-pong." };

static unsigned fill(void *context, uint32_t slot, struct attnd_request requests[2])
{
	const struct echo *echo = context;

	(void)slot;
	requests[0] = echo->request;
	return 1;
}

static enum attnbench_loop loop_of(const struct echo *echo)
{
	return echo->options.rate > 0 ? ATTNBENCH_OPEN : ATTNBENCH_CLOSED;
}

static int round_of(void *context, struct attnbench_frame *frame, int64_t span_ns,
	struct attnbench_result *results)
{
	static struct attnbench_result warm;
	struct echo *echo = context;
	const struct attnbench_options *options = &echo->options;
	struct attnbench_target target = { .context = echo,
		.slots = OPEN_SLOTS,
		.fill = fill,
		.priority_class = (uint8_t)options->priority_class,
		.deadline_ns = (int64_t)(options->deadline_us * 1e3) };
	int err = attnbench_closed(frame->client, &frame->clock, &target, 1, WARM_NS, &warm);

	if (err)
		return err;
	if (options->rate <= 0)
		return attnbench_closed(frame->client, &frame->clock, &target, options->in_flight,
			span_ns, &results[loop_of(echo)]);
	struct attnbench_pace pace;

	attnbench_pace_start(
		&pace, options->rate, options->poisson, options->seed + frame->rounds, 0);
	return attnbench_open(
		frame->client, &frame->clock, &target, &pace, span_ns, &results[loop_of(echo)]);
}

struct baselines {
	struct attnbench_frame *frame;
	struct echo *echo;
};

/* The same round trip without a daemon, by the means that other services use. */
static void run_baselines(void *context)
{
	struct baselines *baselines = context;
	int other = baselines->frame->cpus.apart ? baselines->frame->cpus.daemon : -1;

	base_hist_clear(&baselines->echo->futex);
	base_hist_clear(&baselines->echo->unix_socket);
	attnbench_pingpong(ATTNBENCH_FUTEX, other, ATTNBENCH_PINGPONG_NS, &baselines->echo->futex);
	attnbench_pingpong(
		ATTNBENCH_UNIX, other, ATTNBENCH_PINGPONG_NS, &baselines->echo->unix_socket);
}

/* The bare echo of this machine that attnd is compared with. */
static void add_bare(cJSON *object, const struct attnbench_frame *frame)
{
	const struct attnbench_limit_times *limits = frame->limits;

	if (frame->bare_missing[0])
		cJSON_AddStringToObject(object, "bare_missing", frame->bare_missing);
	if (limits[ATTNBENCH_LIMIT_BARE].is_wanted) {
		cJSON_AddStringToObject(object, "bare", attnbench_bare_names[frame->bare.server]);
		attnbench_json_hist(object, "bare", &limits[ATTNBENCH_LIMIT_BARE].all);
	}
	if (limits[ATTNBENCH_LIMIT_NONBLOCKING].is_wanted)
		attnbench_json_hist(object, "nonblocking", &limits[ATTNBENCH_LIMIT_NONBLOCKING].all);
}

static void print_json(const struct echo *echo, const struct attnbench_frame *frame)
{
	const enum attnbench_limit limit = attnbench_frame_main_limit(frame);
	cJSON *object = attnbench_json_new(frame, "echo");

	attnbench_json_hist(object, "rtt", &frame->all[loop_of(echo)].latency);
	if (limit < ATTNBENCH_LIMITS)
		tool_json_add(object, "ratio_p50", attnbench_frame_ratio(frame, limit), 3);
	add_bare(object, frame);
	tool_json_add(object, "size_bytes", echo->size_bytes, 0);
	tool_json_add(object, "rate", echo->options.rate, 3);
	attnbench_json_load(object, &frame->all[loop_of(echo)]);
	attnbench_json_parts(object, &frame->all[loop_of(echo)]);
	attnbench_json_hist(object, "futex", &echo->futex);
	attnbench_json_hist(object, "unix", &echo->unix_socket);
	attnbench_json_print(object);
}

static void add_bare_rows(struct tool_table *table, const struct attnbench_frame *frame)
{
	const struct attnbench_limit_times *limits = frame->limits;
	char name[64];

	snprintf(name, sizeof(name), "bare echo, %s", attnbench_bare_names[frame->bare.server]);
	if (limits[ATTNBENCH_LIMIT_BARE].is_wanted)
		attnbench_report_row(table, name, &limits[ATTNBENCH_LIMIT_BARE].all);
	if (limits[ATTNBENCH_LIMIT_NONBLOCKING].is_wanted)
		attnbench_report_row(table, "bare echo, non-blocking calls", &limits[ATTNBENCH_LIMIT_NONBLOCKING].all);
}

static void print_ratio(const struct attnbench_frame *frame)
{
	const enum attnbench_limit limit = attnbench_frame_main_limit(frame);

	if (frame->bare_missing[0])
		printf("  no bare echo to compare with: %s\n", frame->bare_missing);
	if (frame->cpus.apart && limit == ATTNBENCH_LIMIT_LINE)
		printf("  %.2f times the ping-pong (median of %u rounds)\n", attnbench_frame_ratio(frame, limit), frame->rounds);
	else if (limit == ATTNBENCH_LIMIT_BARE)
		printf("  %.2f times the bare echo (%s), %.2f times the one of non-blocking calls (medians of %u rounds)\n",
			attnbench_frame_ratio(frame, limit), attnbench_bare_names[frame->bare.server],
			attnbench_frame_ratio(frame, ATTNBENCH_LIMIT_NONBLOCKING), frame->rounds);
}

static void print_tables(const struct echo *echo, const struct attnbench_frame *frame)
{
	char size[TOOL_NUMBER_BYTES];
	struct tool_table *table = attnbench_report_table("");

	if (echo->options.rate > 0)
		tool_table_title(stdout,
			"Echo of %s through the whole daemon over %s, %.0f/s%s, from the intended time",
			tool_bytes(size, echo->size_bytes), attnbench_report_way(&echo->options.daemon), echo->options.rate,
			echo->options.poisson ? " at random" : "");
	else
		tool_table_title(stdout, "Echo of %s through the whole daemon over %s, %u in flight",
			tool_bytes(size, echo->size_bytes), attnbench_report_way(&echo->options.daemon), echo->options.in_flight);
	attnbench_report_row(table, "ping-pong of a cache line", &frame->limits[ATTNBENCH_LIMIT_LINE].all);
	add_bare_rows(table, frame);
	attnbench_report_row(table, "attnd, round trip", &frame->all[loop_of(echo)].latency);
	tool_table_colour(table, "green");
	attnbench_report_row(table, "futex, sleeping", &echo->futex);
	attnbench_report_row(table, "unix socket, blocking", &echo->unix_socket);
	tool_table_print(table, stdout);
	print_ratio(frame);
	attnbench_report_trouble(&frame->all[loop_of(echo)]);
	attnbench_report_parts(&frame->all[loop_of(echo)]);
	attnbench_report_frame(frame);
}

static void prepare(struct echo *echo, struct attnbench_frame *frame)
{
	echo->request = (struct attnd_request){ .op = ATTND_OP_NOP };
	if (echo->size_bytes == 0)
		return;
	unsigned char *in = attnd_loan(frame->client, echo->size_bytes);
	unsigned char *out = attnd_loan(frame->client, echo->size_bytes);

	if (!in || !out)
		tool_die(TOOL_FAILED, "%u bytes in and out do not fit into the arena",
			echo->size_bytes);
	memset(in, 0x5a, echo->size_bytes);
	echo->request.in_offset = attnd_offset(frame->client, in);
	echo->request.in_bytes = echo->size_bytes;
	echo->request.out_offset = attnd_offset(frame->client, out);
	echo->request.out_capacity = echo->size_bytes;
}

int attnbench_echo(int argc, char **argv)
{
	static struct echo echo;

	attnbench_defaults(&echo.options);
	tool_args_parse(&argp, argc, argv, &echo);
	/* The daemon answers this itself; more threads would only be in the way. */
	tool_daemon_default(&echo.options.daemon, "placement.workers=0");

	if (echo.sleeps)
		tool_daemon_user_option(&echo.options.daemon, "placement.idle=sleep");

	struct attnbench_frame *frame = attnbench_frame_open(&echo.options);
	struct baselines baselines = { frame, &echo };

	prepare(&echo, frame);
	attnbench_frame_compare(frame, RECORD_BYTES + echo.size_bytes);
	int status = attnbench_frame_measure(frame, round_of, &echo);

	if (status == TOOL_OK) {
		attnbench_frame_aside(frame, run_baselines, &baselines);
		if (echo.options.json)
			print_json(&echo, frame);
		else
			print_tables(&echo, frame);
		status = attnbench_report_raw(frame, "echo", &frame->all[loop_of(&echo)].latency);
	}
	return attnbench_frame_close(frame, status);
}
