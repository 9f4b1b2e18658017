/*
 * A town under siege. See sys_siege.h.
 */
#include "tests/system/sys_siege.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "base/base_rand.h"

enum {
	HELD_PLAIN = 2000, HELD_SANITIZED = 300, HELD_MAX = 10000,
	DESCRIPTORS_BESIDE = 1000,  /* of the test, and of the daemon: enemies, citizens, whatever is open anyway */
	ROUNDS = 20,                /* that each citizen goes on for, before it is said that he does */
	ECHO_BYTES = 3000, LONG_ECHO_BYTES = 40000, /* the latter comes in pieces, whatever the transport reads at once */
	WAIT_MS = 60000,
	BESIDE_BYTES = 8 << 20,     /* what a daemon may grow by, of its kernel's making and the allocator's: stated here, and looked after */
	SANITIZED_BYTES = 320 << 20, /* and what a sanitizer keeps of what was freed, 256 MiB of it, and its shadow */
};

#define SECOND INT64_C(1000000000)

/* ---- one who works ------------------------------------------------------------------------------------------ */

static bool complain(struct sys_citizen *citizen, const char *what, int64_t value)
{
	if (!citizen->failed)
		snprintf(citizen->wrong, sizeof(citizen->wrong), "%s: %s (%lld; %s)", citizen->name, what, (long long)value, attnd_error());
	citizen->failed = true;
	return false;
}

static bool echo(struct sys_citizen *citizen)
{
	const uint32_t bytes = (uint32_t)base_rand_below(&citizen->random, citizen->echo_bytes);
	struct attnd_client *client = citizen->client;
	unsigned char *in = attnd_loan(client, citizen->echo_bytes), *out = attnd_loan(client, citizen->echo_bytes);
	const struct attnd_request request = { .op = ATTND_OP_NOP, .in_bytes = bytes, .out_capacity = bytes,
		.in_offset = attnd_offset(client, in), .out_offset = attnd_offset(client, out) };
	bool good;
	int rc;

	memset(in, (int)(citizen->random & 0xff), bytes);
	rc = attnd_call(client, &request, NULL);
	good = rc == 0 && memcmp(in, out, bytes) == 0;
	attnd_return(client, out);
	attnd_return(client, in);
	return good || complain(citizen, "an echo", rc);
}

static bool step(struct sys_citizen *citizen)
{
	const struct sys_siege *siege = citizen->siege;
	const struct attnd_step_args args = { .output = ATTND_OUT_ARGMAX };
	uint32_t answer = 0;
	int64_t rc;

	if (citizen->position == SIEGE_ROWS) {
		rc = attnd_session_truncate(citizen->client, citizen->session, 1);
		citizen->position = 1;
		return rc == 0 || complain(citizen, "a truncate", rc);
	}
	rc = attnd_step(citizen->client, citizen->session, &siege->history[citizen->position], 1, args, &answer, sizeof(answer));
	if (rc != sizeof(answer) || answer != siege->answers[citizen->position])
		return complain(citizen, "a step", rc);
	citizen->position++;
	return true;
}

/* A row of attention, behind those that are there: into `o`. As attnd_attend. */
static int attend(const struct sys_siege *siege, struct attnd_client *client, uint64_t session, const struct attnd_open_params *shape,
	uint32_t row, float o[SIEGE_ROW])
{
	struct attnd_attend_params params;

	attnd_attend_defaults(&params);
	params.flags = ATTND_ATTEND_CAUSAL;
	params.q_rows = params.kv_rows = 1;
	return attnd_attend(client, session, shape, &params, siege->q[row], siege->k[row], siege->v[row], o, NULL);
}

static bool attention(struct sys_citizen *citizen)
{
	const struct sys_siege *siege = citizen->siege;
	float o[SIEGE_ROW];
	int rc;

	if (citizen->rows == SIEGE_ROWS) {
		rc = attnd_session_truncate(citizen->client, citizen->attention, 1);
		citizen->rows = 1;
		return rc == 0 || complain(citizen, "a truncate of attention", rc);
	}
	rc = attend(siege, citizen->client, citizen->attention, &citizen->shape, citizen->rows, o);
	if (rc || memcmp(o, siege->o[citizen->rows], sizeof(o)))
		return complain(citizen, "a row of attention", rc);
	citizen->rows++;
	return true;
}

static void shape_of(struct attnd_open_params *open)
{
	attnd_open_defaults(open);
	open->kind = ATTND_SESSION_ATTENTION;
	open->max_tokens = SIEGE_ROWS;
	open->layers = 1;
	open->heads = open->kv_heads = SIEGE_HEADS;
	open->head_dim = SIEGE_HEAD_DIM;
	open->kv_k = open->kv_v = ATTND_KV_F32;
}

static bool settle(struct sys_citizen *citizen)
{
	struct attnd_options how = sys_net_options(&citizen->siege->net, citizen->way);
	struct attnd_open_params open;

	how.address = citizen->address;
	how.arena_bytes = 1 << 20;
	how.dead_after_ns = 120 * SECOND; /* a machine that is busy is not gone */
	how.connect_timeout_ns = 30 * SECOND;
	if (attnd_connect(&citizen->client, &how))
		return complain(citizen, "no connection", 0);
	attnd_open_defaults(&open);
	shape_of(&citizen->shape);
	return (attnd_session_open(citizen->client, &open, &citizen->session) == 0 &&
		attnd_session_open(citizen->client, &citizen->shape, &citizen->attention) == 0) || complain(citizen, "no session", 0);
}

/* The processors are few: everybody rests between two rounds. */
static void *work(void *context)
{
	struct sys_citizen *citizen = context;

	while (!citizen->stop && echo(citizen) && step(citizen) && attention(citizen)) {
		citizen->rounds++;
		sys_sleep_ms(1);
	}
	return NULL;
}

/* ---- beginning ---------------------------------------------------------------------------------------------- */

/* As many as there may be descriptors for, at both ends. */
static uint32_t how_many_held(void)
{
	const char *asked = getenv("ATTND_SIEGE_IDLE");
	unsigned long long wanted = asked ? strtoull(asked, NULL, 10) : sys_sanitized() ? HELD_SANITIZED : HELD_PLAIN;
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	if (limit.rlim_max <= DESCRIPTORS_BESIDE) {
		print_message("# skip: %llu descriptors are too few\n", (unsigned long long)limit.rlim_max);
		exit(77);
	}
	wanted = wanted < HELD_MAX ? wanted : HELD_MAX;
	return (uint32_t)(wanted < limit.rlim_max - DESCRIPTORS_BESIDE ? wanted : limit.rlim_max - DESCRIPTORS_BESIDE);
}

static void set_options(struct sys_siege *siege)
{
	static const char *const fixed[] = { "kv.pool=64M", "limits.tokens=512", "placement.workers=0", "placement.spin_us=50",
		"daemon.log_level=error", "net.memory=16M", "net.window=256K", "net.message=1M", "net.half_open=64", "net.slow_s=1",
		"net.resume_ms=500" };
	uint32_t count = 0;

	snprintf(siege->settings[0], sizeof(siege->settings[0]), "net.connections=%u", siege->held_count + SIEGE_ROOM);
	snprintf(siege->settings[1], sizeof(siege->settings[1]), "tenant.remote.clients=%u", siege->held_count + SIEGE_ROOM);
	snprintf(siege->settings[2], sizeof(siege->settings[2]), "tenant.local.clients=%u", siege->held_count + SIEGE_ROOM);
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		siege->options[count++] = fixed[i];
	for (size_t i = 0; i < 3; i++)
		siege->options[count++] = siege->settings[i];
}

static void learn(struct sys_siege *siege)
{
	const struct attnd_step_args args = { .output = ATTND_OUT_ARGMAX };
	struct attnd_client *client = sys_net_connect(&siege->net, SYS_SHM);
	struct attnd_model_info model;
	struct attnd_open_params open, shape;
	uint64_t session, seed = 11;

	assert_int_equal(attnd_describe_model(client, 0, &model), 0);
	attnd_open_defaults(&open);
	shape_of(&shape);
	assert_int_equal(attnd_session_open(client, &open, &session), 0);
	for (uint32_t i = 0; i < SIEGE_ROWS; i++) {
		siege->history[i] = 3 + (uint32_t)base_rand_below(&seed, model.vocab - 3);
		assert_int_equal(attnd_step(client, session, &siege->history[i], 1, args, &siege->answers[i], sizeof(uint32_t)), sizeof(uint32_t));
	}
	assert_int_equal(attnd_session_open(client, &shape, &session), 0);
	for (uint32_t row = 0; row < SIEGE_ROWS; row++) {
		for (uint32_t i = 0; i < SIEGE_ROW; i++) {
			siege->q[row][i] = (float)base_rand_below(&seed, 1 << 20) / (1 << 18) - 2.0f;
			siege->k[row][i] = (float)base_rand_below(&seed, 1 << 20) / (1 << 18) - 2.0f;
			siege->v[row][i] = (float)base_rand_below(&seed, 1 << 20) / (1 << 18) - 2.0f;
		}
		assert_int_equal(attend(siege, client, session, &shape, row, siege->o[row]), 0);
	}
	attnd_disconnect(client);
}

/* Half of them by TCP, the others by UDP and the Unix socket. */
static void hold(struct sys_siege *siege)
{
	static const enum sys_way ways[4] = { SYS_TCP_SEALED, SYS_UDP_SEALED, SYS_TCP_SEALED, SYS_UNIX };

	siege->held = calloc(siege->held_count, sizeof(*siege->held));
	assert_non_null(siege->held);
	for (uint32_t i = 0; i < siege->held_count; i++) {
		struct attnd_options how = sys_net_options(&siege->net, ways[i % 4]);

		how.arena_bytes = 64 << 10;
		how.submission_slots = 16;
		how.completion_slots = 64;
		how.dead_after_ns = 600 * SECOND;
		how.connect_timeout_ns = 30 * SECOND;
		if (attnd_connect(&siege->held[i], &how))
			fail_msg("connection %u of %u: %s", i + 1, siege->held_count, attnd_error());
		assert_int_equal(attnd_nop(siege->held[i]), 0);
	}
}

static void settle_all(struct sys_siege *siege)
{
	static const struct {
		const char *name;
		enum sys_way way;
		uint32_t echo_bytes;
	} who[SIEGE_CITIZENS] = { { "tcp, sealed", SYS_TCP_SEALED, ECHO_BYTES }, { "tcp, sealed, long", SYS_TCP_SEALED, LONG_ECHO_BYTES },
		{ "udp, sealed", SYS_UDP_SEALED, ECHO_BYTES }, { "udp, sealed, overheard", SYS_UDP_SEALED, ECHO_BYTES },
		{ "unix", SYS_UNIX, ECHO_BYTES }, { "tcp, plain", SYS_TCP, ECHO_BYTES } };

	snprintf(siege->tap_address, sizeof(siege->tap_address), "attnd+udp://%s:%u", siege->net.host, siege->tap.port);
	for (uint32_t i = 0; i < SIEGE_CITIZENS; i++) {
		struct sys_citizen *citizen = &siege->citizens[i];

		*citizen = (struct sys_citizen){ .siege = siege, .name = who[i].name, .way = who[i].way, .echo_bytes = who[i].echo_bytes,
			.random = i + 1, .address = i == 3 ? siege->tap_address : siege->net.addresses[who[i].way] };
		if (!settle(citizen))
			fail_msg("%s", citizen->wrong);
		assert_int_equal(pthread_create(&citizen->thread, NULL, work, citizen), 0);
	}
}

void sys_siege_start(struct sys_siege *siege)
{
	struct sys_usage usage;

	memset(siege, 0, sizeof(*siege));
	siege->held_count = how_many_held();
	set_options(siege);
	sys_net_start(&siege->net, siege->options);
	assert_int_equal(siege_target_set(&siege->tcp, siege->net.host, (uint16_t)siege->net.port, false, siege->net.key_file), 0);
	assert_int_equal(siege_target_set(&siege->udp, siege->net.host, (uint16_t)siege->net.port, true, siege->net.key_file), 0);
	sys_tap_start(&siege->tap, &siege->udp);
	learn(siege);
	hold(siege);
	settle_all(siege);
	sys_siege_alive(siege);
	sys_daemon_usage(&siege->net.daemon, &usage);
	siege->rss_bytes = usage.rss_bytes;
	print_message("# %u connections are held; the daemon has %.1f MiB in memory\n", siege->held_count, (double)usage.rss_bytes / (1 << 20));
}

void sys_siege_stop(struct sys_siege *siege)
{
	sys_siege_note(siege);
	for (uint32_t i = 0; i < siege->held_count; i++)
		if (attnd_nop(siege->held[i]))
			fail_msg("held connection %u: %s", i, attnd_error());
	/* Whose connection had broken would have come back by itself. */
	assert_int_equal((int)sys_net_number(&siege->net, "resumed"), 0);
	for (uint32_t i = 0; i < SIEGE_CITIZENS; i++) {
		siege->citizens[i].stop = true;
		pthread_join(siege->citizens[i].thread, NULL);
		attnd_disconnect(siege->citizens[i].client);
		if (siege->citizens[i].failed)
			fail_msg("%s", siege->citizens[i].wrong);
	}
	for (uint32_t i = 0; i < siege->held_count; i++)
		attnd_disconnect(siege->held[i]);
	free(siege->held);
	sys_tap_stop(&siege->tap);
	assert_true(sys_daemon_wait_number(&siege->net.daemon, "network.clients", 0, WAIT_MS));
	cJSON_Delete(siege->noted);
	sys_net_stop(&siege->net);
}

/* ---- what was counted --------------------------------------------------------------------------------------- */

static cJSON *ask(const struct sys_siege *siege)
{
	char *text = sys_daemon_ask(&siege->net.daemon, "status");
	cJSON *root = cJSON_Parse(text), *network = cJSON_DetachItemFromObject(root, "network");

	cJSON_Delete(root);
	free(text);
	assert_non_null(network);
	return network;
}

/* "name", or "port.name". */
static double number_of(const cJSON *network, const char *name)
{
	const bool is_ports = strncmp(name, "port.", 5) == 0;
	const cJSON *item = cJSON_GetObjectItem(is_ports ? cJSON_GetObjectItem(network, "port") : network, is_ports ? name + 5 : name);

	if (!cJSON_IsNumber(item))
		fail_msg("the daemon counts no %s", name);
	return item->valuedouble;
}

void sys_siege_note(struct sys_siege *siege)
{
	cJSON_Delete(siege->noted);
	siege->noted = ask(siege);
}

double sys_siege_counted(const struct sys_siege *siege, const char *name)
{
	cJSON *now = ask(siege);
	const double count = number_of(now, name) - number_of(siege->noted, name);

	cJSON_Delete(now);
	return count;
}

/* What tells of an ill, somebody's or ours. Not: again, no_memory (parts that come once more), probes, cookies, port.no_room and
 * port.send_dropped, which are how a busy front goes on. */
static const char *const ills[] = { "bad_record", "bad_op", "bad_range", "too_large", "queue_full", "resumed", "expired", "slow", "dropped",
	"unowed", "refused_version", "refused_cipher", "refused_key", "refused_full", "refused_draining", "refused_protocol", "refused_unknown",
	"hellos_again", "unanswered", "timed_out", "pushed_out", "idle", "bad_packets", "replays", "malformed", "oversized", "broken",
	"truncated", "abandoned", "no_memory_for_packets", "port.refused", "port.accept_paused", "port.received_cut" };

/* Into text: those that rose. */
static void risen(const struct sys_siege *siege, char *text, size_t bytes)
{
	cJSON *now = ask(siege);
	size_t at = 0;

	text[0] = '\0';
	for (size_t i = 0; i < sizeof(ills) / sizeof(ills[0]) && at < bytes; i++) {
		const double count = number_of(now, ills[i]) - number_of(siege->noted, ills[i]);

		if (count != 0)
			at += (size_t)snprintf(text + at, bytes - at, " %s %.0f", ills[i], count);
	}
	cJSON_Delete(now);
}

void sys_siege_await(const struct sys_siege *siege, double least, const char *const *names)
{
	char others[512];
	double sum = -1;

	for (int waited_ms = 0; sum < least; waited_ms += 5) {
		cJSON *now = ask(siege);

		sum = 0;
		for (const char *const *name = names; *name; name++)
			sum += number_of(now, *name) - number_of(siege->noted, *name);
		cJSON_Delete(now);
		if (waited_ms > WAIT_MS) {
			risen(siege, others, sizeof(others));
			fail_msg("%s and so on: %.0f, not %.0f; there were%s", names[0], sum, least, others);
		}
		if (sum < least)
			sys_sleep_ms(5);
	}
}

static const struct sys_siege_expected *expectation(const struct sys_siege_expected *expected, const char *name)
{
	while (expected->name && strcmp(expected->name, name))
		expected++;
	return expected->name ? expected : NULL;
}

void sys_siege_expect(const struct sys_siege *siege, const struct sys_siege_expected *expected)
{
	char wrong[512] = "";
	size_t at = 0;
	cJSON *now = ask(siege);

	for (const struct sys_siege_expected *one = expected; one->name; one++) {
		const double count = number_of(now, one->name) - number_of(siege->noted, one->name);

		print_message("#   %s %.0f\n", one->name, count);
		if ((count < one->least || count > one->most) && at < sizeof(wrong))
			at += (size_t)snprintf(wrong + at, sizeof(wrong) - at, " %s %.0f, not %.0f to %.0f;", one->name, count, one->least, one->most);
	}
	for (size_t i = 0; i < sizeof(ills) / sizeof(ills[0]); i++) {
		const double count = number_of(now, ills[i]) - number_of(siege->noted, ills[i]);

		if (count != 0 && !expectation(expected, ills[i]) && at < sizeof(wrong))
			at += (size_t)snprintf(wrong + at, sizeof(wrong) - at, " %s %.0f, not 0;", ills[i], count);
	}
	cJSON_Delete(now);
	if (wrong[0])
		fail_msg("counted:%s", wrong);
}

/* ---- how the town does -------------------------------------------------------------------------------------- */

void sys_siege_alive(struct sys_siege *siege)
{
	uint64_t before[SIEGE_CITIZENS];

	for (uint32_t i = 0; i < SIEGE_CITIZENS; i++)
		before[i] = siege->citizens[i].rounds;
	for (uint32_t i = 0; i < SIEGE_CITIZENS; i++) {
		const struct sys_citizen *citizen = &siege->citizens[i];

		for (int waited_ms = 0; citizen->rounds < before[i] + ROUNDS && !citizen->failed; waited_ms += 5) {
			if (waited_ms > WAIT_MS)
				fail_msg("%s stands still", citizen->name);
			sys_sleep_ms(5);
		}
		if (citizen->failed)
			fail_msg("%s", citizen->wrong);
	}
}

void sys_siege_memory(const struct sys_siege *siege, uint64_t more_bytes)
{
	/* Requests' and results', and an eighth of the latter for pieces. */
	const uint64_t given = SIEGE_NET_BYTES + SIEGE_NET_BYTES / 16;
	const uint64_t most = siege->rss_bytes + given + more_bytes + (sys_sanitized() ? SANITIZED_BYTES : BESIDE_BYTES);
	struct sys_usage usage;

	sys_daemon_usage(&siege->net.daemon, &usage);
	print_message("#   %+.1f MiB in memory\n", ((double)usage.rss_bytes - (double)siege->rss_bytes) / (1 << 20));
	if (usage.rss_bytes > most)
		fail_msg("the daemon has %.1f MiB in memory, more than %.1f", (double)usage.rss_bytes / (1 << 20), (double)most / (1 << 20));
}

void sys_siege_await_peace(const struct sys_siege *siege)
{
	assert_true(sys_daemon_wait_number(&siege->net.daemon, "network.clients", siege->held_count + SIEGE_CITIZENS, WAIT_MS));
}

void sys_siege_newcomers(const struct sys_siege *siege)
{
	for (enum sys_way way = SYS_UNIX; way < SYS_WAYS; way++) {
		struct attnd_options how = sys_net_options(&siege->net, way);
		struct attnd_client *client;

		how.dead_after_ns = how.connect_timeout_ns = 30 * SECOND;
		if (attnd_connect(&client, &how) || attnd_nop(client))
			fail_msg("%s: nobody comes in any more: %s", sys_way_name(way), attnd_error());
		attnd_disconnect(client);
	}
}
