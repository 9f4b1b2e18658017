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

enum { PAUSE_NS = 50000000, ARENA_BYTES = 64 << 20, IN_FLIGHT = 960 };
#define DEAD_NS INT64_C(10000000000) /* a daemon that stands still for the limits' sake is not dead */

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
	static char front[64], in_flight[64];
	struct tool_daemon *daemon = &frame->options->daemon;

	/* Over shared memory a client may have as many out by itself. */
	snprintf(in_flight, sizeof(in_flight), "net.in_flight=%d", IN_FLIGHT);
	if (tool_daemon_transport(daemon) != TOOL_TRANSPORT_SHM)
		tool_daemon_default(daemon, in_flight);
	if (!frame->cpus.apart || frame->options->client_sleeps)
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
		.spin_ns = -1,
		.dead_after_ns = DEAD_NS };
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
	if (frame->cpus.apart && !options->client_sleeps)
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

/* ---- limits --------------------------------------------------------------------------------- */

void attnbench_frame_compare(struct attnbench_frame *frame, uint32_t message_bytes)
{
	const struct tool_daemon *daemon = &frame->options->daemon;
	struct attnbench_bare *bare = &frame->bare;

	*bare = (struct attnbench_bare){ .transport = tool_daemon_transport(daemon),
		.message_bytes = message_bytes,
		.other_cpu = frame->cpus.apart ? frame->cpus.daemon : -1 };
	if (!daemon->spawn || bare->transport == TOOL_TRANSPORT_SHM)
		return;
	if (message_bytes > ATTNBENCH_BARE_BYTES_MAX) {
		snprintf(frame->bare_missing, sizeof(frame->bare_missing), "messages of more than %d bytes", ATTNBENCH_BARE_BYTES_MAX);
		return;
	}
	if (strcmp(tool_daemon_option(daemon, "placement.idle", "spin"), "sleep") == 0)
		bare->server = ATTNBENCH_BARE_SLEEPING;
	else
		bare->server = bare->transport == TOOL_TRANSPORT_UDP ? ATTNBENCH_BARE_URING : ATTNBENCH_BARE_EPOLL;
	frame->limits[ATTNBENCH_LIMIT_BARE].is_wanted = frame->limits[ATTNBENCH_LIMIT_NONBLOCKING].is_wanted = true;
}

static int run_limit(struct attnbench_frame *frame, enum attnbench_limit limit, struct base_hist *hist)
{
	struct attnbench_bare bare = frame->bare;

	if (limit == ATTNBENCH_LIMIT_LINE)
		return attnbench_pingpong(ATTNBENCH_LINE, bare.other_cpu, ATTNBENCH_PINGPONG_NS, hist);
	if (limit == ATTNBENCH_LIMIT_NONBLOCKING)
		bare.server = ATTNBENCH_BARE_NONBLOCKING;
	return attnbench_bare(&bare, ATTNBENCH_PINGPONG_NS, hist);
}

/* A bare echo that this machine does not have is left out; whatever else fails ends the program. */
static void leave_out(struct attnbench_frame *frame, enum attnbench_limit limit, int err)
{
	if (limit != ATTNBENCH_LIMIT_BARE || frame->rounds > 0 || (err != -ENOSYS && err != -EPERM && err != -EINVAL))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	frame->limits[limit].is_wanted = false;
	snprintf(frame->bare_missing, sizeof(frame->bare_missing), "%s", base_error_message());
}

static void run_limits(void *context)
{
	static struct base_hist hist;
	struct attnbench_frame *frame = context;

	for (enum attnbench_limit limit = 0; limit < ATTNBENCH_LIMITS; limit++) {
		struct attnbench_limit_times *times = &frame->limits[limit];

		if (!times->is_wanted)
			continue;
		base_hist_clear(&hist);
		int err = run_limit(frame, limit, &hist);

		if (err)
			leave_out(frame, limit, err);
		base_hist_merge(&times->all, &hist);
		times->last_ns = base_hist_quantile(&hist, 0.5);
	}
}

static void measure_limits(struct attnbench_frame *frame, int64_t last_ns[ATTNBENCH_LIMITS])
{
	attnbench_frame_aside(frame, run_limits, frame);
	for (int i = 0; i < ATTNBENCH_LIMITS; i++)
		last_ns[i] = frame->limits[i].last_ns;
}

/* What ratios are about must not have changed; the non-blocking echo is only beside it. */
static bool differ(const int64_t *before_ns, const int64_t *after_ns)
{
	for (int i = ATTNBENCH_LIMIT_LINE; i <= ATTNBENCH_LIMIT_BARE; i++) {
		int64_t low = before_ns[i] < after_ns[i] ? before_ns[i] : after_ns[i];
		int64_t high = before_ns[i] < after_ns[i] ? after_ns[i] : before_ns[i];

		if ((high - low) * 100 > low * ATTNBENCH_UNQUIET_PERCENT)
			return true;
	}
	return false;
}

/* ---- rounds --------------------------------------------------------------------------------- */

static void clear(struct attnbench_result *results)
{
	for (int i = 0; i < ATTNBENCH_LOOPS; i++)
		attnbench_result_clear(&results[i]);
}

static void keep(struct attnbench_frame *frame, const struct attnbench_result *results, const int64_t *before_ns,
	const int64_t *after_ns)
{
	const struct attnbench_result *main =
		&results[results[ATTNBENCH_CLOSED].answered ? ATTNBENCH_CLOSED : ATTNBENCH_OPEN];

	for (int i = 0; i < ATTNBENCH_LIMITS; i++)
		frame->limits[i].round_ns[frame->rounds] = (before_ns[i] + after_ns[i]) / 2;
	frame->p50_ns[frame->rounds++] = base_hist_quantile(&main->latency, 0.5);
	for (int i = 0; i < ATTNBENCH_LOOPS; i++)
		attnbench_result_merge(&frame->all[i], &results[i]);
}

/* P round P round P: each look at the limits stands after one round and before the next. A round
 * whose two differ is measured again, as long as repeats are left. */
int attnbench_frame_measure(struct attnbench_frame *frame, attnbench_round *round, void *context)
{
	const struct attnbench_options *options = frame->options;
	const int64_t span_ns = (int64_t)(options->seconds * 1e9 / options->rounds);
	int64_t before_ns[ATTNBENCH_LIMITS], after_ns[ATTNBENCH_LIMITS];
	static struct attnbench_result results[ATTNBENCH_LOOPS];

	clear(frame->all);
	for (int i = 0; i < ATTNBENCH_LIMITS; i++)
		base_hist_clear(&frame->limits[i].all);
	frame->limits[ATTNBENCH_LIMIT_LINE].is_wanted = true;
	frame->bare.other_cpu = frame->cpus.apart ? frame->cpus.daemon : -1;
	frame->rounds = frame->repeats = 0;
	frame->noisy = !frame->cpus.apart;
	measure_limits(frame, before_ns);
	while (frame->rounds < options->rounds) {
		tool_progress("round %u of %u", frame->rounds + 1, options->rounds);
		clear(results);
		int err = round(context, frame, span_ns, results);

		if (err) {
			tool_progress(NULL);
			return tool_daemon_failed(err, "measuring");
		}
		measure_limits(frame, after_ns);
		bool unquiet = differ(before_ns, after_ns);

		if (unquiet && frame->cpus.apart && frame->repeats < ATTNBENCH_REPEATS_MAX) {
			frame->repeats++;
		} else {
			frame->noisy |= unquiet;
			keep(frame, results, before_ns, after_ns);
		}
		memcpy(before_ns, after_ns, sizeof(before_ns));
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

double attnbench_frame_ratio(const struct attnbench_frame *frame, enum attnbench_limit limit)
{
	const int64_t *limit_ns = frame->limits[limit].round_ns;
	double ratios[ATTNBENCH_ROUNDS_MAX];

	for (unsigned i = 0; i < frame->rounds; i++)
		ratios[i] = limit_ns[i] ? (double)frame->p50_ns[i] / (double)limit_ns[i] : 0;
	return median(ratios, frame->rounds);
}

int64_t attnbench_frame_limit_ns(const struct attnbench_frame *frame, enum attnbench_limit limit)
{
	double values[ATTNBENCH_ROUNDS_MAX];

	for (unsigned i = 0; i < frame->rounds; i++)
		values[i] = (double)frame->limits[limit].round_ns[i];
	return (int64_t)median(values, frame->rounds);
}

double attnbench_frame_median(const struct attnbench_frame *frame, const double *by_round)
{
	double values[ATTNBENCH_ROUNDS_MAX];

	memcpy(values, by_round, frame->rounds * sizeof(*values));
	return median(values, frame->rounds);
}

enum attnbench_limit attnbench_frame_main_limit(const struct attnbench_frame *frame)
{
	if (tool_daemon_transport(&frame->options->daemon) == TOOL_TRANSPORT_SHM)
		return ATTNBENCH_LIMIT_LINE;
	return frame->limits[ATTNBENCH_LIMIT_BARE].is_wanted ? ATTNBENCH_LIMIT_BARE : ATTNBENCH_LIMITS;
}

int attnbench_frame_close(struct attnbench_frame *frame, int status)
{
	struct tool_daemon *daemon = &frame->options->daemon;

	attnd_disconnect(frame->client);
	free(frame);
	return tool_daemon_close(daemon, status);
}
