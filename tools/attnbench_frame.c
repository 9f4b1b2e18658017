/*
 * What stands around a measurement. See attnbench_frame.h.
 */
#include "tools/attnbench_frame.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnbench_pingpong.h"
#include "tools/tool_text.h"

enum { PAUSE_NS = 50000000, ARENA_BYTES = 64 << 20 };

/* How long an idle spinner on this processor is held up: what no client can be spared. */
static void measure_pauses(struct attnbench_frame *frame)
{
	int64_t now_ns = base_clock_now(&frame->clock), end_ns = now_ns + PAUSE_NS;

	base_hist_clear(&frame->pause);
	while (now_ns < end_ns) {
		int64_t next_ns = base_clock_now(&frame->clock);

		base_hist_add(&frame->pause, next_ns - now_ns);
		now_ns = next_ns;
	}
}

/* The daemon and its workers get every processor but ours, because they inherit what we may use. */
static void place_daemon(struct attnbench_frame *frame)
{
	static char front[64];
	struct tool_daemon *daemon = &frame->options->daemon;

	if (!frame->cpus.apart)
		return;
	snprintf(front, sizeof(front), "placement.front_cpu=%d", frame->cpus.daemon);
	tool_daemon_default(daemon, front);
	tool_daemon_default(daemon, "placement.idle=spin");
	tool_daemon_default(
		daemon, frame->cpus.cores > 2 ? "placement.workers=auto" : "placement.workers=0");
	tool_cpu_avoid(frame->cpus.client);
}

struct attnbench_frame *attnbench_frame_open(struct attnbench_options *options)
{
	const struct attnd_options connection = { .struct_bytes = sizeof(connection),
		.arena_bytes = ARENA_BYTES,
		.submission_slots = 2 * ATTNBENCH_SLOTS_MAX,
		.completion_slots = 4 * ATTNBENCH_SLOTS_MAX,
		.spin_ns = -1 };
	struct attnbench_frame *frame = calloc(1, sizeof(*frame));

	if (!frame)
		tool_die(TOOL_FAILED, "out of memory");
	frame->options = options;
	if (tool_cpu_pick(&frame->cpus))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	if (getloadavg(&frame->load_average, 1) != 1)
		frame->load_average = -1;
	if (options->daemon.spawn)
		place_daemon(frame);
	tool_daemon_open(&options->daemon);
	if (frame->cpus.apart)
		tool_cpu_pin(frame->cpus.client);
	base_clock_init(&frame->clock);
	measure_pauses(frame);
	frame->client = tool_daemon_connect(&options->daemon, &connection);
	if (attnd_describe_daemon(frame->client, &frame->about))
		tool_die(TOOL_NO_DAEMON, "cannot ask the daemon what it is: %s", attnd_error());
	return frame;
}

void attnbench_frame_aside(struct attnbench_frame *frame, void (*fn)(void *context), void *context)
{
	struct tool_spawn *spawn = &frame->options->daemon.spawned;

	if (spawn->keeper && tool_spawn_pause(spawn))
		tool_die(TOOL_NO_DAEMON, "%s", base_error_message());
	fn(context);
	if (spawn->keeper && tool_spawn_resume(spawn))
		tool_die(TOOL_NO_DAEMON, "%s", base_error_message());
}

static void run_pingpong(void *context)
{
	static struct base_hist hist;
	struct attnbench_frame *frame = context;

	base_hist_clear(&hist);
	if (attnbench_pingpong(ATTNBENCH_LINE, frame->cpus.apart ? frame->cpus.daemon : -1,
		    ATTNBENCH_PINGPONG_NS, &hist))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	base_hist_merge(&frame->pingpong, &hist);
	frame->last_pingpong_ns = base_hist_quantile(&hist, 0.5);
}

static int64_t pingpong(struct attnbench_frame *frame)
{
	attnbench_frame_aside(frame, run_pingpong, frame);
	return frame->last_pingpong_ns;
}

static bool differ(int64_t a_ns, int64_t b_ns)
{
	int64_t low = a_ns < b_ns ? a_ns : b_ns, high = a_ns < b_ns ? b_ns : a_ns;

	return (high - low) * 100 > low * ATTNBENCH_UNQUIET_PERCENT;
}

static void clear(struct attnbench_result *results)
{
	for (int i = 0; i < ATTNBENCH_LOOPS; i++)
		attnbench_result_clear(&results[i]);
}

static void keep(
	struct attnbench_frame *frame, const struct attnbench_result *results, int64_t pingpong_ns)
{
	const struct attnbench_result *main =
		&results[results[ATTNBENCH_CLOSED].answered ? ATTNBENCH_CLOSED : ATTNBENCH_OPEN];

	frame->pingpong_ns[frame->rounds] = pingpong_ns;
	frame->p50_ns[frame->rounds++] = base_hist_quantile(&main->latency, 0.5);
	for (int i = 0; i < ATTNBENCH_LOOPS; i++)
		attnbench_result_merge(&frame->all[i], &results[i]);
}

/* P round P round P: each ping-pong stands after one round and before the next. A round whose
 * two differ is measured again, as long as repeats are left. */
int attnbench_frame_measure(struct attnbench_frame *frame, attnbench_round *round, void *context)
{
	const struct attnbench_options *options = frame->options;
	int64_t span_ns = (int64_t)(options->seconds * 1e9 / options->rounds), before_ns, after_ns;
	static struct attnbench_result results[ATTNBENCH_LOOPS];

	clear(frame->all);
	base_hist_clear(&frame->pingpong);
	frame->rounds = frame->repeats = 0;
	frame->noisy = !frame->cpus.apart;
	before_ns = pingpong(frame);
	while (frame->rounds < options->rounds) {
		tool_progress("round %u of %u", frame->rounds + 1, options->rounds);
		clear(results);
		int err = round(context, frame, span_ns, results);

		if (err) {
			tool_progress(NULL);
			return tool_daemon_failed(err, "measuring");
		}
		after_ns = pingpong(frame);
		bool unquiet = differ(before_ns, after_ns);

		if (unquiet && frame->cpus.apart && frame->repeats < ATTNBENCH_REPEATS_MAX) {
			frame->repeats++;
		} else {
			frame->noisy |= unquiet;
			keep(frame, results, (before_ns + after_ns) / 2);
		}
		before_ns = after_ns;
	}
	tool_progress(NULL);
	return TOOL_OK;
}

static int by_value(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static double median(double *values, unsigned count)
{
	if (count == 0)
		return 0;
	qsort(values, count, sizeof(*values), by_value);
	return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

double attnbench_frame_ratio(const struct attnbench_frame *frame)
{
	double ratios[ATTNBENCH_ROUNDS_MAX];

	for (unsigned i = 0; i < frame->rounds; i++)
		ratios[i] = frame->pingpong_ns[i] ?
			(double)frame->p50_ns[i] / (double)frame->pingpong_ns[i] :
			0;
	return median(ratios, frame->rounds);
}

int64_t attnbench_frame_pingpong_ns(const struct attnbench_frame *frame)
{
	double values[ATTNBENCH_ROUNDS_MAX];

	for (unsigned i = 0; i < frame->rounds; i++)
		values[i] = (double)frame->pingpong_ns[i];
	return (int64_t)median(values, frame->rounds);
}

int attnbench_frame_close(struct attnbench_frame *frame, int status)
{
	struct tool_daemon *daemon = &frame->options->daemon;

	attnd_disconnect(frame->client);
	free(frame);
	return tool_daemon_close(daemon, status);
}
