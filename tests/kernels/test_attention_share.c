/*
 * Sessions that share blocks are attended to together, and nobody can tell from the results: the same bits as alone with
 * blocks of their own, for every format, for windows, forks of forks, any number of threads, little room and any order of
 * units. What is planned says that shared pages are gone through once for a tile of sessions. The search for shared blocks is
 * held against comparing everything with everything.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_rand.h"
#include "kernels/cpu/cpu_attention_batch.h"
#include "kernels/cpu/cpu_attention_unit.h"
#include "tests/kernels/attention_rig.h"

enum { SESSIONS_MAX = 40, LAYERS = 2, PARTIAL_BYTES = 8 << 20, SPLIT = CPU_ATTENTION_SPLIT_TOKENS, LAST_ROWS = 8 };

/* ---- families of sessions ----------------------------------------------------------------------------------------- */

/* How a session came about: a fork of an earlier one at `forked`, filled on to `tokens`; then `rows` attend. */
struct birth { uint32_t parent, forked, tokens, rows; };

struct settings {
	uint32_t window, rotated;
	float soft_cap;
	bool sinks, no_causality;
	enum kern_dtype dtype;
	enum base_isa isa;
};

/* Each session has two block lists over the same content: one shares its parent's blocks up to where it was forked. */
struct family {
	struct kern_kv_geometry kv;
	struct settings settings;
	uint32_t count;
	struct birth births[SESSIONS_MAX];
	struct attention_rig rigs[SESSIONS_MAX];
	unsigned char **shared[SESSIONS_MAX];
	float *q, *k, *cos_sin, *sinks;
	void *partial, *scratch;
	struct cpu_attention_batch *batch;
	uint32_t rounds, attend_units; /* of the last run */
};

static size_t q_width(const struct family *f)
{
	return (size_t)f->kv.heads * f->kv.head_dim;
}

static size_t kv_width(const struct family *f)
{
	return (size_t)f->kv.kv_heads * f->kv.head_dim;
}

/* Appends to the session's own blocks, which are beyond what it shares. */
static void append(const struct family *f, uint32_t s, uint32_t begin, uint32_t end)
{
	struct attention_rig rig = f->rigs[s];

	for (rig.layer = 0; rig.layer < LAYERS && begin < end; rig.layer++)
		attention_rig_run(&rig, begin, end - begin, f->k + (s * 7 + rig.layer + begin) * kv_width(f),
			f->k + (s * 5 + rig.layer + begin + 1) * kv_width(f), 0, 0, NULL, NULL, NULL);
}

static void open_session(struct family *f, uint32_t s, struct attention_shape shape)
{
	const struct birth *birth = &f->births[s];
	const uint32_t whole = s > 0 ? birth->forked / KERN_PAGE_TOKENS : 0;

	attention_rig_open(&f->rigs[s], shape, LAYERS, birth->tokens + birth->rows);
	f->rigs[s].isa = f->settings.isa;
	f->shared[s] = new_zeroed(f->rigs[s].block_count * sizeof(*f->shared[s]));
	for (uint32_t i = 0; i < f->rigs[s].block_count; i++) {
		if (i * KERN_PAGE_TOKENS < birth->forked)
			memcpy(f->rigs[s].blocks[i], f->rigs[birth->parent].blocks[i], f->rigs[s].kv.block_bytes[i > 0]);
		f->shared[s][i] = i < whole ? f->shared[birth->parent][i] : f->rigs[s].blocks[i];
	}
	append(f, s, birth->forked, birth->tokens);
}

static struct family *family_open(struct attention_shape shape, struct settings settings, const struct birth *births,
	uint32_t count)
{
	struct family *f = new_zeroed(sizeof(*f));
	uint32_t most = 0;

	f->kv = (struct kern_kv_geometry){ .layers = LAYERS, .heads = shape.heads, .kv_heads = shape.kv_heads,
		.head_dim = shape.head_dim, .k = shape.k, .v = shape.v };
	BASE_ASSERT(kern_kv_init(&f->kv) == 0 && count <= SESSIONS_MAX);
	f->settings = settings;
	f->count = count;
	memcpy(f->births, births, count * sizeof(*births));
	for (uint32_t s = 0; s < count; s++)
		most = births[s].tokens + LAST_ROWS > most ? births[s].tokens + LAST_ROWS : most;
	f->q = new_normal((size_t)count * LAST_ROWS * q_width(f), 1);
	f->k = new_normal((size_t)(most + 8 * SESSIONS_MAX) * kv_width(f), 2);
	f->sinks = new_normal(shape.heads, 3);
	f->cos_sin = new_normal((size_t)most * shape.head_dim, 4);
	f->batch = new_zeroed(sizeof(*f->batch));
	f->partial = guarded_alloc(PARTIAL_BYTES);
	f->scratch = guarded_alloc(cpu_attention_scratch_bytes());
	for (uint32_t s = 0; s < count; s++)
		open_session(f, s, shape);
	return f;
}

static void family_close(struct family *f)
{
	for (uint32_t s = 0; s < f->count; s++) {
		attention_rig_close(&f->rigs[s]);
		free(f->shared[s]);
	}
	guarded_free(f->scratch, cpu_attention_scratch_bytes());
	guarded_free(f->partial, PARTIAL_BYTES);
	free(f->batch);
	free(f->cos_sin);
	free(f->sinks);
	free(f->k);
	free(f->q);
	free(f);
}

/* The last rows of a session, as a step brings them: their K and V are appended, then they attend. */
static struct cpu_attention_job job_of(const struct family *f, uint32_t s, uint32_t layer, bool shared, void *o, float *lse)
{
	const struct birth *birth = &f->births[s];
	const struct settings *settings = &f->settings;
	const bool rotates = settings->rotated != 0;

	return (struct cpu_attention_job){
		.isa = settings->isa, .kv = &f->kv, .blocks = shared ? f->shared[s] : f->rigs[s].blocks, .layer = layer,
		.q_rows = birth->rows, .kv_rows = settings->dtype == KERN_DTYPE_F32 ? birth->rows : 0,
		.kv_position = birth->tokens, .q_position = birth->tokens,
		.window = settings->window, .causal = !settings->no_causality, .scale = 1 / sqrtf((float)f->kv.head_dim),
		.soft_cap = settings->soft_cap, .dtype = settings->dtype, .sinks = settings->sinks ? f->sinks : NULL,
		.q = f->q + (size_t)s * LAST_ROWS * q_width(f), .k = f->k + (size_t)s * kv_width(f), .v = f->k,
		.q_stride = q_width(f), .k_stride = kv_width(f), .v_stride = kv_width(f),
		.o = o, .o_stride = q_width(f), .lse = lse, .lse_stride = f->kv.heads,
		.rope = rotates ? KERN_ROPE_PAIRS : KERN_ROPE_NONE, .rotated = settings->rotated,
		.rope_cos_sin = rotates ? f->cos_sin + (size_t)birth->tokens * settings->rotated : NULL,
	};
}

/* ---- running ------------------------------------------------------------------------------------------------------ */

struct outcome { float o[SESSIONS_MAX][LAST_ROWS * 1024], lse[SESSIONS_MAX][LAST_ROWS * 64]; };

/* How a batch is run; what it does must not depend on this. */
struct way { uint32_t participants; size_t partial_bytes; uint64_t order; bool shared; };

static void run_units(const struct family *f, uint32_t units, uint64_t *order)
{
	uint32_t *list = new_zeroed((units + 1) * sizeof(*list));

	for (uint32_t i = 0; i < units; i++) {
		const uint32_t other = *order != 0 ? (uint32_t)base_rand_below(order, i + 1) : i;

		list[i] = list[other];
		list[other] = i;
	}
	for (uint32_t i = 0; i < units; i++)
		cpu_attention_batch_run(f->batch, list[i], f->scratch);
	free(list);
}

/* Attends with one layer; f->batch shows afterwards how it was planned. */
static void run(struct family *f, uint32_t layer, struct way way, struct outcome *out)
{
	static struct cpu_attention_job jobs[SESSIONS_MAX];
	static uint32_t first_unit[SESSIONS_MAX + 1];
	struct cpu_attention_batch *batch = f->batch;
	uint32_t units;

	f->rounds = f->attend_units = 0;
	memset(out, 0xff, sizeof(*out));
	for (uint32_t s = 0; s < f->count; s++)
		jobs[s] = job_of(f, s, layer, way.shared, out->o[s], out->lse[s]);
	batch->partial = f->partial;
	batch->partial_bytes = way.partial_bytes;
	batch->participants = way.participants;
	batch->jobs = jobs;
	batch->first_unit = first_unit;
	batch->count = f->count;
	cpu_attention_batch_cut(batch);
	if (cpu_attention_batch_seek(batch))
		while (!cpu_attention_share_advance(&batch->share))
			;
	cpu_attention_batch_plan(batch);
	do {
		run_units(f, cpu_attention_batch_phase(batch, CPU_ATTENTION_APPEND), &way.order);
		do {
			units = cpu_attention_batch_phase(batch, CPU_ATTENTION_ATTEND);
			run_units(f, units, &way.order);
			run_units(f, cpu_attention_batch_phase(batch, CPU_ATTENTION_MERGE), &way.order);
			f->attend_units += units;
			f->rounds++;
		} while (cpu_attention_batch_next_round(batch));
	} while (cpu_attention_batch_next_slice(batch));
}

/* Each session alone, in blocks of its own. */
static void run_alone(struct family *f, uint32_t layer, struct outcome *out)
{
	memset(out, 0xff, sizeof(*out));
	for (uint32_t s = 0; s < f->count; s++) {
		struct cpu_attention_job job = job_of(f, s, layer, false, out->o[s], out->lse[s]);

		cpu_attention_slice(&job);
		do {
			cpu_attention_plan(&job, 1, f->partial, PARTIAL_BYTES);
			for (enum cpu_attention_phase phase = 0; phase < CPU_ATTENTION_PHASES; phase++)
				for (uint32_t unit = 0; unit < job.units[phase]; unit++)
					cpu_attention_run(&job, phase, unit, f->scratch);
		} while (cpu_attention_slice_next(&job));
	}
}

static void check_same(const struct family *f, const struct outcome *expected, const struct outcome *got, struct way way)
{
	for (uint32_t s = 0; s < f->count; s++)
		if (memcmp(expected->o[s], got->o[s], sizeof(got->o[s])) != 0 ||
				memcmp(expected->lse[s], got->lse[s], sizeof(got->lse[s])) != 0)
			fail_msg("%s, K %d, V %d, %u/%u x %u, window %u: session %u of %u differs with %u threads, %zu bytes, order %llu, %s",
				base_isa_name(f->settings.isa), (int)f->kv.k, (int)f->kv.v, f->kv.heads, f->kv.kv_heads, f->kv.head_dim,
				f->settings.window, s, f->count, way.participants, way.partial_bytes, (unsigned long long)way.order,
				way.shared ? "shared" : "unshared");
}

static const struct way ways[] = {
	{ 1, PARTIAL_BYTES, 0, true }, { 2, PARTIAL_BYTES, 1, true }, { 16, PARTIAL_BYTES, 2, true }, { 3, 200 << 10, 3, true },
	{ 64, 64 << 10, 4, true }, { 2, 0, 5, true }, { 2, PARTIAL_BYTES, 6, false }, { 5, 100 << 10, 7, false },
};

/* In all ways, all layers: what each session has alone. Returns how many groups shared something. */
static uint32_t check_family(struct attention_shape shape, struct settings settings, const struct birth *births, uint32_t count)
{
	static struct outcome expected, got;
	struct family *f = family_open(shape, settings, births, count);
	uint32_t groups = 0;

	for (uint32_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		run_alone(f, i % LAYERS, &expected);
		run(f, i % LAYERS, ways[i], &got);
		check_same(f, &expected, &got, ways[i]);
		if (ways[i].shared)
			groups = f->batch->share.group_count;
		else
			assert_int_equal(f->batch->share.group_count, 0);
	}
	family_close(f);
	return groups;
}

/* ---- bits --------------------------------------------------------------------------------------------------------- */

/* Forks of forks at lengths inside of splits and pages, with and without tokens of their own behind. */
static uint32_t random_births(struct birth *births, uint32_t count, uint32_t longest, uint64_t seed)
{
	births[0] = (struct birth){ .tokens = longest - (uint32_t)base_rand_below(&seed, 100), .rows = 1 };
	for (uint32_t s = 1; s < count; s++) {
		const uint32_t parent = (uint32_t)base_rand_below(&seed, base_rand_below(&seed, 2) ? 1 : s);
		const uint32_t had = births[parent].tokens;
		const uint32_t forked = base_rand_below(&seed, 8) ? had - (uint32_t)base_rand_below(&seed, had / 3 + 1) :
			(uint32_t)base_rand_below(&seed, had);

		births[s] = (struct birth){ .parent = parent, .forked = forked,
			.tokens = forked + (uint32_t)base_rand_below(&seed, base_rand_below(&seed, 2) ? 700 : 40),
			.rows = base_rand_below(&seed, 3) ? 1 : 1 + (uint32_t)base_rand_below(&seed, LAST_ROWS) };
	}
	return count;
}

static void formats_and_shapes(void **state)
{
	static const struct { struct attention_shape shape; struct settings settings; uint32_t count; } cases[] = {
		{ { 8, 2, 64, KERN_KV_INT8, KERN_KV_INT8 }, { .rotated = 64 }, 16 },
		{ { 4, 1, 128, KERN_KV_INT8, KERN_KV_INT8 }, { .window = 900, .sinks = true }, 9 },
		{ { 4, 1, 128, KERN_KV_INT4, KERN_KV_INT4 }, { .sinks = true }, 7 },
		{ { 2, 1, 80, KERN_KV_INT4, KERN_KV_INT4 }, { .rotated = 40, .window = 600 }, 12 },
		{ { 2, 2, 32, KERN_KV_F32, KERN_KV_F32 }, { .soft_cap = 3 }, 8 },
		{ { 4, 1, 64, KERN_KV_F16, KERN_KV_F16 }, { .soft_cap = 2, .window = 1500 }, 8 },
		{ { 3, 1, 96, KERN_KV_BF16, KERN_KV_BF16 }, { .rotated = 96 }, 6 },
		{ { 4, 2, 48, KERN_KV_FP8, KERN_KV_FP8 }, { .sinks = true, .window = 1024 }, 9 },
		{ { 1, 1, 256, KERN_KV_INT8, KERN_KV_INT4 }, { .soft_cap = 5 }, 5 },
		{ { 2, 1, 40, KERN_KV_F16, KERN_KV_INT8 }, { .dtype = KERN_DTYPE_F16 }, 10 },
		{ { 2, 1, 24, KERN_KV_INT8, KERN_KV_BF16 }, { .no_causality = true, .dtype = KERN_DTYPE_BF16 }, 6 },
		{ { 1, 1, 8, KERN_KV_INT8, KERN_KV_INT8 }, { .window = 700 }, 40 },
		{ { 40, 1, 8, KERN_KV_INT8, KERN_KV_INT8 }, { .rotated = 8 }, 4 },
	};

	(void)state;
	for (uint32_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct settings settings = cases[i].settings;
		struct birth births[SESSIONS_MAX];

		settings.isa = base_cpu()->isa;
		random_births(births, cases[i].count, 2100, i + 1);
		assert_true(check_family(cases[i].shape, settings, births, cases[i].count) > 0);
	}
}

/* Any number of sessions, one row each, on every instruction set. */
static void two_to_forty_sessions(void **state)
{
	static const uint32_t counts[] = { 2, 3, 5, 8, 13, 17, 32, 33, 40 };
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);

	(void)state;
	for (uint32_t i = 0; i < isa_count * 9; i++) {
		struct birth births[SESSIONS_MAX] = { { .tokens = 1100, .rows = 1 } };

		for (uint32_t s = 1; s < counts[i / isa_count]; s++)
			births[s] = (struct birth){ .forked = 1030 + s, .tokens = 1030 + 9 * s, .rows = 1 };
		assert_int_equal(check_family((struct attention_shape){ 2, 1, 32, KERN_KV_INT8, KERN_KV_INT8 },
			(struct settings){ .isa = isas[i % isa_count] }, births, counts[i / isa_count]), 1);
	}
}

/* The comparison would see it if a session were given what belongs to another one. */
static void a_wrong_page_is_seen(void **state)
{
	static const struct birth births[] = { { 0, 0, 1100, 1 }, { 0, 1100, 1110, 1 }, { 0, 1100, 1120, 1 } };
	static struct outcome expected, got;
	struct family *f = family_open((struct attention_shape){ 2, 1, 32, KERN_KV_INT8, KERN_KV_INT8 },
		(struct settings){ .isa = base_cpu()->isa }, births, 3);

	(void)state;
	run_alone(f, 0, &expected);
	run(f, 0, ways[0], &got);
	assert_memory_equal(expected.o[2], got.o[2], sizeof(got.o[2]));
	/* Token 700 of the block that the first two still share. */
	f->shared[2][10] = f->rigs[2].blocks[10];
	f->rigs[2].blocks[10][0] ^= 0x40;
	run(f, 0, ways[0], &got);
	assert_memory_equal(expected.o[1], got.o[1], sizeof(got.o[1]));
	assert_memory_not_equal(expected.o[2], got.o[2], sizeof(got.o[2]));
	family_close(f);
}

/* ---- what is planned ---------------------------------------------------------------------------------------------- */

/* Sixteen sessions behind 2048 tokens: tiles of eight go through each page once, which is twice for all and not 16 times. */
static void a_prefix_is_read_once(void **state)
{
	enum { COUNT = 16, PREFIX = 2048, PREFIX_PAGES = PREFIX / KERN_PAGE_TOKENS, KV_HEADS = 2 };
	struct birth births[COUNT] = { { .tokens = PREFIX + 50, .rows = 1 } };
	static struct outcome expected, got;
	uint64_t own_pages = 0;
	struct family *f;

	(void)state;
	for (uint32_t s = 1; s < COUNT; s++)
		births[s] = (struct birth){ .forked = PREFIX, .tokens = PREFIX + 50 + 10 * s, .rows = 1 };
	for (uint32_t s = 0; s < COUNT; s++)
		own_pages += (births[s].tokens - PREFIX) / KERN_PAGE_TOKENS + 1;
	f = family_open((struct attention_shape){ 8, KV_HEADS, 64, KERN_KV_INT8, KERN_KV_INT8 },
		(struct settings){ .isa = base_cpu()->isa }, births, COUNT);
	run_alone(f, 0, &expected);
	run(f, 0, (struct way){ 2, PARTIAL_BYTES, 0, false }, &got);
	assert_int_equal(f->batch->page_visits, KV_HEADS * (COUNT * PREFIX_PAGES + own_pages));
	assert_int_equal(f->batch->shared_units, 0);
	run(f, 0, (struct way){ 2, PARTIAL_BYTES, 0, true }, &got);
	check_same(f, &expected, &got, ways[0]);
	assert_int_equal(f->batch->page_visits, KV_HEADS * (COUNT / 8 * PREFIX_PAGES + own_pages));
	assert_int_equal(f->batch->shared_units, KV_HEADS * COUNT / 8 * PREFIX / SPLIT);
	/* And one for each session's own end. */
	assert_int_equal(f->attend_units, KV_HEADS * (COUNT / 8 * PREFIX / SPLIT + COUNT));
	family_close(f);
}

/* A prompt for all, conversations behind it, and samples of each: every node of the tree is a group. */
static void families_within_families(void **state)
{
	enum { CONVERSATIONS = 3, SAMPLES = 4, COUNT = CONVERSATIONS * SAMPLES };
	struct birth births[COUNT] = { { 0 } };
	static struct outcome got;
	uint32_t inner = 0, outer = 0;
	struct family *f;

	(void)state;
	for (uint32_t s = 0; s < COUNT; s++) {
		const uint32_t first = s / SAMPLES * SAMPLES;

		births[s] = s % SAMPLES == 0 ? (struct birth){ 0, s > 0 ? 1024 : 0, 2048 + 60, 1 } :
			(struct birth){ first, 2048 + 50, 2048 + 50 + s, 1 };
	}
	f = family_open((struct attention_shape){ 2, 1, 32, KERN_KV_INT8, KERN_KV_INT8 },
		(struct settings){ .isa = base_cpu()->isa }, births, COUNT);
	run(f, 0, ways[0], &got);
	assert_int_equal(f->batch->share.group_count, 1 + CONVERSATIONS);
	for (uint32_t i = 0; i < f->batch->share.group_count; i++) {
		const struct cpu_attention_group *group = &f->batch->share.groups[i];

		outer += group->begin == 0 && group->end == 2 && group->count == COUNT;
		inner += group->begin == 2 && group->end == 4 && group->count == SAMPLES;
	}
	assert_int_equal(outer, 1);
	assert_int_equal(inner, CONVERSATIONS);
	family_close(f);
}

/* Little room makes rounds, not fewer shared pages; where there is none for even one split, nothing is shared. */
static void little_room_makes_rounds(void **state)
{
	struct birth births[6] = { { .tokens = 2600, .rows = 1 } };
	static struct outcome expected, got;
	const size_t split_bytes = 6 * 2 * cpu_attention_part_floats(32) * sizeof(float);
	uint64_t visits;
	struct family *f;

	(void)state;
	for (uint32_t s = 1; s < 6; s++)
		births[s] = (struct birth){ .forked = 2600, .tokens = 2600 + s, .rows = 1 };
	f = family_open((struct attention_shape){ 2, 1, 32, KERN_KV_INT8, KERN_KV_INT8 },
		(struct settings){ .isa = base_cpu()->isa }, births, 6);
	run_alone(f, 0, &expected);
	run(f, 0, (struct way){ 1, 6 * split_bytes, 0, true }, &got);
	assert_int_equal(f->rounds, 1);
	visits = f->batch->page_visits;
	/* Six splits: room for two of them beside a total, for one, for none. */
	for (uint32_t room = 3; room-- > 0;) {
		run(f, 0, (struct way){ 1, room > 0 ? (room + 1) * split_bytes + 64 : 128, 0, true }, &got);
		check_same(f, &expected, &got, ways[0]);
		assert_int_equal(f->rounds, room > 0 ? 6 / room : 1);
		assert_int_equal(f->batch->page_visits, room > 0 ? visits : 6 * 41);
	}
	family_close(f);
}

/* ---- the search --------------------------------------------------------------------------------------------------- */

enum { LISTS = 700, BLOCKS = 8 * 24, SPLIT_BLOCKS = SPLIT / KERN_PAGE_TOKENS };

/* Jobs over block lists that are never looked into. */
struct search {
	struct kern_kv_geometry kv[2];
	unsigned char *lists[LISTS][BLOCKS];
	struct cpu_attention_job jobs[LISTS];
	uint32_t count, slices;
	struct cpu_attention_share share;
};

static unsigned char *block(uint64_t number)
{
	return (unsigned char *)(uintptr_t)(number << 12);
}

static struct search *search_open(void)
{
	struct search *search = new_zeroed(sizeof(*search));

	for (uint32_t i = 0; i < 2; i++) {
		search->kv[i] = (struct kern_kv_geometry){ .layers = 2, .heads = 2, .kv_heads = 1, .head_dim = 32, .k = KERN_KV_INT8,
			.v = i == 0 ? KERN_KV_INT8 : KERN_KV_BF16 };
		assert_int_equal(kern_kv_init(&search->kv[i]), 0);
	}
	return search;
}

static struct cpu_attention_job *search_add(struct search *search, uint32_t tokens)
{
	struct cpu_attention_job *job = &search->jobs[search->count];

	*job = (struct cpu_attention_job){ .kv = &search->kv[0], .blocks = search->lists[search->count], .q_rows = 1, .kv_rows = 1,
		.kv_position = tokens - 1, .q_position = tokens - 1, .causal = true, .scale = 1 };
	search->count++;
	return job;
}

static void search_run(struct search *search)
{
	for (uint32_t i = 0; i < search->count; i++)
		cpu_attention_cut(&search->jobs[i], 2);
	search->slices = 0;
	if (cpu_attention_share_begin(&search->share, search->jobs, search->count))
		do
			search->slices++;
		while (!cpu_attention_share_advance(&search->share));
}

static uint32_t splits_of(const struct cpu_attention_job *job)
{
	return (job->kv_position + 1) / SPLIT;
}

/* Splits that two jobs share, one by one. */
static uint32_t in_common(const struct cpu_attention_job *a, const struct cpu_attention_job *b)
{
	const uint32_t least = splits_of(a) < splits_of(b) ? splits_of(a) : splits_of(b);
	uint32_t blocks = 0;

	if (a->kv->v != b->kv->v || a->layer != b->layer || a->scale != b->scale || a->soft_cap != b->soft_cap)
		return 0;
	while (blocks < least * SPLIT_BLOCKS && a->blocks[blocks] == b->blocks[blocks])
		blocks++;
	return blocks / SPLIT_BLOCKS;
}

/* Members of a group share what it says. Where lists come from forks, every job shares all that it has in common with any. */
static void search_check(const struct search *search, bool exact)
{
	const struct cpu_attention_share *share = &search->share;

	for (uint32_t i = 0; i < share->group_count; i++) {
		const struct cpu_attention_group *group = &share->groups[i];

		assert_true(group->count > 1 && group->begin < group->end && group->first + group->count <= share->member_count);
		for (uint32_t m = 1; m < group->count; m++)
			assert_true(in_common(&search->jobs[share->members[group->first].job],
				&search->jobs[share->members[group->first + m].job]) >= group->end);
	}
	for (uint32_t m = 0; m < share->member_count; m++) {
		uint32_t most = 0, covered = 0;

		for (uint32_t other = 0; other < share->member_count; other++) {
			const uint32_t common = in_common(&search->jobs[share->members[m].job], &search->jobs[share->members[other].job]);

			most = other != m && common > most ? common : most;
		}
		for (uint32_t i = 0; i < share->group_count; i++)
			if (m >= share->groups[i].first && m < share->groups[i].first + share->groups[i].count)
				covered += share->groups[i].end - share->groups[i].begin;
		assert_true(share->members[m].shared_end <= most && covered == share->members[m].shared_end);
		assert_true(!exact || share->members[m].shared_end == most);
	}
}

/* Forks at random places of random others; a block is only ever found at one place of the lists. */
static void forks_are_found(void **state)
{
	struct search *search = search_open();
	uint64_t seed = 5, fresh = 1;

	(void)state;
	for (uint32_t trial = 0; trial < 60; trial++) {
		const uint32_t count = 2 + (uint32_t)base_rand_below(&seed, trial < 50 ? 40 : CPU_ATTENTION_SHARERS - 1);

		search->count = 0;
		for (uint32_t i = 0; i < count; i++) {
			struct cpu_attention_job *job = search_add(search, 1 + (uint32_t)base_rand_below(&seed, BLOCKS * KERN_PAGE_TOKENS));
			const uint32_t parent = i > 0 ? (uint32_t)base_rand_below(&seed, i) : 0;
			const uint32_t forked = i > 0 ? (uint32_t)base_rand_below(&seed, BLOCKS + 1) : 0;

			for (uint32_t b = 0; b < BLOCKS; b++)
				search->lists[i][b] = b < forked ? search->lists[parent][b] : block(fresh++);
			if (trial % 4 == 3) {
				job->layer = (uint32_t)base_rand_below(&seed, 2);
				job->scale = base_rand_below(&seed, 4) ? 1 : 2;
				job->soft_cap = base_rand_below(&seed, 4) ? 0 : 30;
				job->kv = &search->kv[base_rand_below(&seed, 4) == 0];
			}
		}
		search_run(search);
		assert_true(search->share.member_count == 0 || search->share.group_count > 0 || trial % 4 == 3 || count < 9);
		search_check(search, true);
	}
	free(search);
}

/* Two heads a KV head: jobs of nine rows have more vectors than are worth it, and jobs without rows have none. */
static void many_rows_go_alone(void **state)
{
	static const uint32_t rows[] = { 1, 8, 9, 0, 100 };
	struct search *search = search_open();

	(void)state;
	for (uint32_t i = 0; i < 5; i++) {
		struct cpu_attention_job *job = search_add(search, 1000);

		job->kv_rows = job->q_rows = rows[i];
		for (uint32_t b = 0; b < BLOCKS; b++)
			search->lists[i][b] = block(b + 1);
	}
	search_run(search);
	assert_int_equal(search->share.member_count, 2);
	assert_int_equal(search->share.group_count, 1);
	search_check(search, true);
	free(search);
}

/* Lists that no fork makes, of few different blocks: nothing is taken for shared that is not. */
static void any_lists_are_safe(void **state)
{
	struct search *search = search_open();
	uint64_t seed = 9;

	(void)state;
	for (uint32_t trial = 0; trial < 100; trial++) {
		const uint32_t kinds = 1 + (uint32_t)base_rand_below(&seed, 3);

		search->count = 0;
		for (uint32_t i = 0; i < 40; i++) {
			search_add(search, 1 + (uint32_t)base_rand_below(&seed, BLOCKS * KERN_PAGE_TOKENS));
			for (uint32_t b = 0; b < BLOCKS; b++)
				search->lists[i][b] = base_rand_below(&seed, 12) ? block(1) : block(1 + base_rand_below(&seed, kinds));
		}
		search_run(search);
		search_check(search, kinds == 1);
	}
	free(search);
}

/* As many jobs as there can be, over long lists that differ at the end or each a little later than the one before: the work is
 * cut into slices, and done in as many as the blocks make. */
static void the_worst_lists_take_slices(void **state)
{
	struct search *search = search_open();
	uint32_t lines;

	(void)state;
	for (uint32_t shape = 0; shape < 3; shape++) {
		search->count = 0;
		for (uint32_t i = 0; i < LISTS; i++) {
			search_add(search, BLOCKS * KERN_PAGE_TOKENS);
			for (uint32_t b = 0; b < BLOCKS; b++)
				search->lists[i][b] = shape == 0 ? block(b + 1) :
					shape == 1 ? block(b + 1 < BLOCKS ? b + 1 : 1000 + i) : block(b < i % BLOCKS ? b + 1 : 1000 + i * BLOCKS + b);
		}
		search_run(search);
		lines = CPU_ATTENTION_SHARERS * BLOCKS / SPLIT_BLOCKS;
		assert_true(search->slices > 1 && search->slices <= 2 * lines / 1024 + 2);
		assert_int_equal(search->share.member_count, CPU_ATTENTION_SHARERS);
		search_check(search, true);
		if (shape < 2)
			assert_int_equal(search->share.group_count, 1);
	}
	free(search);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(formats_and_shapes),
		cmocka_unit_test(two_to_forty_sessions),
		cmocka_unit_test(a_wrong_page_is_seen),
		cmocka_unit_test(a_prefix_is_read_once),
		cmocka_unit_test(families_within_families),
		cmocka_unit_test(little_room_makes_rounds),
		cmocka_unit_test(forks_are_found),
		cmocka_unit_test(many_rows_go_alone),
		cmocka_unit_test(any_lists_are_safe),
		cmocka_unit_test(the_worst_lists_take_slices),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
