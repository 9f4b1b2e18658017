/*
 * Shares of device time between tenants: random schedules against the bound of sched_share.c, who pays for what, a flood
 * beside a quiet neighbour, and quotas. On a modelled device and a fake clock.
 *
 * 100,000 schedules, fifty to a world, which has its seed: weights, lengths, classes, deadlines, quotas, cancels,
 * disconnects. SEED=n in the environment replays a world, COUNT=n changes how many schedules there are. About half a
 * minute. Time limit: 300 s.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "tests/unit/sched_rig.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SCHEDULES = 4000 };
#else
enum { SCHEDULES = 100000 };
#endif

enum { TENANTS = 4, CLIENTS = 6, SESSIONS_EACH = 4, WORLD_SCHEDULES = 50, TICKS = 30 };

static struct rig rig;
static const uint32_t zeros[1024];
static uint64_t random_state;

static uint32_t below(uint32_t n)
{
	return (uint32_t)base_rand_below(&random_state, n);
}

/* ---- random schedules ----------------------------------------------------------------- */

/* What two tenants got while both were backlogged, by weight: the range in which the difference moved. */
struct pair {
	bool both;
	uint64_t backlogs[2];
	double least_ns, most_ns;
};

struct session {
	uint64_t handle;
	bool raw;
};

static struct pair pairs[TENANTS][TENANTS];
static struct session sessions[CLIENTS][SESSIONS_EACH];
static double closest; /* how near the bound any pair came */
static double longest; /* L of the bound, when it was last read; it only grows */
static uint64_t pairs_seen, held_seen, statuses[ATTND_STATUS_END];

/* By way of the counter. */
static double longest_read(void)
{
	struct sched_counters counters;
	uint32_t lightest = UINT32_MAX;

	sched_counters_read(rig.sched, &counters);
	for (uint32_t t = 0; t < TENANTS; t++)
		if (rig.tenants[t].weight < lightest)
			lightest = rig.tenants[t].weight;
	return (double)counters.fair_bound_ns * lightest / (rig.device_options.host_memory ? 3 : 5);
}

static double bound_ns(const struct sched_tenant_view *a, const struct sched_tenant_view *b)
{
	return (rig.device_options.host_memory ? 3 : 5) * (longest + 1.0) * (1.0 / a->weight + 1.0 / b->weight);
}

static void watch_pair(const struct sched_tenant_view *views, uint32_t i, uint32_t j)
{
	const struct sched_tenant_view *a = &views[i], *b = &views[j];
	const double difference_ns = (double)a->used_ns / a->weight - (double)b->used_ns / b->weight;
	struct pair *pair = &pairs[i][j];
	double drift_ns;

	if (!a->ready || a->held || !b->ready || b->held) {
		pair->both = false;
		return;
	}
	if (!pair->both || pair->backlogs[0] != a->backlogs || pair->backlogs[1] != b->backlogs) {
		*pair = (struct pair){ true, { a->backlogs, b->backlogs }, difference_ns, difference_ns };
		pairs_seen++;
		return;
	}
	pair->least_ns = difference_ns < pair->least_ns ? difference_ns : pair->least_ns;
	pair->most_ns = difference_ns > pair->most_ns ? difference_ns : pair->most_ns;
	drift_ns = pair->most_ns - pair->least_ns;
	if (drift_ns <= closest * bound_ns(a, b))
		return;
	longest = longest_read();
	if (drift_ns > bound_ns(a, b))
		fail_msg("tenants %u and %u, of weights %u and %u: %.0f ns apart, at most %.0f are allowed", i, j,
			a->weight, b->weight, drift_ns, bound_ns(a, b));
	if (drift_ns / bound_ns(a, b) > closest)
		closest = drift_ns / bound_ns(a, b);
}

static void watch(void)
{
	struct sched_tenant_view views[TENANTS];

	assert_int_equal(sched_tenants_view(rig.sched, views, TENANTS), TENANTS);
	for (uint32_t i = 0; i < TENANTS; i++) {
		held_seen += views[i].held;
		for (uint32_t j = 0; j < i; j++)
			watch_pair(views, i, j);
	}
}

static void poll_once(void)
{
	const struct sched_reply *reply;

	sched_poll(rig.sched);
	while ((reply = base_spsc_peek(&rig.out[0])) != NULL) {
		uint32_t client = reply->client, s = 0;

		if (reply->kind == SCHED_CLIENT_QUIESCED) {
			rig.quiesced[client]++;
			free(rig.arenas[client]);
			rig.arenas[client] = NULL;
		} else if (reply->completion.flags & ATTND_CPL_FINAL) {
			statuses[reply->completion.status]++;
			/* Only an OPEN answers with a handle and this mark. */
			if (reply->completion.request_id >> 32 && reply->completion.status == ATTND_OK) {
				while (s < SESSIONS_EACH - 1 && sessions[client][s].handle)
					s++;
				sessions[client][s].handle = reply->completion.value;
				sessions[client][s].raw = reply->completion.request_id >> 33;
			}
		}
		base_spsc_release(&rig.out[0]);
	}
	watch();
}

static void open_some(uint32_t client)
{
	memset(sessions[client], 0, sizeof(sessions[client]));
	for (uint32_t s = 0; s < SESSIONS_EACH; s++) {
		const bool raw = below(6) == 0;
		struct attnd_open_params *params = rig_loan(&rig, client, sizeof(*params));

		*params = raw ? rig_attention_params(1, 2, 1, 16) : rig_open_params(below(RIG_MODELS));
		rig_send(&rig, client,
			(struct attnd_request){ .op = ATTND_OP_OPEN,
				.in_bytes = sizeof(*params),
				.request_id = (UINT64_C(1) + raw) << 32 | ++rig.next_id },
			params, NULL);
	}
	for (int i = 0; i < 3; i++)
		poll_once();
}

static void request_raw(uint32_t client, uint64_t session)
{
	const uint32_t kv_rows = 1 + below(40), bytes = kv_rows * 16 * 4;
	struct attnd_attend_params params = { .struct_bytes = sizeof(params),
		.q_rows = kv_rows,
		.kv_rows = kv_rows,
		.q_position = UINT32_MAX };
	struct attnd_request record = { .op = ATTND_OP_ATTEND,
		.session = session,
		.in_bytes = (uint32_t)sizeof(params) + 4 * bytes,
		.out_capacity = 2 * bytes };
	unsigned char *in = rig_loan(&rig, client, record.in_bytes);

	memcpy(in, &params, sizeof(params));
	rig_send(&rig, client, record, in, rig_loan(&rig, client, record.out_capacity));
}

static void request(uint32_t client)
{
	const struct session *session = &sessions[client][below(SESSIONS_EACH)];
	uint32_t count = below(2) ? 1 : 1 + below(90);
	struct attnd_request record;

	if (!session->handle)
		return;
	if (session->raw) {
		request_raw(client, session->handle);
		return;
	}
	if (below(4) == 0) {
		struct attnd_generate_params params = { .max_tokens = 1 + below(30) };

		rig_generate(&rig, client, session->handle, zeros, count, params, NULL,
			(struct attnd_request){ .priority_class = (uint8_t)below(ATTND_CLASS_END) });
		return;
	}
	record = rig_step_record(session->handle, count, ATTND_OUT_ARGMAX);
	record.priority_class = (uint8_t)below(ATTND_CLASS_END);
	if (below(3) == 0)
		record.deadline_ns = rig.clock.fake_ns + 20000 + below(3000000);
	rig_send(&rig, client, record, zeros, rig_loan(&rig, client, 64));
}

static void operate(uint32_t client, uint32_t intensity)
{
	if (!rig.arenas[client]) {
		if (below(8) == 0) {
			rig_add(&rig, client, client % TENANTS, 20 + below(100));
			open_some(client);
		}
		return;
	}
	for (uint32_t i = 0; i < intensity; i++) {
		uint32_t what = below(60);

		if (rig.used[client] > RIG_ARENA_BYTES / 2) {
			rig_rewind(&rig, client); /* whatever reads there reads numbers */
		} else if (what == 0) {
			rig_send(&rig, client,
				(struct attnd_request){ .op = ATTND_OP_CANCEL, .args = rig.next_id - below(8) }, NULL,
				NULL);
		} else if (what == 1) {
			rig_send(&rig, client,
				rig_session_record(ATTND_OP_TRUNCATE, sessions[client][below(SESSIONS_EACH)].handle, 0),
				NULL, NULL);
		} else if (what == 2 && below(4) == 0) {
			rig_message(&rig, SCHED_CLIENT_GONE, client, 0, 0);
			return;
		} else {
			request(client);
		}
	}
}

static void time_passes(void)
{
	int64_t next_ns = sim_device_next_ns(rig.device);

	if (next_ns == INT64_MAX || below(8) == 0)
		next_ns = rig.clock.fake_ns + below(20000);
	if (next_ns > rig.clock.fake_ns)
		rig.clock.fake_ns = next_ns;
}

static void world_start(uint64_t seed)
{
	static const uint32_t heaviest[] = { 1, 3, 20, 1000 };
	const uint32_t most = heaviest[below(4)];

	rig_init(&rig);
	rig.device_options.host_memory = seed % 3 != 0;
	rig.device_options.jitter_permille = below(3) ? 0 : 500;
	rig.device_options.errors_per_million = below(4) ? 0 : 2000;
	rig.device_options.seed = seed;
	rig.device_options.no_results = true;
	rig.device_options.row_ns = 100 + below(3000);
	rig.device_options.work_ns = 1000 + below(100000);
	rig.options.lanes[0].clients = CLIENTS;
	rig.options.sessions_max = CLIENTS * SESSIONS_EACH;
	rig.options.requests_max = 160;
	rig.options.tokens_max = 512;
	rig.options.kv_bytes = 32 * rig.options.kv_extent_bytes;
	rig.options.step_rows_max = 1 + below(64);
	rig.options.prefill_chunk = 1 + below(64);
	rig.options.out_rows_max = 1 + below(rig.options.step_rows_max);
	for (uint32_t t = 0; t < TENANTS; t++) {
		rig.tenants[t].weight = 1 + below(most);
		if (below(6) == 0) {
			rig.tenants[t].device_ns_per_s = 50000000 + below(400000000);
			rig.tenants[t].device_burst_ns = 1 + below(1000000);
		}
		rig.tenants[t].requests_max = below(5) ? 0 : 1 + below(30);
	}
	rig_start(&rig);
}

/* Everybody leaves; what is left lands. */
static void schedule_end(void)
{
	for (uint32_t c = 0; c < CLIENTS; c++)
		if (rig.arenas[c])
			rig_message(&rig, SCHED_CLIENT_GONE, c, 0, 0);
	rig_run(&rig);
	rig.reply_count = 0;
	for (uint32_t c = 0; c < CLIENTS; c++)
		assert_null(rig.arenas[c]);
	assert_true(sched_idle(rig.sched));
}

static void schedule_run(void)
{
	uint32_t intensity[CLIENTS];

	memset(pairs, 0, sizeof(pairs));
	for (uint32_t c = 0; c < CLIENTS; c++) {
		intensity[c] = below(3) ? below(3) : 8;
		if (below(4) > 0) {
			rig_add(&rig, c, c % TENANTS, 20 + below(100));
			open_some(c);
		}
	}
	for (uint32_t tick = 0; tick < TICKS; tick++) {
		operate(below(CLIENTS), intensity[tick % CLIENTS]);
		for (uint32_t c = 0; c < CLIENTS; c++)
			if (intensity[c] == 8)
				operate(c, 1);
		poll_once();
		time_passes();
		poll_once();
		if (tick % 16 == 0 && sched_check(rig.sched) != 0)
			fail_msg("%s", base_error_message());
	}
	schedule_end();
}

/* A world serves some schedules one after the other; its seed replays them all. */
static void drift_stays_bounded(void **state)
{
	const char *seed_text = getenv("SEED"), *count_text = getenv("COUNT");
	const uint64_t only = seed_text ? strtoull(seed_text, NULL, 0) : 0;
	const uint64_t worlds =
		(count_text ? strtoull(count_text, NULL, 0) : SCHEDULES) / WORLD_SCHEDULES;

	(void)state;
	for (uint64_t seed = only ? only : 1; only ? seed == only : seed <= worlds; seed++) {
		random_state = seed;
		world_start(seed);
		longest = 0.0;
		if (worlds <= 10 || only)
			print_message("# seed %llu\n", (unsigned long long)seed);
		for (uint32_t i = 0; i < WORLD_SCHEDULES; i++)
			schedule_run();
		rig_stop(&rig);
	}
	print_message("# %llu times two tenants were backlogged; they came to %.0f %% of the bound\n",
		(unsigned long long)pairs_seen, 100.0 * closest);
	for (enum attnd_status s = 0; s < ATTND_STATUS_END; s++)
		if (statuses[s])
			print_message("# status %2u: %llu\n", s, (unsigned long long)statuses[s]);
	if (only || count_text)
		return;
	/* The schedules were of the kind that could show something. */
	assert_true(pairs_seen > SCHEDULES && held_seen > SCHEDULES && closest > 0.2);
	assert_true(statuses[ATTND_REFUSED_DEADLINE] && statuses[ATTND_EXPIRED] && statuses[ATTND_CANCELLED] &&
		statuses[ATTND_OVER_QUOTA]);
}

/* ---- two tenants, deterministic ------------------------------------------------------- */

static struct sched_tenant_view view_of(uint32_t tenant)
{
	struct sched_tenant_view views[TENANTS];

	sched_tenants_view(rig.sched, views, TENANTS);
	return views[tenant];
}

static uint64_t step(uint32_t client, uint64_t session, uint32_t count, uint8_t class, int64_t deadline_ns)
{
	struct attnd_request record = rig_step_record(session, count, ATTND_OUT_ARGMAX);

	record.priority_class = class;
	record.deadline_ns = deadline_ns;
	rig_rewind(&rig, client);
	return rig_send(&rig, client, record, zeros, rig_loan(&rig, client, 64));
}

static void streams(uint32_t client, uint32_t count, uint8_t class)
{
	struct attnd_generate_params params = { .max_tokens = 1000 };

	for (uint32_t i = 0; i < count; i++)
		rig_generate(&rig, client, rig_open_now(&rig, client, 0), zeros, 1, params, NULL,
			(struct attnd_request){ .priority_class = class });
}

/* Clients 0 and 1 of tenants 0 and 1, and room for their streams. */
static void start_two(void)
{
	rig_start(&rig);
	rig_add(&rig, 0, 0, 1000000);
	rig_add(&rig, 1, 1, 1000000);
}

static void lands(uint32_t works)
{
	for (uint32_t i = 0; i < works; i++) {
		rig_land(&rig);
		rig_settle(&rig);
		rig.reply_count = 0;
	}
}

/* However many sessions flood, and of whatever class: half of the device's time is the other's, whose class is the least. */
static void a_flood_takes_no_share(void **state)
{
	struct sched_tenant_view before[2], after[2];
	double shares[2];

	(void)state;
	rig_init(&rig);
	rig.options.step_rows_max = 4;
	rig.device_options.no_results = true;
	start_two();
	streams(0, 40, ATTND_CLASS_LATENCY);
	streams(1, 5, ATTND_CLASS_BULK);
	lands(20);
	before[0] = view_of(0), before[1] = view_of(1);
	lands(200);
	after[0] = view_of(0), after[1] = view_of(1);
	for (uint32_t t = 0; t < 2; t++)
		shares[t] = (double)(after[t].used_ns - before[t].used_ns);
	assert_true(shares[0] < 1.05 * shares[1] && shares[1] < 1.05 * shares[0]);
	rig_stop(&rig);
}

/* A step's time is all charged; a row beside a chunk pays for itself, and half of what sessions cost. */
static void who_pays(void **state)
{
	struct sched_counters counters;
	struct sched_tenant_view row, chunk;
	uint64_t sessions_of[2];

	(void)state;
	rig_init(&rig);
	rig.device_options.row_ns = 10000;
	start_two();
	sessions_of[0] = rig_open_now(&rig, 0, 0);
	sessions_of[1] = rig_open_now(&rig, 1, 0);
	for (uint32_t i = 0; i < 30; i++) {
		/* Together they wait for a step that is in the air. */
		step(1, sessions_of[1], 1, ATTND_CLASS_BULK, 0);
		rig_settle(&rig);
		step(0, sessions_of[0], 1, ATTND_CLASS_BULK, 0);
		step(1, sessions_of[1], 20, ATTND_CLASS_BULK, 0);
		rig_run(&rig);
		rig.reply_count = 0;
	}
	sched_counters_read(rig.sched, &counters);
	row = view_of(0), chunk = view_of(1);
	assert_int_equal(row.used_ns + chunk.used_ns, counters.actual_ns);
	assert_true(row.used_ns > 30 * 5000 && row.used_ns < chunk.used_ns / 5);
	rig_stop(&rig);
}

/* Who was away long is not given what he missed. */
static void absence_is_not_saved_up(void **state)
{
	struct sched_tenant_view before[2], after[2];
	double shares[2];

	(void)state;
	rig_init(&rig);
	rig.options.step_rows_max = 4;
	rig.tenants[1].weight = 3;
	start_two();
	streams(0, 8, ATTND_CLASS_BULK);
	lands(100);
	before[0] = view_of(0), before[1] = view_of(1);
	streams(1, 8, ATTND_CLASS_BULK);
	lands(50);
	after[0] = view_of(0), after[1] = view_of(1);
	for (uint32_t t = 0; t < 2; t++)
		shares[t] = (double)(after[t].used_ns - before[t].used_ns);
	assert_true(shares[0] > 0.20 * (shares[0] + shares[1]) && shares[0] < 0.30 * (shares[0] + shares[1]));
	rig_stop(&rig);
}

/* ---- a quiet tenant beside a busy one ------------------------------------------------- */

enum neighbour { NEIGHBOUR_SHARE, NEIGHBOUR_FLOOD, NEIGHBOUR_URGENT_FLOOD, NEIGHBOUR_LONG_FLOOD };
enum { NEIGHBOUR_SESSIONS = 40, QUIET_SESSIONS = 8, QUIET_REQUESTS = 4000 };

struct quiet {
	uint64_t sessions[QUIET_SESSIONS], others[NEIGHBOUR_SESSIONS];
	bool busy[NEIGHBOUR_SESSIONS];
	int64_t latencies[QUIET_REQUESTS];
	uint32_t sent, done;
	uint64_t refused, kept, broken; /* of the neighbour's */
	int64_t next_ns, other_next_ns;
};

static struct quiet quiet;

static void neighbour_sends(enum neighbour neighbour, uint32_t session)
{
	const bool urgent = neighbour == NEIGHBOUR_URGENT_FLOOD;
	const uint32_t rows = neighbour == NEIGHBOUR_LONG_FLOOD ? 200 : 1 + below(40);
	struct attnd_request record =
		rig_step_record(quiet.others[session], rows, ATTND_OUT_ARGMAX);

	/* Room in the context again, first of all. */
	rig_send(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, quiet.others[session], 0), NULL, NULL);
	record.request_id = (UINT64_C(1) << 32) + session;
	record.priority_class = urgent ? ATTND_CLASS_LATENCY : ATTND_CLASS_INTERACTIVE;
	record.deadline_ns = urgent ? rig.clock.fake_ns + 100000 + below(300000) : 0;
	rig_send(&rig, 0, record, zeros, rig.arenas[0]);
	quiet.busy[session] = true;
}

/* A flood keeps all its sessions busy; who uses his share sends half of what the device can do, at random times. */
static void neighbour_acts(enum neighbour neighbour)
{
	const int64_t now_ns = rig.clock.fake_ns;

	for (uint32_t s = 0; s < NEIGHBOUR_SESSIONS; s++) {
		if (quiet.busy[s] || (neighbour == NEIGHBOUR_SHARE && quiet.other_next_ns > now_ns))
			continue;
		neighbour_sends(neighbour, s);
		/* 20.5 rows in the mean, each 1 us, beside 10 us for a step: about 32 us of work. */
		quiet.other_next_ns = now_ns + (int64_t)below(2 * 64000);
	}
}

static void quiet_acts(void)
{
	const int64_t now_ns = rig.clock.fake_ns;

	if (quiet.next_ns > now_ns || quiet.sent == QUIET_REQUESTS)
		return;
	rig_send(&rig, 1, rig_session_record(ATTND_OP_TRUNCATE, quiet.sessions[quiet.sent % QUIET_SESSIONS], 0), NULL,
		NULL);
	struct attnd_request record = rig_step_record(
		quiet.sessions[quiet.sent % QUIET_SESSIONS], quiet.sent % 10 ? 1 : 24, ATTND_OUT_ARGMAX);

	record.request_id = (UINT64_C(2) << 32) + quiet.sent++;
	record.priority_class = ATTND_CLASS_INTERACTIVE;
	rig_send(&rig, 1, record, zeros, rig.arenas[1]);
	quiet.next_ns = now_ns + (int64_t)below(2 * 100000);
}

static void quiet_reads(void)
{
	for (uint32_t i = 0; i < rig.reply_count; i++) {
		const struct attnd_completion *completion = &rig.replies[i].completion;

		if (completion->request_id >> 32 == 1) {
			quiet.busy[completion->request_id & UINT32_MAX] = false;
			quiet.refused += completion->status == ATTND_REFUSED_DEADLINE;
			quiet.kept += completion->status == ATTND_OK && !(completion->flags & ATTND_CPL_MISSED);
			quiet.broken += completion->status == ATTND_EXPIRED || (completion->flags & ATTND_CPL_MISSED);
		} else if (completion->request_id >> 32 == 2) {
			assert_int_equal(completion->status, ATTND_OK);
			quiet.latencies[quiet.done++] = completion->done_ns - completion->received_ns;
		}
	}
	rig.reply_count = 0;
}

static int compare(const void *a, const void *b)
{
	const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

/* The quiet one's p99 in ns; *longest_ns: of all works. */
static double quiet_p99(enum neighbour neighbour, double *longest_ns)
{
	rig_init(&rig);
	rig.device_options.no_results = true;
	rig.options.client_requests_max = 256;
	start_two();
	memset(&quiet, 0, sizeof(quiet));
	random_state = 7;
	for (uint32_t s = 0; s < NEIGHBOUR_SESSIONS; s++)
		quiet.others[s] = rig_open_now(&rig, 0, 0);
	for (uint32_t s = 0; s < QUIET_SESSIONS; s++)
		quiet.sessions[s] = rig_open_now(&rig, 1, 0);
	quiet.next_ns = quiet.other_next_ns = rig.clock.fake_ns;
	while (quiet.done < QUIET_REQUESTS) {
		int64_t next_ns = sim_device_next_ns(rig.device);

		neighbour_acts(neighbour);
		quiet_acts();
		for (int i = 0; i < 3; i++)
			sched_poll(rig.sched);
		rig_poll(&rig);
		quiet_reads();
		next_ns = sim_device_next_ns(rig.device);
		if (quiet.sent < QUIET_REQUESTS && quiet.next_ns < next_ns)
			next_ns = quiet.next_ns;
		if (neighbour == NEIGHBOUR_SHARE && quiet.other_next_ns < next_ns)
			next_ns = quiet.other_next_ns;
		if (next_ns > rig.clock.fake_ns && next_ns != INT64_MAX)
			rig.clock.fake_ns = next_ns;
	}
	longest = 0.0;
	*longest_ns = longest_read();
	qsort(quiet.latencies, QUIET_REQUESTS, sizeof(*quiet.latencies), compare);
	print_message("# quiet: median %lld ns, p99 %lld ns, longest work %.0f ns; tenant 0 used %.0f %%, 1 %.0f %%\n",
		(long long)quiet.latencies[QUIET_REQUESTS / 2], (long long)quiet.latencies[QUIET_REQUESTS * 99 / 100],
		*longest_ns, 1e2 * (double)view_of(0).used_ns / (double)(rig.clock.fake_ns - 1000000000),
		1e2 * (double)view_of(1).used_ns / (double)(rig.clock.fake_ns - 1000000000));
	print_message("# the neighbour: %llu refused, %llu kept, %llu broken\n", (unsigned long long)quiet.refused,
		(unsigned long long)quiet.kept, (unsigned long long)quiet.broken);
	rig_stop(&rig);
	return (double)quiet.latencies[QUIET_REQUESTS * 99 / 100];
}

/* Its p99 beside a flood is within 10 % and one step of that beside a neighbour that uses just its share. */
static void the_quiet_one_keeps_its_latency(void **state)
{
	double longest_ns, fair_ns = quiet_p99(NEIGHBOUR_SHARE, &longest_ns);

	(void)state;
	for (enum neighbour n = NEIGHBOUR_FLOOD; n <= NEIGHBOUR_LONG_FLOOD; n++) {
		double flooded_ns = quiet_p99(n, &longest_ns);

		if (flooded_ns > 1.1 * fair_ns + longest_ns)
			fail_msg("flood %u: p99 %.0f ns, beside a fair neighbour %.0f, longest work %.0f", n, flooded_ns,
				fair_ns, longest_ns);
	}
}

/* ---- admission ------------------------------------------------------------------------ */

/* Of a tenant that shares the device with a backlogged one half the time is counted: what would make it alone is refused,
 * what makes it with half is admitted, and makes it. */
static void admission_counts_shares(void **state)
{
	struct attnd_completion completion;
	uint64_t session, id;
	int64_t alone_ns;

	(void)state;
	rig_init(&rig);
	rig.options.step_rows_max = 32;
	rig.device_options.no_results = true;
	start_two();
	session = rig_open_now(&rig, 0, 0);
	for (uint32_t i = 0; i < 20; i++) {
		id = step(0, session, 320, ATTND_CLASS_LATENCY, 0);
		alone_ns = rig.clock.fake_ns;
		rig_run(&rig);
		alone_ns = rig_take(&rig, id).done_ns - alone_ns;
		rig_send(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 0), NULL, NULL);
		rig_run(&rig);
	}
	id = step(0, session, 320, ATTND_CLASS_LATENCY, rig.clock.fake_ns + alone_ns * 13 / 10);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_OK);
	rig_send(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 0), NULL, NULL);
	rig_run(&rig);
	for (uint32_t i = 0; i < 30; i++) /* of the least class, without deadlines: yet it has its share */
		step(1, rig_open_now(&rig, 1, 0), 500, ATTND_CLASS_BULK, 0);
	rig_settle(&rig);
	id = step(0, session, 320, ATTND_CLASS_LATENCY, rig.clock.fake_ns + alone_ns * 13 / 10);
	rig_settle(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_REFUSED_DEADLINE);
	assert_true((int64_t)completion.value - rig.clock.fake_ns > alone_ns * 18 / 10);
	assert_true((int64_t)completion.value - rig.clock.fake_ns < alone_ns * 3);
	id = step(0, session, 320, ATTND_CLASS_LATENCY, rig.clock.fake_ns + alone_ns * 3);
	rig_run(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_OK);
	assert_int_equal(completion.flags, ATTND_CPL_FINAL);
	rig_stop(&rig);
}

/* ---- quotas --------------------------------------------------------------------------- */

/* Polls until the clock has come so far. */
static void run_until(int64_t until_ns)
{
	while (rig.clock.fake_ns < until_ns) {
		int work = rig_poll(&rig);
		int64_t next_ns = sim_device_next_ns(rig.device);

		rig.reply_count = 0;
		if (next_ns == INT64_MAX && work == 0) {
			next_ns = sched_next_event_ns(rig.sched);
			assert_true(next_ns > rig.clock.fake_ns);
		}
		if (next_ns != INT64_MAX && next_ns > rig.clock.fake_ns)
			rig.clock.fake_ns = next_ns < until_ns ? next_ns : until_ns;
	}
}

/* A tenant with a quota gets that much and no more, even of an idle device, and its work only waits; another one takes the
 * rest. */
static void device_time_is_capped(void **state)
{
	struct sched_tenant_view before[2], after[2];
	struct sched_counters counters;
	int64_t begun_ns;
	uint64_t id;

	(void)state;
	rig_init(&rig);
	rig.tenants[0].device_ns_per_s = 250000000;
	rig.tenants[0].device_burst_ns = 500000;
	rig.device_options.no_results = true;
	start_two();
	begun_ns = rig.clock.fake_ns;
	streams(0, 40, ATTND_CLASS_LATENCY);
	run_until(begun_ns + 40000000);
	before[0] = view_of(0);
	assert_in_range(before[0].used_ns, 9500000, 10000000 + 500000 + 100000);
	/* What cannot be paid for in time is refused, with the time when it could. */
	id = step(0, rig_open_now(&rig, 0, 0), 1000, ATTND_CLASS_LATENCY, rig.clock.fake_ns + 2000000);
	rig_settle(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_REFUSED_DEADLINE);
	streams(1, 40, ATTND_CLASS_BULK);
	before[0] = view_of(0), before[1] = view_of(1);
	begun_ns = rig.clock.fake_ns;
	run_until(begun_ns + 20000000);
	after[0] = view_of(0), after[1] = view_of(1);
	assert_in_range(after[0].used_ns - before[0].used_ns, 4000000, 5700000);
	assert_in_range(after[1].used_ns - before[1].used_ns, 14000000, 16000000);
	sched_counters_read(rig.sched, &counters);
	assert_int_equal(counters.by_status[ATTND_EXPIRED] + counters.by_status[ATTND_OVER_QUOTA], 0);
	/* On the way down it just finishes. */
	before[0] = after[0];
	rig_message(&rig, SCHED_DRAIN, 0, 0, 0);
	run_until(rig.clock.fake_ns + 4000000);
	assert_true(view_of(0).used_ns - before[0].used_ns > 1500000);
	rig_stop(&rig);
}

/* So many requests of a tenant at a time, over all its clients; the others do not notice. */
static void requests_are_capped(void **state)
{
	uint64_t ids[5], session, last;

	(void)state;
	rig_init(&rig);
	rig.tenants[0].requests_max = 4;
	start_two();
	rig_add(&rig, 2, 0, 10);
	session = rig_open_now(&rig, 0, 0);
	last = rig_open_now(&rig, 2, 0);
	for (uint32_t i = 0; i < 4; i++)
		ids[i] = step(0, session, 1, ATTND_CLASS_BULK, 0);
	ids[4] = step(2, last, 1, ATTND_CLASS_BULK, 0);
	rig_settle(&rig);
	assert_int_equal(rig_take(&rig, ids[4]).status, ATTND_OVER_QUOTA);
	assert_int_equal(view_of(0).requests, 4);
	ids[4] = step(1, rig_open_now(&rig, 1, 0), 1, ATTND_CLASS_BULK, 0);
	rig_run(&rig);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(rig_take(&rig, ids[i]).status, ATTND_OK);
	ids[4] = step(2, last, 1, ATTND_CLASS_BULK, 0);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, ids[4]).status, ATTND_OK);
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_flood_takes_no_share),
		cmocka_unit_test(who_pays),
		cmocka_unit_test(absence_is_not_saved_up),
		cmocka_unit_test(the_quiet_one_keeps_its_latency),
		cmocka_unit_test(admission_counts_shares),
		cmocka_unit_test(device_time_is_capped),
		cmocka_unit_test(requests_are_capped),
		cmocka_unit_test(drift_stays_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
