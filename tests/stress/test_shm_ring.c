/*
 * The rings with a thread at each end, as fast as they go: every record and every payload in the
 * arena is checked for its content, so that ThreadSanitizer and the checks between them find an
 * edge that is missing; then the same with a client that writes random words over everything it
 * can write, while an honest one next to it is served.
 *
 * Time limit: 240 s
 *
 * SHM_STRESS_RECORDS in the environment sets how many records; the default takes a few seconds,
 * the time limit below holds whatever the machine is doing.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_clock.h"
#include "base/base_rand.h"
#include "shm-ipc/shm_bell.h"
#include "tests/unit/shm_pair.h"

enum { SPINS = 1000, PAYLOADS = 16, BATCH = 8, HOSTILE_BATCH = 64 };
static const int64_t limit_ns = 25000000000, scribble_limit_ns = 30000000000;

static uint64_t records_wanted(uint64_t usual)
{
	const char *text = getenv("SHM_STRESS_RECORDS");

	return text ? strtoull(text, NULL, 10) : usual;
}

/* Gives the processor away now and then, for machines with fewer of them than threads. */
static void idle(unsigned *idle_polls)
{
	if (++*idle_polls % SPINS == 0)
		sched_yield();
}

/* ---- content --------------------------------------------------------------------------------- */

static void fill(uint64_t words[8], uint64_t n, uint64_t salt)
{
	for (unsigned i = 0; i < 8; i++)
		words[i] = base_mix64(n * 16 + i + salt);
}

static struct attnd_request request_of(uint64_t n)
{
	struct attnd_request request;
	uint64_t words[8];

	fill(words, n, 1);
	memcpy(&request, words, sizeof(request));
	request.lap = 0;
	return request;
}

static struct attnd_completion completion_of(uint64_t n, bool final, uint64_t request)
{
	struct attnd_completion completion;
	uint64_t words[8];

	fill(words, n, 2);
	memcpy(&completion, words, sizeof(completion));
	completion.lap = 0;
	completion.flags = final ? ATTND_CPL_FINAL : 0;
	completion.value = request;
	return completion;
}

/* ---- two honest threads ---------------------------------------------------------------------- */

struct traffic {
	struct shm_pair pair;
	uint64_t wanted;
	int64_t end_ns;
	_Atomic uint32_t client_done;
	uint64_t daemon_wrong, daemon_records;
};

/* A request's payload: 64 bytes in the arena that the client writes and the daemon answers in
 * place. */
static uint64_t *payload_of(struct traffic *traffic, uint64_t n)
{
	return (uint64_t *)(void *)(traffic->pair.segment.arena + n % PAYLOADS * 64);
}

static void *honest_daemon(void *argument)
{
	struct traffic *traffic = argument;
	struct shm_daemon_end *end = &traffic->pair.daemon;
	uint64_t random = 5, completions = 0;
	unsigned idle_polls = 0;

	while (!atomic_load(&traffic->client_done)) {
		struct attnd_request copy, expected = request_of(traffic->daemon_records);
		struct attnd_completion completion;
		uint64_t *payload = payload_of(traffic, traffic->daemon_records);

		if (!shm_sub_take(end, &copy)) {
			idle(&idle_polls);
			continue;
		}
		traffic->daemon_wrong += memcmp(&copy, &expected, sizeof(copy)) != 0;
		traffic->daemon_wrong += payload[3] != traffic->daemon_records;
		payload[3] = ~traffic->daemon_records;
		for (uint64_t streams = base_rand_below(&random, 4); streams > 0; streams--) {
			completion = completion_of(completions, false, traffic->daemon_records);
			completions += shm_cpl_put(end, &completion);
		}
		completion = completion_of(completions++, true, traffic->daemon_records);
		traffic->daemon_wrong += !shm_cpl_put(end, &completion);
		traffic->daemon_records++;
	}
	return NULL;
}

static void every_record_arrives_as_it_was(void **state)
{
	struct traffic traffic = { .wanted = records_wanted(3000000), .end_ns = base_monotonic_ns() + limit_ns };
	struct shm_client_end *end = &traffic.pair.client;
	uint64_t put = 0, finals = 0, completions = 0, streams = 0;
	unsigned idle_polls = 0;
	pthread_t thread;

	(void)state;
	shm_pair_create(&traffic.pair, 32, 64, PAYLOADS);
	assert_int_equal(pthread_create(&thread, NULL, honest_daemon, &traffic), 0);
	while (finals < traffic.wanted && (idle_polls % SPINS || base_monotonic_ns() < traffic.end_ns)) {
		struct attnd_completion got, expected;
		bool worked = false;

		for (unsigned i = 0; i < BATCH && put - finals < PAYLOADS; i++) {
			const struct attnd_request request = request_of(put);

			payload_of(&traffic, put)[3] = put;
			if (!shm_sub_put(end, &request))
				break;
			put++;
			worked = true;
		}
		while (shm_cpl_take(end, &got)) {
			bool final = got.flags & ATTND_CPL_FINAL;

			expected = completion_of(completions++, final, finals);
			if (memcmp(&got, &expected, sizeof(got)) ||
				(final && payload_of(&traffic, finals)[3] != ~finals))
				fail_msg("completion %llu is not what was put", (unsigned long long)completions - 1);
			finals += final;
			streams += !final;
			worked = true;
		}
		if (worked)
			idle_polls = 0;
		idle(&idle_polls);
	}
	atomic_store(&traffic.client_done, 1);
	pthread_join(thread, NULL);
	print_message("# %llu requests, %llu stream completions\n", (unsigned long long)finals,
		(unsigned long long)streams);
	assert_int_equal(traffic.daemon_wrong, 0);
	assert_true(finals > 1000);
	assert_true(streams > 0);
	shm_pair_destroy(&traffic.pair);
}

/* ---- a client that scribbles ----------------------------------------------------------------- */

struct scribbler {
	struct shm_pair *pair;
	_Atomic uint32_t stop;
	uint64_t rounds;
};

/* Random records with the laps that the daemon waits for, so that it takes them. */
static void scribble_records(struct shm_pair *pair, uint64_t *random)
{
	uint32_t mask = pair->client.submission_mask;
	uint64_t taken = atomic_load_explicit(&pair->daemon.counters->requests, memory_order_relaxed);

	for (uint64_t index = taken; index <= taken + mask; index++) {
		uint64_t lap = (uint64_t)shm_lap(index, mask + 1) << SHM_REQUEST_LAP_SHIFT;
		uint64_t word = base_rand_next(random) & ~(UINT64_C(0xffff) << SHM_REQUEST_LAP_SHIFT);

		atomic_store_explicit(&pair->client.submissions[index & mask].word[0], word | lap, memory_order_relaxed);
	}
}

/* Random words anywhere, and indices, half of them such that the daemon can believe them. */
static void scribble_words(struct shm_pair *pair, uint64_t *random)
{
	struct shm_client_line *line = pair->client.line;
	uint64_t word = base_rand_next(random), completions;

	atomic_store_explicit(&pair->client.submissions[word & pair->client.submission_mask].word[word >> 61], word,
		memory_order_relaxed);
	completions = atomic_load_explicit(&pair->daemon.counters->completions, memory_order_relaxed);
	if (word & 256)
		completions = base_rand_next(random);
	atomic_store_explicit(&line->completions_taken, completions, memory_order_relaxed);
	atomic_store_explicit(&line->sleeping, (uint32_t)base_rand_below(random, 2), memory_order_relaxed);
}

static void *scribble(void *argument)
{
	struct scribbler *scribbler = argument;
	uint64_t random = 6;

	while (!atomic_load_explicit(&scribbler->stop, memory_order_relaxed)) {
		scribble_records(scribbler->pair, &random);
		for (unsigned i = 0; i < 16; i++)
			scribble_words(scribbler->pair, &random);
		scribbler->rounds++;
	}
	return NULL;
}

/* What must hold of the daemon's end whatever a client does. */
static void check_end(const struct shm_daemon_end *end)
{
	uint64_t unread = end->completions_put - end->completions_taken;

	if (end->open > end->max_in_flight || end->finals_unread + end->open > end->finals_max ||
		end->streams_unread > end->streams_max || unread > end->completion_mask + UINT64_C(1) ||
		unread != end->finals_unread + end->streams_unread)
		fail_msg("the daemon's end is broken: open %u, finals %u of %u, streams %u of %u, unread %llu",
			end->open, end->finals_unread, end->finals_max, end->streams_unread, end->streams_max,
			(unsigned long long)unread);
}

/* One poll of the daemon over the hostile client: takes a batch, looks at every byte of it,
 * answers some of what is open. */
static uint64_t serve_hostile(struct shm_pair *pair, uint64_t *random)
{
	struct shm_daemon_end *end = &pair->daemon;
	uint64_t sum = 0, taken = 0;
	struct attnd_request copy;

	while (taken < HOSTILE_BATCH && shm_sub_take(end, &copy)) {
		void *memory;

		taken++;
		if (copy.lap)
			fail_msg("a lap was handed on");
		/* The copy cannot change any more: what the check allowed is what is used. */
		if (shm_arena_range(&pair->segment, copy.in_offset, copy.in_bytes, &memory) && memory)
			sum += *(volatile unsigned char *)memory +
				*((volatile unsigned char *)memory + copy.in_bytes - 1);
	}
	while (end->open && base_rand_below(random, 64)) {
		struct attnd_completion completion = { .value = sum };

		if (end->open % 4 == 0)
			(void)shm_cpl_put(end, &completion);
		completion.flags = ATTND_CPL_FINAL;
		if (!shm_cpl_put(end, &completion))
			fail_msg("no room for a final completion");
	}
	(void)shm_cpl_credits(end);
	shm_bell_check_all(&end, 1, base_monotonic_ns());
	shm_counters_publish(end);
	check_end(end);
	return taken;
}

/* A round trip of the honest client, on the daemon's thread. */
static void serve_honest(struct shm_pair *pair, uint64_t n)
{
	const struct attnd_request request = request_of(n);
	const struct attnd_completion completion = completion_of(n, true, n);
	struct attnd_request copy;
	struct attnd_completion got;

	if (!shm_sub_put(&pair->client, &request) || !shm_sub_take(&pair->daemon, &copy) ||
		!shm_cpl_put(&pair->daemon, &completion) || !shm_cpl_take(&pair->client, &got) ||
		memcmp(&copy, &request, sizeof(copy)) || memcmp(&got, &completion, sizeof(got)))
		fail_msg("the honest client's round trip %llu went wrong", (unsigned long long)n);
}

static void a_scribbling_client_hurts_only_itself(void **state)
{
	uint64_t wanted = records_wanted(10000000), records = 0, polls = 0, random = 8;
	int64_t end_ns = base_monotonic_ns() + scribble_limit_ns;
	struct shm_pair hostile, honest;
	struct scribbler scribbler = { .pair = &hostile };
	unsigned idle_polls = 0;
	pthread_t thread;

	(void)state;
	shm_pair_create(&hostile, 64, 256, 64);
	shm_pair_create(&honest, 16, 16, 4);
	assert_int_equal(pthread_create(&thread, NULL, scribble, &scribbler), 0);
	for (; records < wanted && (polls % 64 || base_monotonic_ns() < end_ns); polls++) {
		uint64_t taken = serve_hostile(&hostile, &random);

		records += taken;
		serve_honest(&honest, polls);
		if (!taken)
			idle(&idle_polls);
	}
	atomic_store(&scribbler.stop, 1);
	pthread_join(thread, NULL);
	print_message("# %llu hostile records taken in %llu rounds of scribbling, %llu honest round trips\n",
		(unsigned long long)records, (unsigned long long)scribbler.rounds, (unsigned long long)polls);
	assert_true(records > 1000);
	shm_pair_destroy(&hostile);
	shm_pair_destroy(&honest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_record_arrives_as_it_was),
		cmocka_unit_test(a_scribbling_client_hurts_only_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
