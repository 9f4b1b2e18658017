/*
 * attnbench replay: a trace of requests, live, against a daemon, and what became of each: was it refused, and if not, did its first
 * token come by its deadline? What attnsim says of the scheduler in virtual time, this says of the daemon on a machine as it is.
 *
 * Three runs of one sender on one daemon: probes, one after the other, say how long an idle daemon takes; an even sample of the
 * trace that is there at once says how much it can do; then the trace itself is replayed. Main thread.
 */
#include "tools/attnbench_replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/base_error.h"
#include "tools/attnbench.h"
#include "tools/tool_args.h"
#include "tools/tool_text.h"

enum {
	SESSIONS = 256,
	SAMPLE = 192,
	SAMPLE_AT_ONCE = 32,  /* of the sample, sent and not answered; several times as many are there, so that most end at full load */
	SAMPLE_MIN = 4,
	PROBE_POINTS = 6,     /* lengths of prompts */
	PROBE_REPEATS = 3,
	PROBE_OUTPUT = 8,     /* tokens that each makes */
	COMPLETION_SLOTS = 4096,
	SUBMISSION_SLOTS = 2048,
	OPTION_BYTES = 64,
	TIMER_SLACK_NS = 1000, /* a thread that sleeps until an intended time wakes by then, not 50 us later */
	NICER = 10             /* than the daemon: what sends stands for clients that have processors of their own */
};
#define SAMPLE_STOP_NS INT64_C(30000000000) /* what of the sample has not been sent by then stays */
#define PATIENCE_NS INT64_C(600000000000)   /* for what comes back before a replay can begin */
#define GRACE_NS INT64_C(60000000000)       /* for what comes after the last request of a replay */
#define DEAD_NS INT64_C(10000000000)        /* a daemon whose steps are long is not dead */

enum { KEY_TRACE = 0x300, KEY_SCALE, KEY_REQUESTS, KEY_SECONDS, KEY_LOAD, KEY_CAPACITY, KEY_SAMPLE, KEY_MIX, KEY_SLACK, KEY_NO_DEADLINES,
	KEY_SESSIONS, KEY_SEED, KEY_OUT };

static const struct argp_option option_table[] = {
	{ "trace", KEY_TRACE, "FILE", 0, "an Azure CSV or a Mooncake JSONL file, or one made up: poisson, bursts", 1 },
	{ "requests", KEY_REQUESTS, "N", 0, "only the first N of the file (all); how many are made up (10000)", 1 },
	{ "seconds", KEY_SECONDS, "S", 0, "as many of them as arrive in so long (60)", 1 },
	{ "scale", KEY_SCALE, "S", 0, "prompts and answers are so many times shorter, at least 1 token (as few times as they have room)", 1 },
	{ "load", KEY_LOAD, "L", 0, "arrivals are scaled to so many times the capacity (1)", 1 },
	{ "capacity", KEY_CAPACITY, "R", 0, "requests/s of load 1 (measured: a sample that is there at once)", 1 },
	{ "sample", KEY_SAMPLE, "N", 0, "measure the capacity with N requests of the trace, at most 30 s (192)", 1 },
	{ "mix", KEY_MIX, "T,N,U", 0, "percent of requests with tight, normal and no deadlines (30,50,20)", 1 },
	{ "slack", KEY_SLACK, "T,N", 0, "a deadline is so many times the ideal time after arrival (5,20)", 1 },
	{ "no-deadlines", KEY_NO_DEADLINES, NULL, 0, "do not tell the daemon the deadlines, only judge by them", 1 },
	{ "sessions", KEY_SESSIONS, "N", 0, "requests that are with the daemon at once (256)", 1 },
	{ "seed", KEY_SEED, "N", 0, "of whatever is random (1)", 1 },
	{ "json", 'j', NULL, 0, "print one JSON object instead of a table", 1 },
	{ "out", KEY_OUT, "FILE", 0, "write what became of each request there, a line of CSV for each", 1 },
	{ 0 },
};

static void check(const struct attnbench_replay *replay, const struct argp_state *state)
{
	if (!replay->trace_name)
		argp_error(state, "nothing to replay: give --trace FILE, or --trace poisson");
	if (replay->daemon.spawn && !replay->daemon.model)
		argp_error(state, "a private daemon needs a model: --model FILE.gguf");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct attnbench_replay *replay = state->input;
	struct attnbench_replay_plan *plan = &replay->plan;

	switch (key) {
	case ARGP_KEY_INIT: state->child_inputs[0] = &replay->daemon; return 0;
	case KEY_TRACE: replay->trace_name = value; return 0;
	case KEY_REQUESTS: replay->requests = tool_args_u64("--requests", value, 1, ATTNSIM_REQUESTS_MAX); return 0;
	case KEY_SECONDS: plan->seconds = tool_args_double("--seconds", value, 0.1, 86400.0); return 0;
	case KEY_SCALE: plan->scale = tool_args_double("--scale", value, 1.0, ATTNSIM_TOKENS_MAX); return 0;
	case KEY_LOAD: plan->load = tool_args_double("--load", value, 0.001, 1000.0); return 0;
	case KEY_CAPACITY: replay->capacity_rps = tool_args_double("--capacity", value, 1e-6, 1e6); return 0;
	case KEY_SAMPLE: replay->sample = (uint32_t)tool_args_u64("--sample", value, SAMPLE_MIN, 100000); return 0;
	case KEY_MIX: tool_args_shares("--mix", value, ATTNBENCH_REPLAY_URGENCIES, plan->share); return 0;
	case KEY_SLACK: tool_args_doubles("--slack", value, ATTNBENCH_REPLAY_NONE, 1.0, 1e6, plan->slack); return 0;
	case KEY_NO_DEADLINES: replay->ignores_deadlines = true; return 0;
	case KEY_SESSIONS:
		replay->sessions = (uint32_t)tool_args_u64("--sessions", value, 1, ATTNBENCH_REPLAY_SESSIONS_MAX);
		return 0;
	case KEY_SEED: plan->seed = tool_args_u64("--seed", value, 0, UINT32_MAX); return 0;
	case KEY_OUT: replay->out_file = value; return 0;
	case 'j': replay->json = true; return 0;
	case ARGP_KEY_ARG: argp_error(state, "what is '%s'?", value); return 0;
	case ARGP_KEY_END: check(replay, state); return 0;
	default: return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &tool_daemon_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = { .options = option_table,
	.parser = parse,
	.children = children,
	.doc = "Replay a trace of requests against the daemon, in an open loop, and count what was refused, missed and good.\v"
	       "A deadline is of the first token, for the daemon and here: the request's arrival and --slack times what an idle daemon "
	       "takes for a prompt of that length, which is measured first. A request counts as good when it was answered to its end and "
	       "its first token came by its deadline; without a deadline, when its answer was complete before the last arrival. Refused is "
	       "what the daemon would not promise; missed is what it admitted and did not serve in time. With --no-deadlines the daemon is "
	       "told none and refuses none for them: what a server without admission makes of the same requests. Traces, deadlines and "
	       "sums are those of attnsim, whose figures may be laid beside these." };

/* ---- the daemon --------------------------------------------------------------------------------- */

/* A private daemon takes as many requests of one client as there are to be sessions; what the user sets by --daemon-option still wins. */
static void configure(struct attnbench_replay *replay)
{
	static char of_client[OPTION_BYTES], of_connection[OPTION_BYTES], streams[OPTION_BYTES];

	snprintf(of_client, sizeof(of_client), "limits.client_requests=%u", replay->sessions);
	snprintf(of_connection, sizeof(of_connection), "net.in_flight=%u", replay->sessions);
	snprintf(streams, sizeof(streams), "net.streams=%u", ATTNBENCH_REPLAY_CONNECTION_MAX - replay->sessions);
	tool_daemon_default(&replay->daemon, of_client);
	if (tool_daemon_transport(&replay->daemon) == TOOL_TRANSPORT_SHM)
		return;
	tool_daemon_default(&replay->daemon, of_connection);
	tool_daemon_default(&replay->daemon, streams);
}

/* The private connection only asks; how large the arena must be follows from what it is told. */
static void ask(struct attnbench_replay *replay)
{
	struct attnd_client *client = tool_daemon_connect(&replay->daemon, NULL);
	uint32_t spare;

	if (attnd_describe_daemon(client, &replay->about))
		tool_die(TOOL_NO_DAEMON, "cannot ask the daemon what it is: %s", attnd_error());
	replay->model_index = tool_daemon_model(&replay->daemon, client, &replay->model);
	attnd_disconnect(client);
	replay->session_tokens =
		replay->model.context < replay->about.max_tokens ? replay->model.context : replay->about.max_tokens;
	spare = replay->about.sessions_max > replay->about.sessions ? replay->about.sessions_max - replay->about.sessions : 0;
	if (replay->sessions > spare)
		replay->sessions = spare;
	if (replay->sessions > replay->about.max_in_flight)
		replay->sessions = replay->about.max_in_flight;
	if (replay->sessions == 0)
		tool_die(TOOL_FAILED, "the daemon has no session left");
}

/* On time on a machine where the daemon computes on every processor, as far as that is allowed; it needs very little. */
static void be_punctual(void)
{
	prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
	setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) - NICER);
}

static void fit_trace(struct attnbench_replay *replay)
{
	struct attnbench_replay_plan *plan = &replay->plan;

	if (plan->scale == 0.0)
		plan->scale = attnbench_replay_scale(plan->trace, replay->session_tokens);
	if (attnbench_replay_longest(plan) > replay->session_tokens)
		tool_die(TOOL_FAILED, "at --scale %g the longest request has %u tokens, and a session of %s holds %u: --scale %.2f has room",
			plan->scale, attnbench_replay_longest(plan), replay->model.name, replay->session_tokens,
			attnbench_replay_scale(plan->trace, replay->session_tokens) + 0.01);
}

static int open_sender(struct attnbench_replay *replay)
{
	const uint32_t prompt = attnbench_replay_longest_prompt(&replay->plan);
	/* It sleeps at once when there is nothing to do: processors belong to the daemon's compute threads. */
	const struct attnd_options options = { .struct_bytes = sizeof(options),
		.arena_bytes = attnbench_replay_arena_bytes(replay->sessions, prompt),
		.submission_slots = SUBMISSION_SLOTS,
		.completion_slots = COMPLETION_SLOTS,
		.spin_ns = 1,
		.dead_after_ns = DEAD_NS };

	return attnbench_replay_open(&replay->sender, tool_daemon_connect(&replay->daemon, &options), replay->model_index, replay->sessions,
		replay->session_tokens, prompt);
}

/* What the daemon has done so far; false where its memory cannot be seen from here. */
static bool read_view(const struct attnbench_replay *replay, struct attnbench_replay_view *sum)
{
	struct attnd_view_daemon daemon;
	struct attnd_view *view;
	bool is_read;

	*sum = (struct attnbench_replay_view){ 0 };
	if (attnd_view_open(&view, tool_daemon_shm_address(&replay->daemon)))
		return false;
	is_read = attnd_view_read_daemon(view, &daemon) == 0;
	for (uint32_t d = 0; is_read && d < daemon.devices; d++) {
		struct attnd_view_device device = { 0 };

		is_read = attnd_view_read_device(view, d, &device) == 0;
		for (unsigned i = 0; i < ATTND_VIEW_ERRORS; i++)
			sum->counts.errors[i] += device.counts.errors[i];
		sum->counts.predictions += device.counts.predictions;
		sum->prompt_tokens += device.now.prefix_prompt_tokens;
		sum->found_tokens += device.now.prefix_tokens;
	}
	attnd_view_close(view);
	return is_read;
}

static void subtract(struct attnbench_replay_view *view, const struct attnbench_replay_view *before)
{
	for (unsigned i = 0; i < ATTND_VIEW_ERRORS; i++)
		view->counts.errors[i] -= before->counts.errors[i];
	view->counts.predictions -= before->counts.predictions;
	view->prompt_tokens -= before->prompt_tokens;
	view->found_tokens -= before->found_tokens;
}

/* ---- three runs --------------------------------------------------------------------------------- */

/* Runs jobs whose answers are all needed. An exit code. */
static int run_whole(struct attnbench_replay *replay, struct attnbench_replay_jobs *jobs, const struct attnbench_replay_way *way)
{
	int err = attnbench_replay_run(&replay->sender, &replay->plan, jobs, way);

	if (err)
		return tool_daemon_failed(err, way->what);
	if (replay->sender.ended < jobs->count) {
		tool_say("%s: %zu of %zu requests have no answer after ten minutes", way->what, jobs->count - replay->sender.ended,
			jobs->count);
		return TOOL_FAILED;
	}
	return TOOL_OK;
}

/* What the arithmetic could not do. */
static int plan_failed(void)
{
	tool_say("%s", base_error_message());
	return TOOL_FAILED;
}

/* How long an idle daemon takes. */
static int probe(struct attnbench_replay *replay)
{
	const struct attnbench_replay_way way = { .sessions = 1, .patience_ns = PATIENCE_NS, .what = "measuring the ideal times" };
	struct attnbench_replay_jobs probes;
	int status;

	if (attnbench_replay_probes(&replay->plan, PROBE_POINTS, PROBE_REPEATS, PROBE_OUTPUT, replay->session_tokens, &probes))
		return plan_failed();
	status = run_whole(replay, &probes, &way);
	replay->between_ns = attnbench_replay_between_ns(&probes);
	if (status == TOOL_OK && attnbench_replay_ideal(&probes, PROBE_POINTS, &replay->plan.ideal))
		status = plan_failed();
	attnbench_replay_free(&probes);
	return status;
}

/* How much it can do. */
static int measure_capacity(struct attnbench_replay *replay)
{
	const struct attnbench_replay_way way = { .sessions = SAMPLE_AT_ONCE,
		.stop_ns = SAMPLE_STOP_NS,
		.patience_ns = PATIENCE_NS,
		.what = "measuring the capacity" };
	struct attnbench_replay_jobs sample;
	int status;

	if (attnbench_replay_sample(&replay->plan, replay->sample, &sample))
		return plan_failed();
	status = run_whole(replay, &sample, &way);
	replay->capacity_tokens_s = attnbench_replay_tokens_s(&sample);
	attnbench_replay_free(&sample);
	if (status == TOOL_OK && replay->capacity_tokens_s <= 0.0) {
		tool_say("the capacity cannot be measured: no request of the sample was answered to its end");
		status = TOOL_FAILED;
	}
	return status;
}

/* How long to wait for answers after the last request: what was offered beyond the capacity takes its time. */
static int64_t patience_ns(const struct attnbench_replay *replay)
{
	return GRACE_NS + (int64_t)(2 * replay->plan.load * (double)replay->jobs.jobs[replay->jobs.count - 1].arrival_ns);
}

static int run_trace(struct attnbench_replay *replay)
{
	struct attnbench_replay_view before;
	struct attnbench_replay_way way = { .tells = !replay->ignores_deadlines, .what = "replaying" };
	int err;

	if (attnbench_replay_make(&replay->plan, replay->capacity_tokens_s, &replay->capacity_rps, &replay->jobs))
		return plan_failed();
	way.patience_ns = patience_ns(replay);
	replay->has_view = read_view(replay, &before);
	err = attnbench_replay_run(&replay->sender, &replay->plan, &replay->jobs, &way);
	replay->over_ns = attnbench_replay_now_ns(&replay->sender);
	if (err)
		return tool_daemon_failed(err, way.what);
	replay->has_view = replay->has_view && read_view(replay, &replay->view);
	if (replay->has_view)
		subtract(&replay->view, &before);
	return TOOL_OK;
}

int attnbench_replay(int argc, char **argv)
{
	static struct attnbench_replay replay = {
		.sample = SAMPLE,
		.sessions = SESSIONS,
		.plan = { .load = 1, .seconds = 60, .share = { 0.3, 0.5, 0.2 }, .slack = { 5, 20 }, .seed = 1 },
	};
	int status;

	tool_args_parse(&argp, argc, argv, &replay);
	if (getloadavg(&replay.load_average, 1) != 1)
		replay.load_average = -1;
	if (attnsim_trace_get(&replay.trace, replay.trace_name, replay.requests, replay.plan.seed))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	replay.plan.trace = &replay.trace;
	if (replay.daemon.spawn)
		configure(&replay);
	tool_daemon_open(&replay.daemon);
	be_punctual();
	ask(&replay);
	replay.plan.vocab = replay.model.vocab;
	fit_trace(&replay);
	status = open_sender(&replay);
	if (status == TOOL_OK)
		status = probe(&replay);
	if (status == TOOL_OK && replay.capacity_rps == 0.0)
		status = measure_capacity(&replay);
	if (status == TOOL_OK)
		status = run_trace(&replay);
	if (status == TOOL_OK)
		status = attnbench_replay_report(&replay);
	attnd_disconnect(replay.sender.client);
	attnbench_replay_free(&replay.jobs);
	attnsim_trace_free(&replay.trace);
	return tool_daemon_close(&replay.daemon, status);
}
