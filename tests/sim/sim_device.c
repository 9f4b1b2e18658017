/*
 * The modelled device. See the header.
 */
#include "tests/sim/sim_device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_rand.h"

enum { SIM_DEPTH_MAX = 8, SIM_ALIGN = 4096, SIM_PERIOD = 11 };

struct flying {
	struct kern_work work;
	int64_t end_ns;
	kern_ticket ticket;
	bool fails;
};

struct sim_device {
	struct kern_backend backend;
	struct sim_device_options options;
	struct flying flying[SIM_DEPTH_MAX];
	uint32_t first, count;
	kern_ticket next_ticket;
	int64_t busy_until_ns;
	uint64_t random;
	uint32_t allocations;
	int fail_kind;
	uint32_t fail_count;
	struct sim_device_stats stats;
	struct sim_device_step last_step;
};

/* ---- hashes --------------------------------------------------------------------------- */

static uint64_t chain_next(uint64_t chain, uint64_t token, uint32_t position)
{
	/* Never 0: that is a word nobody wrote. */
	return base_mix64(chain + base_mix64(token + 1) + position * 0x9e3779b97f4a7c15u) | 1;
}

static uint64_t bytes_hash(const void *bytes, size_t count)
{
	const unsigned char *at = bytes;
	uint64_t hash = count;

	for (size_t i = 0; i < count; i++)
		hash = (hash ^ at[i]) * 0x100000001b3u;
	return base_mix64(hash);
}

static float unit(uint64_t hash)
{
	return (float)(base_mix64(hash) >> 40) * 0x1p-21f - 4.0f;
}

uint64_t sim_row_hash(const uint32_t *tokens, uint32_t count)
{
	uint64_t chain = 0, blocks = 0;

	for (uint32_t p = 0; p < count; p++) {
		chain = chain_next(chain, tokens[p], p);
		if (p % KERN_PAGE_TOKENS == KERN_PAGE_TOKENS - 1 && p + 1 < count)
			blocks = base_mix64(blocks ^ chain);
	}
	return base_mix64(chain ^ blocks);
}

uint64_t sim_regular_hash(uint64_t row_hash, uint32_t count, uint32_t permille)
{
	return base_mix64(row_hash) % 1000 < permille ? base_mix64(count % SIM_PERIOD) : row_hash;
}

uint32_t sim_embedding_token(const float *row, uint32_t width)
{
	return (uint32_t)bytes_hash(row, sizeof(*row) * width);
}

float sim_logit(uint64_t row_hash, uint32_t id)
{
	return unit(row_hash + id * 0xd1342543de82ef95u);
}

float sim_hidden(uint64_t row_hash, uint32_t i)
{
	return unit(~row_hash + i * 0xd1342543de82ef95u);
}

uint32_t sim_argmax(uint64_t row_hash, uint32_t vocab)
{
	uint32_t best = 0;

	for (uint32_t id = 1; id < vocab; id++)
		if (sim_logit(row_hash, id) > sim_logit(row_hash, best))
			best = id;
	return best;
}

uint64_t sim_key_chain(
	uint64_t chain, const void *k, const void *v, size_t bytes, uint32_t position)
{
	return chain_next(chain, bytes_hash(k, bytes) ^ base_mix64(bytes_hash(v, bytes)), position);
}

float sim_attend_value(
	uint64_t chain, const void *q, size_t bytes, const struct kern_attend *item, uint32_t i)
{
	uint64_t hash = chain ^ bytes_hash(q, bytes) ^ (item->causal ? 3u : 5u);
	uint32_t scale;

	memcpy(&scale, &item->scale, sizeof(scale));
	return unit(hash + scale + item->window * 7u + i * 0xd1342543de82ef95u);
}

/* ---- blocks --------------------------------------------------------------------------- */

static uint64_t *word_of(unsigned char *const *blocks, uint32_t layer, uint32_t position)
{
	unsigned char *block = blocks[position / KERN_PAGE_TOKENS];

	return (uint64_t *)(void *)block + (size_t)layer * KERN_PAGE_TOKENS +
		position % KERN_PAGE_TOKENS;
}

static uint64_t chain_at(unsigned char *const *blocks, uint32_t layer, uint32_t position)
{
	return *word_of(blocks, layer, position);
}

/* Stores a chain, and where the format has low halves what stands for its low half, two blocks ahead. */
static void store_chain(const struct kern_kv_geometry *kv, unsigned char *const *blocks, uint32_t layer, uint32_t position,
	uint64_t chain)
{
	*word_of(blocks, layer, position) = chain;
	if (kern_kv_has_low(kv) && position >= KERN_PAGE_TOKENS)
		*word_of(blocks, layer, position + KERN_KV_AHEAD * KERN_PAGE_TOKENS) = ~chain;
}

/* Of so many tokens, the last pages' low halves are those of their tokens, or nothing at all where they were lost. */
static void check_low(const struct kern_kv_geometry *kv, unsigned char *const *blocks, uint32_t layer, uint32_t tokens)
{
	const uint32_t filled = kern_kv_filled(tokens), first = filled > KERN_KV_AHEAD ? filled - KERN_KV_AHEAD : 1;

	for (uint32_t t = first * KERN_PAGE_TOKENS; kern_kv_has_low(kv) && t < tokens; t++) {
		const uint32_t ahead = t + KERN_KV_AHEAD * KERN_PAGE_TOKENS;

		if (blocks[ahead / KERN_PAGE_TOKENS] != NULL)
			BASE_ASSERT(chain_at(blocks, layer, ahead) == 0 ||
				chain_at(blocks, layer, ahead) == ~chain_at(blocks, layer, t));
	}
}

/* The chain before a position; each word must have been written by somebody. */
static uint64_t chain_before(unsigned char *const *blocks, uint32_t layer, uint32_t position)
{
	uint64_t chain;

	if (position == 0)
		return 0;
	chain = chain_at(blocks, layer, position - 1);
	BASE_ASSERT(chain != 0);
	return chain;
}

static uint64_t row_hash_of(unsigned char *const *blocks, uint32_t position)
{
	uint64_t mixed = 0;

	for (uint32_t b = 0; b < position / KERN_PAGE_TOKENS; b++)
		mixed = base_mix64(
			mixed ^ chain_at(blocks, 0, b * KERN_PAGE_TOKENS + KERN_PAGE_TOKENS - 1));
	return base_mix64(chain_at(blocks, 0, position) ^ mixed);
}

/* ---- works ---------------------------------------------------------------------------- */

static void write_out(const struct kern_program *program, const struct kern_out *out, uint64_t hash)
{
	for (uint32_t i = 0; out->logits && i < program->vocab; i++)
		out->logits[i] = sim_logit(hash, i);
	for (uint32_t i = 0; out->hidden && i < program->width; i++)
		out->hidden[i] = sim_hidden(hash, i);
}

static uint32_t run_seq(const struct kern_step *step, const struct kern_seq *seq, uint32_t next_out, uint32_t regular_permille)
{
	uint64_t chain = chain_before(seq->blocks, 0, seq->position);

	check_low(seq->kv, seq->blocks, 0, seq->position);
	for (uint32_t i = 0; i < seq->rows; i++) {
		uint32_t row = seq->row + i, token = step->tokens[row],
			 position = seq->position + i;

		if (step->embeddings && step->embeddings[row])
			token = sim_embedding_token(step->embeddings[row], step->program->width);
		else
			BASE_ASSERT(token < step->program->vocab);
		chain = chain_next(chain, token, position);
		store_chain(seq->kv, seq->blocks, 0, position, chain);
		if (next_out < step->out_count && step->outs[next_out].row == row)
			write_out(step->program, &step->outs[next_out++],
				sim_regular_hash(row_hash_of(seq->blocks, position), position + 1, regular_permille));
	}
	check_low(seq->kv, seq->blocks, 0, seq->position + seq->rows);
	return next_out;
}

static void run_step(const struct kern_step *step, uint32_t regular_permille)
{
	uint32_t next_row = 0, next_out = 0;

	for (uint32_t s = 0; s < step->seq_count; s++) {
		const struct kern_seq *seq = &step->seqs[s];

		BASE_ASSERT(seq->row == next_row && seq->rows > 0);
		next_row += seq->rows;
		next_out = run_seq(step, seq, next_out, regular_permille);
	}
	BASE_ASSERT(next_row == step->rows && next_out == step->out_count &&
		step->rows <= step->program->max_rows &&
		step->out_count <= step->program->max_out_rows);
}

static void store(const struct kern_attend *item, size_t i, float value)
{
	uint32_t bits;

	if (item->dtype == KERN_DTYPE_F32) {
		((float *)item->o)[i] = value;
		return;
	}
	memcpy(&bits, &value, sizeof(bits));
	((uint16_t *)item->o)[i] = (uint16_t)(bits >> 16);
}

static void run_attend(const struct kern_attend *item)
{
	size_t element = item->dtype == KERN_DTYPE_F32 ? 4 : 2;
	size_t q_width = (size_t)item->kv->heads * item->kv->head_dim, q_bytes = q_width * element;
	size_t k_bytes = (size_t)item->kv->kv_heads * item->kv->head_dim * element;
	uint32_t total = item->kv_position + item->kv_rows;
	uint64_t chain = chain_before(item->blocks, item->layer, item->kv_position);

	for (uint32_t r = 0; r < item->kv_rows; r++) {
		chain = sim_key_chain(chain, (const unsigned char *)item->k + r * k_bytes,
			(const unsigned char *)item->v + r * k_bytes, k_bytes,
			item->kv_position + r);
		store_chain(item->kv, item->blocks, item->layer, item->kv_position + r, chain);
	}
	check_low(item->kv, item->blocks, item->layer, total);
	for (uint32_t r = 0; r < item->q_rows; r++) {
		const unsigned char *q = (const unsigned char *)item->q + r * q_bytes;
		uint32_t last = item->causal ? item->q_position + r : total - 1;
		uint64_t seen;

		BASE_ASSERT(last < total);
		seen = chain_at(item->blocks, item->layer, last);
		BASE_ASSERT(seen != 0);
		for (uint32_t i = 0; i < q_width; i++)
			store(item, r * q_width + i, sim_attend_value(seen, q, q_bytes, item, i));
		for (uint32_t h = 0; item->lse && h < item->kv->heads; h++)
			item->lse[(size_t)r * item->kv->heads + h] =
				sim_attend_value(~seen, q, q_bytes, item, h);
	}
}

static void run(const struct sim_device *device, const struct kern_work *work)
{
	switch (work->kind) {
	case KERN_WORK_STEP: run_step(&work->step, device->options.regular_permille); break;
	case KERN_WORK_ATTEND:
		for (uint32_t i = 0; i < work->attend.count; i++)
			run_attend(&work->attend.items[i]);
		break;
	case KERN_WORK_COPY:
		for (uint32_t i = 0; i < work->copy.count; i++)
			memcpy(work->copy.spans[i].to, work->copy.spans[i].from,
				work->copy.spans[i].bytes);
		break;
	case KERN_WORK_ZERO:
		for (uint32_t i = 0; i < work->copy.count; i++)
			memset(work->copy.spans[i].to, 0, work->copy.spans[i].bytes);
		break;
	}
}

/* ---- time ----------------------------------------------------------------------------- */

static int64_t rows_ns(const struct sim_device *device, uint64_t rows, uint64_t visits)
{
	return device->options.work_ns + (int64_t)rows * device->options.row_ns +
		(int64_t)visits * device->options.visit_ps / 1000;
}

static int64_t duration_ns(const struct sim_device *device, const struct kern_work *work)
{
	uint64_t rows = 0, visits = 0, bytes = 0;

	switch (work->kind) {
	case KERN_WORK_STEP:
		for (uint32_t s = 0; s < work->step.seq_count; s++)
			visits += (uint64_t)work->step.seqs[s].rows *
				(work->step.seqs[s].position + work->step.seqs[s].rows / 2);
		return rows_ns(device, work->step.rows, visits);
	case KERN_WORK_ATTEND:
		for (uint32_t i = 0; i < work->attend.count; i++) {
			const struct kern_attend *item = &work->attend.items[i];

			rows += item->q_rows + item->kv_rows;
			visits += (uint64_t)item->q_rows * (item->kv_position + item->kv_rows);
		}
		return rows_ns(device, rows, visits);
	case KERN_WORK_COPY:
	case KERN_WORK_ZERO: break;
	}
	for (uint32_t i = 0; i < work->copy.count; i++)
		bytes += work->copy.spans[i].bytes;
	return (int64_t)(bytes / 1024) * device->options.kib_ns;
}

static int64_t with_jitter(struct sim_device *device, int64_t ns)
{
	if (device->options.jitter_permille == 0)
		return ns;
	return ns + ns * (int64_t)base_rand_below(&device->random, device->options.jitter_permille + 1) / 1000;
}

/* ---- the table ------------------------------------------------------------------------ */

static struct sim_device *device_of(struct kern_backend *backend)
{
	return (struct sim_device *)backend;
}

static void *sim_alloc(struct kern_backend *backend, size_t bytes, const char *what)
{
	size_t rounded = (bytes + SIM_ALIGN - 1) / SIM_ALIGN * SIM_ALIGN;
	void *memory = aligned_alloc(SIM_ALIGN, rounded);

	(void)what;
	BASE_ASSERT(memory != NULL);
	memset(memory, 0, rounded);
	device_of(backend)->allocations++;
	return memory;
}

static void sim_free(struct kern_backend *backend, void *memory)
{
	device_of(backend)->allocations--;
	free(memory);
}

static int sim_register(struct kern_backend *backend, void *memory, size_t bytes)
{
	(void)backend, (void)memory, (void)bytes;
	return 0;
}

static void sim_unregister(struct kern_backend *backend, void *memory)
{
	(void)backend, (void)memory;
}

static int sim_weight_create(struct kern_backend *backend, enum kern_type type, uint32_t n,
	uint32_t k, const void *source, struct kern_weight **weight)
{
	(void)backend, (void)type, (void)n, (void)k, (void)source, (void)weight;
	return -ENOTSUP;
}

static void sim_weight_destroy(struct kern_backend *backend, struct kern_weight *weight)
{
	(void)backend, (void)weight;
}

static int sim_program_prepare(struct kern_backend *backend, struct kern_program *program)
{
	(void)backend, (void)program;
	return 0;
}

static void sim_program_release(struct kern_backend *backend, struct kern_program *program)
{
	(void)backend, (void)program;
}

static bool fails(struct sim_device *device, enum kern_work_kind kind)
{
	if (device->fail_count > 0 && (device->fail_kind < 0 || device->fail_kind == (int)kind)) {
		device->fail_count--;
		return true;
	}
	return base_rand_below(&device->random, 1000000) < device->options.errors_per_million;
}

static void record_step(struct sim_device *device, const struct kern_step *step)
{
	struct sim_device_stats *stats = &device->stats;

	device->last_step.seq_count = step->seq_count;
	for (uint32_t s = 0; s < step->seq_count && s < 64; s++) {
		device->last_step.seqs[s].position = step->seqs[s].position;
		device->last_step.seqs[s].rows = step->seqs[s].rows;
		device->last_step.seqs[s].token = step->tokens[step->seqs[s].row];
		device->last_step.seqs[s].program = step->program;
	}
	stats->rows += step->rows;
	stats->outs += step->out_count;
	stats->most_seqs = step->seq_count > stats->most_seqs ? step->seq_count : stats->most_seqs;
	stats->most_rows = step->rows > stats->most_rows ? step->rows : stats->most_rows;
	stats->most_outs = step->out_count > stats->most_outs ? step->out_count : stats->most_outs;
}

static int sim_submit(
	struct kern_backend *backend, const struct kern_work *work, kern_ticket *ticket)
{
	struct sim_device *device = device_of(backend);
	int64_t now_ns = base_clock_now(device->options.clock);
	struct flying *flying;

	if (device->count >= device->options.depth)
		return -EAGAIN;
	flying = &device->flying[(device->first + device->count++) % SIM_DEPTH_MAX];
	if (device->busy_until_ns < now_ns)
		device->busy_until_ns = now_ns;
	device->busy_until_ns += with_jitter(device, duration_ns(device, work));
	*flying = (struct flying){ .work = *work,
		.end_ns = device->busy_until_ns,
		.ticket = ++device->next_ticket,
		.fails = fails(device, work->kind) };
	*ticket = flying->ticket;
	device->stats.works[work->kind]++;
	if (device->count > device->stats.most_flying)
		device->stats.most_flying = device->count;
	if (work->kind == KERN_WORK_STEP)
		record_step(device, &work->step);
	return 0;
}

static int sim_poll(struct kern_backend *backend, kern_ticket ticket)
{
	struct sim_device *device = device_of(backend);
	struct flying *flying = &device->flying[device->first];

	BASE_ASSERT(device->count > 0 && flying->ticket == ticket);
	if (base_clock_now(device->options.clock) < flying->end_ns)
		return 0;
	device->first = (device->first + 1) % SIM_DEPTH_MAX;
	device->count--;
	if (flying->fails) {
		device->stats.failed++;
		return -EIO;
	}
	if (!device->options.no_results || flying->work.kind == KERN_WORK_COPY ||
		flying->work.kind == KERN_WORK_ZERO)
		run(device, &flying->work);
	return 1;
}

static void sim_destroy(struct kern_backend *backend)
{
	sim_device_destroy(device_of(backend));
}

static const struct kern_backend_ops OPS = {
	.alloc = sim_alloc,
	.free = sim_free,
	.register_memory = sim_register,
	.unregister_memory = sim_unregister,
	.weight_create = sim_weight_create,
	.weight_destroy = sim_weight_destroy,
	.program_prepare = sim_program_prepare,
	.program_release = sim_program_release,
	.submit = sim_submit,
	.poll = sim_poll,
	.destroy = sim_destroy,
};

/* ---- making --------------------------------------------------------------------------- */

struct sim_device *sim_device_create(const struct sim_device_options *options)
{
	struct sim_device *device = calloc(1, sizeof(*device));

	BASE_ASSERT(device != NULL && options->depth <= SIM_DEPTH_MAX);
	device->options = *options;
	if (options->depth == 0)
		device->options.depth = 2;
	device->random = options->seed;
	device->fail_kind = -1;
	device->backend.ops = &OPS;
	device->backend.properties =
		(struct kern_properties){ .name = "sim", .host_memory = options->host_memory };
	return device;
}

struct kern_backend *sim_device_backend(struct sim_device *device)
{
	return &device->backend;
}

void sim_device_destroy(struct sim_device *device)
{
	BASE_ASSERT(device->allocations == 0);
	free(device);
}

int64_t sim_device_next_ns(const struct sim_device *device)
{
	return device->count ? device->flying[device->first].end_ns : INT64_MAX;
}

void sim_device_fail(struct sim_device *device, int kind, uint32_t count)
{
	device->fail_kind = kind;
	device->fail_count = count;
}

const struct sim_device_stats *sim_device_stats(const struct sim_device *device)
{
	return &device->stats;
}

const struct sim_device_step *sim_device_last_step(const struct sim_device *device)
{
	return &device->last_step;
}

void sim_program_init(struct kern_program *program, uint32_t vocab, uint32_t width,
	uint32_t max_rows, uint32_t max_out_rows)
{
	*program = (struct kern_program){
		.vocab = vocab,
		.width = width,
		.kv = { .layers = 1,
			.heads = 2,
			.kv_heads = 1,
			.head_dim = 8,
			.k = KERN_KV_F32,
			.v = KERN_KV_F32 },
		.rope_magnitude = 1.0f,
		.max_rows = max_rows,
		.max_out_rows = max_out_rows,
	};
	BASE_ASSERT(kern_kv_init(&program->kv) == 0);
}
