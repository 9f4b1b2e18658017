/*
 * How a job of attention is cut into units, and how a unit finds its work. See cpu_attention.h for the phases and
 * cpu_attention_unit.h for tiles and splits.
 */
#include "kernels/cpu/cpu_attention.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_attention_unit.h"

/* Channels of query vectors in a tile, and vectors at most: more share the loading of a page, fewer keep a unit short. AMX takes
 * more, which made it a tenth to a quarter faster; its units are one to two times as long as the others'. */
enum { TILE_CHANNELS = 2048, TILE_VECTORS = 32, TILE_VECTORS_MIN = 8, AMX_CHANNELS = 8192 };

/* Where tiles alone keep every thread busy, partial results are worth their writing only while a cache holds them. */
enum { PARTIAL_BYTES_CHEAP = 1 << 20, TILES_ENOUGH = 4 };

const struct cpu_attention_kernels *cpu_attention_kernels(enum base_isa isa)
{
	switch (isa) {
	case BASE_ISA_AVX512:
		return &cpu_attention_avx512;
	case BASE_ISA_AVX2:
		return &cpu_attention_avx2;
	case BASE_ISA_SCALAR:
		break;
	}
	return &cpu_attention_scalar;
}

size_t cpu_attention_scratch_bytes(void)
{
	return sizeof(struct cpu_attention_scratch);
}

static uint32_t divide_up(uint32_t a, uint32_t b)
{
	return a / b + (a % b != 0);
}

static bool may_use_amx(const struct cpu_attention_job *job)
{
	return job->amx && job->isa == BASE_ISA_AVX512 && job->kv->head_dim % CPU_ATTENTION_AMX_DIM == 0 &&
		(cpu_attention_has_integers(job->kv->k) || cpu_attention_has_integers(job->kv->v));
}

const struct cpu_attention_kernels *cpu_attention_kernels_of(const struct cpu_attention_job *job, uint32_t vectors)
{
	return may_use_amx(job) && vectors >= CPU_ATTENTION_BLOCK ? &cpu_attention_amx : cpu_attention_kernels(job->isa);
}

static uint32_t tile_vectors(const struct cpu_attention_job *job)
{
	const bool amx = may_use_amx(job);
	const uint32_t most = amx ? CPU_ATTENTION_VECTORS : TILE_VECTORS;
	uint32_t vectors = (amx ? AMX_CHANNELS : TILE_CHANNELS) / job->kv->head_dim;

	vectors = vectors > TILE_VECTORS_MIN ? vectors : TILE_VECTORS_MIN;
	return vectors < most ? vectors : most;
}

/* Cuts heads and rows into tiles, and rows finer where there would be fewer units than threads. */
static void cut_tiles(struct cpu_attention_job *job, uint32_t participants)
{
	const uint32_t group = job->kv->heads / job->kv->kv_heads, vectors = tile_vectors(job);
	uint64_t columns;

	job->head_parts = divide_up(group, vectors);
	job->heads_per_unit = divide_up(group, job->head_parts);
	job->rows_per_unit = cpu_attention_tile_rows(job);
	if (job->rows_per_unit > job->q_rows)
		job->rows_per_unit = job->q_rows;
	columns = (uint64_t)job->kv->kv_heads * job->head_parts * job->splits;
	while (job->rows_per_unit > 1 && columns * divide_up(job->q_rows, job->rows_per_unit) < participants)
		job->rows_per_unit = divide_up(job->rows_per_unit, 2);
	job->row_chunks = divide_up(job->q_rows, job->rows_per_unit);
}

/* A unit stores the rows of one block, unless they have to wait for the survey that this same job brings. */
static void cut_append(struct cpu_attention_job *job)
{
	const uint32_t end = job->kv_position + job->kv_rows;
	const bool brings_survey = job->kv_position < KERN_PAGE_TOKENS && end >= KERN_PAGE_TOKENS;

	job->append_parts = 1;
	if (job->kv_rows > 0 && !(kern_kv_is_smoothed(job->kv->k) && brings_survey))
		job->append_parts = (end - 1) / KERN_PAGE_TOKENS - job->kv_position / KERN_PAGE_TOKENS + 1;
	job->units[CPU_ATTENTION_APPEND] = job->kv_rows > 0 ? job->kv->kv_heads * job->append_parts : 0;
}

/* The splits that some row of the job sees; one, of nothing, where there are no keys. */
static void cut_splits(struct cpu_attention_job *job)
{
	const uint32_t begin = cpu_attention_visible(job, 0).begin, end = cpu_attention_visible(job, job->q_rows - 1).end;

	job->first_split = begin / CPU_ATTENTION_SPLIT_TOKENS;
	job->splits = end > begin ? (end - 1) / CPU_ATTENTION_SPLIT_TOKENS - job->first_split + 1 : 1;
}

/* Of the rows that are left: K and V to the end of a page, and the queries that see no further; the last slice has them all.
 * Queries of earlier pages come before a page begins. So it makes no difference where a request was cut in two, at a query row and
 * at the end of that row's page (sched_attend_slice). */
static void take_slice(struct cpu_attention_job *job, uint32_t q_rows, uint32_t kv_rows)
{
	const uint32_t into = job->kv_position % KERN_PAGE_TOKENS, room = KERN_PAGE_TOKENS - into;
	const bool is_late = job->causal && q_rows > 0 && into == 0 && job->q_position < job->kv_position;

	job->kv_rows = kv_rows;
	job->q_rows = q_rows;
	if (kern_kv_has_low(job->kv) && kv_rows > 0 && (is_late || kv_rows > room)) {
		const uint32_t end = is_late ? job->kv_position : job->kv_position + room;
		const uint32_t seeing = end > job->q_position ? end - job->q_position : 0;

		job->kv_rows = is_late ? 0 : room;
		job->q_rows = !job->causal ? 0 : seeing < q_rows ? seeing : q_rows;
	}
	job->q_rows_left = q_rows - job->q_rows;
	job->kv_rows_left = kv_rows - job->kv_rows;
}

void cpu_attention_slice(struct cpu_attention_job *job)
{
	take_slice(job, job->q_rows, job->kv_rows);
}

bool cpu_attention_slice_next(struct cpu_attention_job *job)
{
	const size_t element = job->dtype == KERN_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);

	if (job->q_rows_left == 0 && job->kv_rows_left == 0) {
		job->q_rows = job->kv_rows = 0;
		return false;
	}
	job->kv_position += job->kv_rows;
	job->k = (const unsigned char *)job->k + job->kv_rows * job->k_stride * element;
	job->v = (const unsigned char *)job->v + job->kv_rows * job->v_stride * element;
	job->q_position += job->q_rows;
	job->q = (const unsigned char *)job->q + job->q_rows * job->q_stride * element;
	job->o = (unsigned char *)job->o + job->q_rows * job->o_stride * element;
	if (job->lse != NULL)
		job->lse += job->q_rows * job->lse_stride;
	if (job->rope != KERN_ROPE_NONE)
		job->rope_cos_sin += (size_t)job->kv_rows * job->rotated;
	take_slice(job, job->q_rows_left, job->kv_rows_left);
	return true;
}

/* On Intel's cores as many pages are asked for together as have enough pages of 4096 bytes to read side by side. Zen 4 follows
 * four runs better than eight, and is best asked for one page at a time: 15 to 16 GB/s of 32 heads over 4 of 64 channels on two
 * threads, 11 to 13 the other way. */
static void cut_ahead(struct cpu_attention_job *job)
{
	const uint32_t bytes = kern_kv_layout(job->kv, 1)->bytes;

	job->ahead_pages = 1;
	job->ahead_runs = base_cpu()->amd ? CPU_AHEAD_RUNS / 2 : CPU_AHEAD_RUNS;
	while (!base_cpu()->amd && job->ahead_pages < CPU_AHEAD_RUNS && job->ahead_pages * bytes < CPU_AHEAD_RUNS * 4096)
		job->ahead_pages *= 2;
}

void cpu_attention_cut(struct cpu_attention_job *job, uint32_t participants)
{
	if (job->isa == BASE_ISA_AVX512 && !base_cpu()->avx512_vnni)
		job->isa = BASE_ISA_AVX2;
	memset(job->units, 0, sizeof(job->units));
	job->partial = NULL;
	job->first_split = job->splits = job->shared_begin = job->shared_end = job->round_begin = job->round_end = 0;
	cut_append(job);
	if (job->q_rows == 0)
		return;
	cut_splits(job);
	cut_tiles(job, participants);
	cut_ahead(job);
}

static uint32_t tile_count(const struct cpu_attention_job *job)
{
	return job->kv->kv_heads * job->head_parts * job->row_chunks;
}

uint32_t cpu_attention_tile_rows(const struct cpu_attention_job *job)
{
	return tile_vectors(job) / job->heads_per_unit;
}

uint64_t cpu_attention_page_visits(const struct cpu_attention_job *job)
{
	struct cpu_attention_range seen;

	if (job->q_rows == 0)
		return 0;
	seen = (struct cpu_attention_range){ cpu_attention_visible(job, 0).begin, cpu_attention_visible(job, job->q_rows - 1).end };
	return (uint64_t)tile_count(job) * (divide_up(seen.end, KERN_PAGE_TOKENS) - seen.begin / KERN_PAGE_TOKENS -
		(job->shared_end - job->shared_begin) * (CPU_ATTENTION_SPLIT_TOKENS / KERN_PAGE_TOKENS));
}

size_t cpu_attention_part_bytes(const struct cpu_attention_job *job)
{
	return (size_t)job->q_rows * job->kv->heads * cpu_attention_part_floats(job->kv->head_dim) * sizeof(float);
}

bool cpu_attention_wants_parts(const struct cpu_attention_job *job, uint32_t participants)
{
	if (job->q_rows == 0)
		return false;
	/* What the batch has attended to is merged, be it all there is. */
	if (job->shared_begin < job->shared_end)
		return true;
	return job->splits > 1 && (job->splits <= PARTIAL_BYTES_CHEAP / cpu_attention_part_bytes(job) ||
		tile_count(job) / participants < TILES_ENOUGH);
}

/* What the round at hand has of the job's splits, and which of these the job has not to attend to. */
struct round { uint32_t begin, end, skip_begin, skip_end; };

static uint32_t between(uint32_t value, uint32_t least, uint32_t most)
{
	return value < least ? least : value > most ? most : value;
}

static struct round round_of(const struct cpu_attention_job *job)
{
	const uint32_t end = job->first_split + job->splits;
	struct round round = {
		.begin = between(job->round_begin, job->first_split, end),
		.end = between(job->round_end, job->first_split, end),
	};

	round.skip_begin = between(job->shared_begin, round.begin, round.end);
	round.skip_end = between(job->shared_end, round.begin, round.end);
	return round;
}

void cpu_attention_round(struct cpu_attention_job *job, uint32_t begin, uint32_t end)
{
	struct round round;

	job->round_begin = begin;
	job->round_end = end;
	job->units[CPU_ATTENTION_ATTEND] = job->units[CPU_ATTENTION_MERGE] = 0;
	if (job->q_rows == 0)
		return;
	round = round_of(job);
	if (job->partial == NULL) {
		job->units[CPU_ATTENTION_ATTEND] = begin == 0 ? tile_count(job) : 0;
	} else if (round.begin < round.end) {
		job->units[CPU_ATTENTION_ATTEND] = tile_count(job) * (round.end - round.begin - (round.skip_end - round.skip_begin));
		job->units[CPU_ATTENTION_MERGE] = tile_count(job);
	}
}

size_t cpu_attention_plan(struct cpu_attention_job *job, uint32_t participants, void *partial, size_t partial_bytes)
{
	size_t taken = 0;

	cpu_attention_cut(job, participants);
	if (cpu_attention_wants_parts(job, participants) && partial != NULL &&
			partial_bytes / cpu_attention_part_bytes(job) >= job->splits) {
		job->partial = partial;
		job->part_slots = job->splits;
		taken = cpu_attention_part_bytes(job) * job->splits;
	}
	cpu_attention_round(job, 0, UINT32_MAX);
	return taken;
}

struct cpu_attention_tile cpu_attention_tile_at(const struct cpu_attention_job *job, uint32_t column, uint32_t first_row,
	uint32_t rows)
{
	const uint32_t group = job->kv->heads / job->kv->kv_heads;
	const uint32_t part_begin = column % job->head_parts * job->heads_per_unit;
	struct cpu_attention_tile tile = {
		.job = job,
		.kv_head = column / job->head_parts,
		.first_row = first_row,
		.rows = rows,
	};

	tile.first_head = tile.kv_head * group + part_begin;
	tile.heads = group - part_begin < job->heads_per_unit ? group - part_begin : job->heads_per_unit;
	tile.vectors = tile.rows * tile.heads;
	tile.kernels = cpu_attention_kernels_of(job, tile.vectors);
	return tile;
}

/* A tile as the job itself is cut. */
static struct cpu_attention_tile own_tile(const struct cpu_attention_job *job, uint32_t column, uint32_t chunk)
{
	const uint32_t first_row = chunk * job->rows_per_unit, left = job->q_rows - first_row;

	return cpu_attention_tile_at(job, column, first_row, left < job->rows_per_unit ? left : job->rows_per_unit);
}

static void append(const struct cpu_attention_job *job, uint32_t unit, float *scratch)
{
	const uint32_t part = unit % job->append_parts, block = job->kv_position / KERN_PAGE_TOKENS + part;
	uint32_t begin = 0, end = job->kv_rows;

	if (part > 0)
		begin = block * KERN_PAGE_TOKENS - job->kv_position;
	if (part < job->append_parts - 1)
		end = (block + 1) * KERN_PAGE_TOKENS - job->kv_position;
	cpu_attention_append(job, unit / job->append_parts, begin, end, scratch);
}

/* Goes on from the total of the rounds before, and leaves one for those to come. */
static void merge(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch)
{
	const struct cpu_attention_job *job = tile->job;
	const struct round round = round_of(job);
	const bool first = round.begin == job->first_split, last = round.end == job->first_split + job->splits;
	const uint32_t dim = job->kv->head_dim;

	for (uint32_t i = 0; i < tile->vectors; i++) {
		const struct cpu_attention_part total = cpu_attention_part_at(tile, i, job->part_slots - 1);
		float *o = scratch->total + (size_t)i * dim;

		scratch->total_state[i] = first ? (struct cpu_attention_state){ .max = -INFINITY, .sum = 0.0f } : *total.state;
		if (first)
			memset(o, 0, dim * sizeof(*o));
		else
			memcpy(o, total.o, dim * sizeof(*o));
		for (uint32_t split = round.begin; split < round.end; split++) {
			const struct cpu_attention_part part = cpu_attention_part(tile, i, split);

			tile->kernels->fold(&scratch->total_state[i], o, part.state, part.o, dim);
		}
		if (!last) {
			*total.state = scratch->total_state[i];
			memcpy(total.o, o, dim * sizeof(*o));
		}
	}
	if (last)
		cpu_attention_finish(tile, scratch->total_state, scratch->total);
}

/* Units of ATTEND that follow each other share a split's pages: chunk of rows fastest, then split. */
static void attend(const struct cpu_attention_job *job, uint32_t unit, struct cpu_attention_scratch *scratch)
{
	const struct round round = round_of(job);
	const uint32_t skipped = round.skip_end - round.skip_begin;
	const uint32_t splits = job->partial != NULL ? round.end - round.begin - skipped : 1, chunk = unit % job->row_chunks;
	const uint32_t column = unit / job->row_chunks / splits;
	const struct cpu_attention_tile tile = own_tile(job, column, chunk);
	uint32_t split = round.begin + unit / job->row_chunks % splits;

	if (split >= round.skip_begin)
		split += skipped;
	cpu_attention_attend(&tile, split, scratch);
}

void cpu_attention_run(const struct cpu_attention_job *job, enum cpu_attention_phase phase, uint32_t unit, void *memory)
{
	struct cpu_attention_scratch *scratch = memory;
	struct cpu_attention_tile tile;

	switch (phase) {
	case CPU_ATTENTION_APPEND:
		append(job, unit, scratch->o);
		break;
	case CPU_ATTENTION_ATTEND:
		attend(job, unit, scratch);
		break;
	case CPU_ATTENTION_MERGE:
		tile = own_tile(job, unit / job->row_chunks, unit % job->row_chunks);
		merge(&tile, scratch);
		break;
	case CPU_ATTENTION_PHASES:
		break;
	}
}
