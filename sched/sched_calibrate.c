/*
 * Calibration at start. See the header; owner's thread, cold.
 *
 *   BEGIN --blocks--> FIRST --one row--> FILL --a deep context is there--> MEASURE --rounds over, or the budget--> CLEAN --> BEGIN of the
 *      |                |                 |                                  |                                      ^      next ... END
 *      +--no room-------+-no time---------+----------------------the device failed----------------------------------+
 *
 * Three kinds of contexts are used: an empty one, a deep one, and those of some streams that have as many tokens together. A prompt of that
 * length would cost far more than all works that are measured in it, so they are made of keys and values that are appended layer by layer,
 * as raw attention appends them. Every work is run again at the position where it was run before, as after a truncation. Where the format
 * has low halves (kern_kv.h) a truncation may not go back behind the beginning of a page unless blocks are given back: there no chunk is
 * measured in the deep context, and other works stay on the last page.
 *
 * The shapes are gone through in rounds, so that each is measured once before any is measured twice, and a machine that is busy for a
 * moment disturbs a round and not a shape. Nothing is learnt before the end: then it is known what of it was a stall.
 */
#include "sched/sched_calibrate.h"

#include <errno.h>
#include <stdlib.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "sched/sched_private.h"

enum {
	ROUNDS = 6,           /* the first one warms up */
	SHAPES_MAX = 9,
	PAIR_ROWS = 2,        /* a stream beside another one; and */
	FEW_ROWS = 8,         /* some streams, or a stream and its guesses */
	MANY_ROWS = 64,       /* streams; and what there is time for where a whole chunk takes too long */
	DEPTH_MOST = 2048,    /* tokens: there the cache is seen beside the weights */
	DEPTH_LEAST = 64,
	FILL_ROWS = 256,      /* appended at once */
	FILL_PART = 4,        /* so manieth of the budget, at most, for a deep context */
	ENOUGH = 3,           /* so many measurements of a shape do without its first one */
	RAW_HEADS = 8, RAW_KV_HEADS = 2, RAW_HEAD_DIM = 64,
	RAW_ROWS = 16,        /* that look back together */
	BACK_ROWS = 16,       /* the deep context is measured from so many tokens before its end */
};
_Static_assert(FEW_ROWS <= BACK_ROWS && RAW_ROWS <= BACK_ROWS && (int)BACK_ROWS < (int)KERN_PAGE_TOKENS, "these stay on its last page");

/* What is longer than so many medians of its shape was a stall. */
static const double STALL = 2.0;

enum phase { PHASE_BEGIN, PHASE_FIRST, PHASE_FILL, PHASE_MEASURE, PHASE_CLEAN, PHASE_END };

/* Contexts: an empty one, a deep one, and those of streams that are as deep together. */
enum { PLACE_EMPTY, PLACE_DEEP, PLACE_STREAMS, PLACES = PLACE_STREAMS + FEW_ROWS };

/* A work to be measured. */
struct shape {
	uint32_t rows, outs; /* raw attention: query rows; and none */
	uint32_t at;         /* place; PLACE_STREAMS: each row is another one's */
	uint32_t count;
	int64_t times_ns[ROUNDS];
};

/* A context. */
struct place {
	unsigned char **blocks;
	uint32_t count, position;
	uint32_t filled; /* tokens in all layers */
};

struct sched_calibrate {
	struct sched *sched;
	int64_t budget_ns;
	enum phase phase;
	uint32_t subject; /* model; model_count: raw attention */
	bool flying;
	struct kern_work work;
	kern_ticket ticket;
	int64_t submitted_ns;
	struct kern_attend item;

	/* of the subject */
	int64_t began_ns;
	struct kern_kv_geometry kv;
	uint32_t chunk;
	struct place places[PLACES];
	int64_t fill_until_ns;
	uint32_t filling, layer; /* the place that is filled, and the layer that is next */
	struct shape shapes[SHAPES_MAX];
	uint32_t shape_count, shape, round;
	bool any;      /* a work of this round was run */
	double slower; /* than first guesses: the most that a work was */

	unsigned char **blocks; /* of all places */
	float *numbers; /* what is appended, and asked: some values */
	float *answers;
	bool registered;
	struct sched_calibrated results[SCHED_MODELS_MAX + 1];
};

static bool raw(const struct sched_calibrate *c)
{
	return c->subject == c->sched->options.model_count;
}

static uint32_t cost_model(const struct sched_calibrate *c)
{
	return raw(c) ? SCHED_COST_MODELS - 1 : c->subject;
}

static struct sched_calibrated *result_of(struct sched_calibrate *c)
{
	return &c->results[c->subject];
}

static int64_t left_ns(const struct sched_calibrate *c)
{
	return c->began_ns + c->budget_ns - base_clock_now(c->sched->clock);
}

/* ---- contexts ------------------------------------------------------------------------- */

static uint32_t lesser(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static void counts_add(const struct sched_calibrate *c, uint32_t tokens, uint32_t counts[2])
{
	const uint32_t blocks = kern_kv_blocks(&c->kv, tokens);

	counts[0] += blocks > 0;
	counts[1] += blocks > 0 ? blocks - 1 : 0;
}

/* Streams that are together as deep as the deep context have so many tokens each; 0: there are none. */
static uint32_t stream_depth(const struct sched_calibrate *c, uint32_t depth)
{
	return raw(c) ? 0 : depth / FEW_ROWS / KERN_PAGE_TOKENS * KERN_PAGE_TOKENS;
}

static bool fits(const struct sched_calibrate *c, uint32_t depth)
{
	uint32_t counts[2] = { 0, 0 };

	counts_add(c, c->chunk, counts);
	if (depth > 0)
		counts_add(c, depth + c->chunk, counts);
	for (uint32_t i = PLACE_STREAMS; i < PLACES; i++)
		counts_add(c, stream_depth(c, depth), counts);
	for (uint32_t later = 0; later < 2; later++)
		if (counts[later] > 0 && c->kv.block_bytes[later] > sched_kv_extent_bytes(c->sched->kv))
			return false;
	return sched_kv_fits(c->sched->kv, c->kv.block_bytes, counts);
}

/* For so many tokens, and so many more that works add. */
static void take_blocks(struct sched_calibrate *c, struct place *place, uint32_t tokens, uint32_t more)
{
	const uint32_t count = kern_kv_blocks(&c->kv, tokens + more);

	place->position = tokens;
	place->filled = 0;

	for (place->count = 0; place->count < count; place->count++) {
		place->blocks[place->count] = sched_kv_take(c->sched->kv, c->kv.block_bytes[place->count > 0]);
		BASE_ASSERT(place->blocks[place->count] != NULL);
	}
}

static void release_blocks(struct sched_calibrate *c, struct place *place)
{
	while (place->count > 0) {
		sched_kv_release(c->sched->kv, place->blocks[--place->count]);
		place->blocks[place->count] = NULL;
	}
	place->position = 0;
}

/* ---- what is measured ----------------------------------------------------------------- */

static void shape_add(struct sched_calibrate *c, uint32_t rows, uint32_t outs, uint32_t at)
{
	c->shapes[c->shape_count++] = (struct shape){ .rows = rows, .outs = outs, .at = at };
}

/* Besides a single row: two streams, a few, and many; a prompt's rows, of which one speaks; and the same where the context is long, which
 * is what shows the cost of visits and of the cache's bytes. */
static void model_shapes(struct sched_calibrate *c, uint32_t depth, bool streams)
{
	const uint32_t outs = c->sched->options.out_rows_max, pair = lesser(PAIR_ROWS, c->chunk);
	const uint32_t few = lesser(FEW_ROWS, c->chunk), many = lesser(lesser(MANY_ROWS, c->chunk), outs);

	if (depth > 0)
		shape_add(c, 1, 1, PLACE_DEEP);
	shape_add(c, few, lesser(few, outs), PLACE_EMPTY);
	shape_add(c, pair, lesser(pair, outs), PLACE_EMPTY);
	if (streams)
		shape_add(c, few, lesser(few, outs), PLACE_STREAMS);
	shape_add(c, few, 1, depth > 0 ? PLACE_DEEP : PLACE_EMPTY);
	shape_add(c, many, many, PLACE_EMPTY);
	shape_add(c, c->chunk, 1, PLACE_EMPTY);
	if (depth > 0 && !kern_kv_has_low(&c->kv))
		shape_add(c, c->chunk, 1, PLACE_DEEP);
}

static void raw_shapes(struct sched_calibrate *c, uint32_t depth)
{
	shape_add(c, c->chunk, 0, PLACE_EMPTY);
	if (depth > 0) {
		shape_add(c, 1, 0, PLACE_DEEP);
		shape_add(c, c->chunk, 0, PLACE_DEEP);
	}
}

/* Of its first row. */
static const struct place *place_of(const struct sched_calibrate *c, const struct shape *shape)
{
	return &c->places[shape->at];
}

/* Rows that look back from the end of what is there: of the empty context, from that of their own. */
static void attend_item(struct sched_calibrate *c, const struct shape *shape, struct kern_attend *item)
{
	const struct place *place = place_of(c, shape);

	*item = (struct kern_attend){ .kv = &c->kv,
		.blocks = place->blocks,
		.q_rows = shape->rows,
		.kv_rows = shape->rows,
		.kv_position = place->position,
		.q_position = place->position,
		.causal = true,
		.scale = 0.125f,
		.dtype = KERN_DTYPE_F32,
		.q = c->numbers,
		.k = c->numbers,
		.v = c->numbers,
		.o = c->answers };
}

static struct sched_load load_of(struct sched_calibrate *c, const struct shape *shape)
{
	const uint32_t position = place_of(c, shape)->position, seqs = shape->at == PLACE_STREAMS ? shape->rows : 1;
	struct kern_attend item;

	if (!raw(c))
		return (struct sched_load){ .rows = shape->rows,
			.outs = shape->outs,
			.visits = seqs * sched_visits(position, shape->rows / seqs),
			.kv_bytes = seqs * sched_kv_bytes(&c->kv, (uint64_t)position + shape->rows / seqs) };
	attend_item(c, shape, &item);
	return sched_attend_load(&item, 0, item.q_rows);
}

static int64_t predicted_ns(struct sched_calibrate *c, const struct shape *shape)
{
	const struct sched_load load = load_of(c, shape);

	return sched_cost_predict(&c->sched->cost, cost_model(c), &load);
}

/* ---- works ---------------------------------------------------------------------------- */

static void fail(struct sched_calibrate *c, int rc)
{
	result_of(c)->error = rc;
	c->phase = PHASE_CLEAN;
}

/* Nothing else is in the air: where it cannot be taken now, it never can. */
static int submit(struct sched_calibrate *c)
{
	int rc = c->sched->backend->ops->submit(c->sched->backend, &c->work, &c->ticket);

	c->submitted_ns = base_clock_now(c->sched->clock);
	c->flying = rc >= 0;
	return rc;
}

static void submit_or_fail(struct sched_calibrate *c)
{
	int rc = submit(c);

	if (rc < 0)
		fail(c, rc);
}

static void submit_attend(struct sched_calibrate *c)
{
	c->work = (struct kern_work){ .kind = KERN_WORK_ATTEND, .attend = { .items = &c->item, .count = 1 } };
	submit_or_fail(c);
}

/* The tables of a flight serve, which nobody has used yet. */
static uint32_t place_seqs(struct sched_calibrate *c, const struct shape *shape, struct kern_seq *seqs)
{
	const uint32_t count = shape->at == PLACE_STREAMS ? shape->rows : 1, rows = shape->rows / count;

	for (uint32_t i = 0; i < count; i++) {
		const struct place *place = place_of(c, shape) + i;

		seqs[i] = (struct kern_seq){
			.row = i * rows, .rows = rows, .position = place->position, .blocks = place->blocks, .kv = &c->kv
		};
	}
	return count;
}

static void submit_step(struct sched_calibrate *c, const struct shape *shape)
{
	const struct kern_program *program = c->sched->models[c->subject].program;
	struct sched_flight *tables = &c->sched->flights[0];

	for (uint32_t i = 0; i < shape->rows; i++)
		tables->tokens[i] = i % program->vocab;
	for (uint32_t i = 0; i < shape->outs; i++)
		tables->outs[i] = (struct kern_out){ .row = shape->rows - shape->outs + i, .logits = tables->logits + (size_t)i * program->vocab };
	c->work = (struct kern_work){ .kind = KERN_WORK_STEP,
		.step = { .program = program,
			.rows = shape->rows,
			.seq_count = place_seqs(c, shape, tables->seqs),
			.out_count = shape->outs,
			.tokens = tables->tokens,
			.seqs = tables->seqs,
			.outs = tables->outs } };
	submit_or_fail(c);
}

/* ---- a subject's phases ---------------------------------------------------------------- */

static bool attention_wanted(const struct sched *sched)
{
	for (uint32_t t = 0; t < sched->options.tenant_count; t++)
		if (sched->tenants[t].attention)
			return true;
	return false;
}

/* Its cache, and how many rows a prompt's step has; false: there is nobody to calibrate for. */
static bool subject_init(struct sched_calibrate *c)
{
	const struct sched_options *o = &c->sched->options;

	if (raw(c)) {
		c->kv = (struct kern_kv_geometry){
			.layers = 1, .heads = RAW_HEADS, .kv_heads = RAW_KV_HEADS, .head_dim = RAW_HEAD_DIM
		};
		c->chunk = lesser(RAW_ROWS, o->tokens_max);
	} else {
		c->kv = c->sched->models[c->subject].program->kv;
		c->chunk = lesser(lesser(o->prefill_chunk, o->step_rows_max), o->tokens_max);
	}
	c->kv.k = c->kv.v = o->kv_default;
	return kern_kv_init(&c->kv) == 0 && (!raw(c) || attention_wanted(c->sched));
}

/* As deep as sessions, the model and the pool allow. */
static uint32_t depth_of(const struct sched_calibrate *c)
{
	const uint32_t context = raw(c) ? 0 : c->sched->models[c->subject].info->context;
	const uint32_t most = context ? lesser(context, c->sched->options.tokens_max) : c->sched->options.tokens_max;
	uint32_t depth = most > c->chunk ? lesser(most - c->chunk, DEPTH_MOST) : 0;

	while (depth >= DEPTH_LEAST && !fits(c, depth))
		depth /= 2;
	depth -= depth % KERN_PAGE_TOKENS;
	return depth;
}

static void begin(struct sched_calibrate *c)
{
	uint32_t depth;

	c->began_ns = base_clock_now(c->sched->clock);
	c->layer = c->shape_count = c->shape = c->round = 0;
	c->slower = 1.0;
	c->any = false;
	c->phase = PHASE_CLEAN;
	result_of(c)->wanted = subject_init(c);
	if (!result_of(c)->wanted)
		return;
	while (c->chunk > 1 && !fits(c, 0))
		c->chunk /= 2;
	if (!fits(c, 0)) {
		result_of(c)->error = -ENOMEM;
		return;
	}
	depth = depth_of(c);
	c->filling = PLACE_DEEP;
	take_blocks(c, &c->places[PLACE_EMPTY], 0, c->chunk);
	take_blocks(c, &c->places[PLACE_DEEP], depth, depth > 0 ? c->chunk : 0);
	for (uint32_t i = PLACE_STREAMS; i < PLACES; i++)
		take_blocks(c, &c->places[i], stream_depth(c, depth), 0);
	shape_add(c, 1, raw(c) ? 0 : 1, PLACE_EMPTY);
	c->phase = PHASE_FIRST;
}

/* Where time ran out the deep context is as deep as it is in all layers, and streams are left out. */
static void measure_begin(struct sched_calibrate *c)
{
	const uint32_t depth = c->places[PLACE_DEEP].filled, each = c->places[PLACES - 1].filled;
	const bool streams = each > 0 && each == c->places[PLACES - 1].position && c->chunk >= FEW_ROWS;

	for (uint32_t i = PLACE_DEEP; i < PLACES; i++)
		c->places[i].position = c->places[i].filled > 0 ? c->places[i].filled - BACK_ROWS : 0;
	result_of(c)->depth = depth;
	if (raw(c))
		raw_shapes(c, depth);
	else
		model_shapes(c, depth, streams);
	c->shape = 1;
	c->any = true;
	c->phase = PHASE_MEASURE;
}

static void fill(struct sched_calibrate *c)
{
	const struct place *place;

	while (c->filling < PLACES && c->places[c->filling].filled == c->places[c->filling].position)
		c->filling++;
	if (c->filling == PLACES || base_clock_now(c->sched->clock) > c->fill_until_ns) {
		measure_begin(c);
		return;
	}
	place = &c->places[c->filling];
	c->item = (struct kern_attend){ .kv = &c->kv,
		.blocks = place->blocks,
		.layer = c->layer,
		.kv_rows = lesser(place->position - place->filled, FILL_ROWS),
		.kv_position = place->filled,
		.scale = 1.0f,
		.dtype = KERN_DTYPE_F32,
		.k = c->numbers,
		.v = c->numbers };
	submit_attend(c);
}

static void filled(struct sched_calibrate *c)
{
	if (++c->layer < c->kv.layers)
		return;
	c->layer = 0;
	c->places[c->filling].filled += c->item.kv_rows;
}

/* By what it took before, else by the cost model's guess and how far off that was so far. */
static bool has_time(struct sched_calibrate *c, const struct shape *shape)
{
	const double ns = shape->count ? (double)shape->times_ns[shape->count - 1] : (double)predicted_ns(c, shape) * c->slower;

	return ns <= (double)left_ns(c);
}

static void run(struct sched_calibrate *c, const struct shape *shape)
{
	if (raw(c)) {
		attend_item(c, shape, &c->item);
		submit_attend(c);
	} else {
		submit_step(c, shape);
	}
}

static void note(struct sched_calibrate *c, struct shape *shape, int64_t ns)
{
	const double slower = (double)ns / (double)predicted_ns(c, shape);

	shape->times_ns[shape->count++] = ns;
	c->slower = slower > c->slower ? slower : c->slower;
}

/* A model whose single row takes longer than all there is is not measured; any other is, at least so far. */
static void first(struct sched_calibrate *c)
{
	if (has_time(c, &c->shapes[0]))
		run(c, &c->shapes[0]);
	else
		c->phase = PHASE_CLEAN;
}

static void first_measured(struct sched_calibrate *c, int64_t ns)
{
	note(c, &c->shapes[0], ns);
	c->fill_until_ns = base_clock_now(c->sched->clock) + c->budget_ns / FILL_PART;
	c->phase = PHASE_FILL;
}

static void next_shape(struct sched_calibrate *c)
{
	if (++c->shape < c->shape_count)
		return;
	c->shape = 0;
	c->round = c->any ? c->round + 1 : ROUNDS;
	c->any = false;
}

static void measure(struct sched_calibrate *c)
{
	if (c->round == ROUNDS)
		c->phase = PHASE_CLEAN;
	else if (!has_time(c, &c->shapes[c->shape]))
		next_shape(c);
	else
		run(c, &c->shapes[c->shape]);
}

static void measured(struct sched_calibrate *c, int64_t ns)
{
	note(c, &c->shapes[c->shape], ns);
	c->any = true;
	next_shape(c);
}

/* ---- what is learnt -------------------------------------------------------------------- */

static int by_time(const void *a, const void *b)
{
	const int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

/* What a shape's measurements are taken for: without the one that warmed up, and stalls cut. */
static void settle_shape(struct shape *shape)
{
	int64_t sorted[ROUNDS], most_ns;

	if (shape->count > ENOUGH)
		memmove(shape->times_ns, shape->times_ns + 1, sizeof(*shape->times_ns) * --shape->count);
	memcpy(sorted, shape->times_ns, sizeof(*sorted) * shape->count);
	qsort(sorted, shape->count, sizeof(*sorted), by_time);
	if (shape->count == 0)
		return;
	most_ns = (int64_t)((double)sorted[(shape->count - 1) / 2] * STALL);
	for (uint32_t i = 0; i < shape->count; i++)
		if (shape->times_ns[i] > most_ns)
			shape->times_ns[i] = sorted[(shape->count - 1) / 2];
}

/* Round by round, as they were measured. */
static void each_time(struct sched_calibrate *c, void (*say)(struct sched_calibrate *c, const struct shape *shape, int64_t ns))
{
	for (uint32_t round = 0; round < ROUNDS; round++)
		for (uint32_t s = 0; s < c->shape_count; s++)
			if (round < c->shapes[s].count)
				say(c, &c->shapes[s], c->shapes[s].times_ns[round]);
}

static void learn_one(struct sched_calibrate *c, const struct shape *shape, int64_t ns)
{
	const struct sched_load load = load_of(c, shape);

	sched_cost_learn(&c->sched->cost, cost_model(c), &load, 0, ns);
	result_of(c)->works++;
}

/* How far off it is now is known from the same works; that is what the first promises keep as a band. */
static void judge_one(struct sched_calibrate *c, const struct shape *shape, int64_t ns)
{
	sched_cost_judge(&c->sched->cost, cost_model(c), predicted_ns(c, shape), ns);
}

static double per_second(struct sched_calibrate *c, const struct shape *shape)
{
	return shape->rows * 1e9 / (double)predicted_ns(c, shape);
}

static void learn(struct sched_calibrate *c)
{
	struct sched *sched = c->sched;
	const struct shape one = { .rows = 1, .outs = !raw(c), .at = raw(c) ? PLACE_DEEP : PLACE_EMPTY };
	const struct shape chunk = { .rows = c->chunk, .outs = !raw(c), .at = PLACE_EMPTY };
	const uint32_t model = cost_model(c);

	for (uint32_t s = 0; s < c->shape_count; s++)
		settle_shape(&c->shapes[s]);
	each_time(c, learn_one);
	if (result_of(c)->works == 0)
		return;
	each_time(c, judge_one);
	sched->learnt_ns[model] = base_clock_now(sched->clock);
	sched_cost_units(&sched->cost, model, sched->options.step_rows_max, &sched->units[model]);
	result_of(c)->decode_per_s = per_second(c, &one);
	result_of(c)->prefill_per_s = per_second(c, &chunk);
	result_of(c)->band = sched_cost_band(&sched->cost, model, 1.0);
}

static void next_subject(struct sched_calibrate *c)
{
	result_of(c)->took_ns = base_clock_now(c->sched->clock) - c->began_ns;
	c->phase = raw(c) ? PHASE_END : PHASE_BEGIN;
	c->subject++;
}

static void not_cleaned(struct sched_calibrate *c, int rc)
{
	sched_kv_still_dirty(c->sched->kv, c->work.copy.spans, c->work.copy.count);
	result_of(c)->error = rc;
	next_subject(c);
}

/* Blocks go back as they came: zeroed. What the device would not zero the scheduler will, as after every session. */
static void clean(struct sched_calibrate *c)
{
	struct sched *sched = c->sched;
	struct kern_span *spans = sched->flights[0].spans;
	uint32_t count;
	int rc;

	if (c->shape_count > 0)
		learn(c);
	c->shape_count = 0;
	for (uint32_t i = PLACES; i-- > 0;)
		release_blocks(c, &c->places[i]);
	count = sched_kv_dirty(sched->kv, spans, SCHED_SPANS, SIZE_MAX);
	if (count == 0) {
		next_subject(c);
		return;
	}
	c->work = (struct kern_work){ .kind = KERN_WORK_ZERO, .copy = { .spans = spans, .count = count } };
	rc = submit(c);
	if (rc < 0)
		not_cleaned(c, rc);
}

/* ---- all of it ------------------------------------------------------------------------- */

static void landed(struct sched_calibrate *c, int rc)
{
	const int64_t ns = base_clock_now(c->sched->clock) - c->submitted_ns;

	c->flying = false;
	if (c->phase == PHASE_CLEAN) {
		if (rc < 0)
			not_cleaned(c, rc);
		else
			sched_kv_zeroed(c->sched->kv, c->work.copy.spans, c->work.copy.count);
	} else if (rc < 0) {
		fail(c, rc);
	} else if (c->phase == PHASE_FILL) {
		filled(c);
	} else if (c->phase == PHASE_FIRST) {
		first_measured(c, ns > 0 ? ns : 1);
	} else {
		measured(c, ns > 0 ? ns : 1);
	}
}

int sched_calibrate_poll(struct sched_calibrate *c)
{
	int rc;

	if (c->flying) {
		rc = c->sched->backend->ops->poll(c->sched->backend, c->ticket);
		if (rc != 0)
			landed(c, rc);
		return 1;
	}
	switch (c->phase) {
	case PHASE_BEGIN: begin(c); break;
	case PHASE_FIRST: first(c); break;
	case PHASE_FILL: fill(c); break;
	case PHASE_MEASURE: measure(c); break;
	case PHASE_CLEAN: clean(c); break;
	case PHASE_END: return 0;
	}
	return 1;
}

const struct sched_calibrated *sched_calibrate_result(const struct sched_calibrate *c, uint32_t model)
{
	BASE_ASSERT(model <= c->sched->options.model_count);
	return &c->results[model];
}

/* Of all models, and of raw attention, what is appended or asked at once, at most. */
static size_t numbers_needed(const struct sched *sched)
{
	size_t most = (size_t)RAW_ROWS * RAW_HEADS * RAW_HEAD_DIM;

	if (most < (size_t)FILL_ROWS * RAW_KV_HEADS * RAW_HEAD_DIM)
		most = (size_t)FILL_ROWS * RAW_KV_HEADS * RAW_HEAD_DIM;
	for (uint32_t m = 0; m < sched->options.model_count; m++) {
		const struct kern_kv_geometry *kv = &sched->models[m].program->kv;
		const size_t count = (size_t)FILL_ROWS * kv->kv_heads * kv->head_dim;

		most = count > most ? count : most;
	}
	return most;
}

static int tables_create(struct sched_calibrate *c)
{
	const struct kern_backend_ops *ops = c->sched->backend->ops;
	const size_t count = numbers_needed(c->sched), answers = (size_t)RAW_ROWS * RAW_HEADS * RAW_HEAD_DIM;
	const size_t blocks = c->sched->blocks_max + KERN_KV_AHEAD;
	uint64_t random = 1;
	int rc;

	c->numbers = calloc(count + answers, sizeof(*c->numbers));
	c->blocks = calloc(blocks * PLACES, sizeof(*c->blocks));
	if (!c->numbers || !c->blocks)
		return base_fail(ENOMEM, "no memory to calibrate with");
	for (uint32_t i = 0; i < PLACES; i++)
		c->places[i].blocks = c->blocks + i * blocks;
	c->answers = c->numbers + count;
	for (size_t i = 0; i < count; i++)
		c->numbers[i] = (float)base_rand_below(&random, 2001) * 1e-3f - 1.0f;
	rc = ops->register_memory(c->sched->backend, c->numbers, (count + answers) * sizeof(*c->numbers));
	c->registered = rc == 0;
	return rc;
}

int sched_calibrate_create(struct sched_calibrate **out, struct sched *sched, int64_t budget_ns)
{
	struct sched_calibrate *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return base_fail(ENOMEM, "no memory to calibrate with");
	c->sched = sched;
	c->budget_ns = budget_ns;
	rc = tables_create(c);
	if (rc < 0) {
		sched_calibrate_destroy(c);
		return rc;
	}
	*out = c;
	return 0;
}

void sched_calibrate_destroy(struct sched_calibrate *c)
{
	if (!c)
		return;
	BASE_ASSERT(!c->flying);
	if (c->registered)
		c->sched->backend->ops->unregister_memory(c->sched->backend, c->numbers);
	free(c->blocks);
	free(c->numbers);
	free(c);
}
