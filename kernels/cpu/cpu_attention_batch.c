/*
 * Planning of jobs that run together, and the units in which they attend to what they share. See cpu_attention_batch.h.
 */
#include "kernels/cpu/cpu_attention_batch.h"

#include "kernels/cpu/cpu_attention_unit.h"

enum { SPLIT_PAGES = CPU_ATTENTION_SPLIT_TOKENS / KERN_PAGE_TOKENS };

static uint32_t divide_up(uint32_t a, uint32_t b)
{
	return a / b + (a % b != 0);
}

void cpu_attention_batch_cut(struct cpu_attention_batch *batch)
{
	batch->later_slice = false;
	for (uint32_t i = 0; i < batch->count; i++) {
		cpu_attention_slice(&batch->jobs[i]);
		cpu_attention_cut(&batch->jobs[i], batch->participants);
	}
}

bool cpu_attention_batch_seek(struct cpu_attention_batch *batch)
{
	return cpu_attention_share_begin(&batch->share, batch->jobs, batch->count);
}

/* ---- room and rounds ---------------------------------------------------------------------------------------------- */

/* A sliding window may cut the first splits that a job shares: these it attends to by itself. */
static void share_splits(struct cpu_attention_batch *batch)
{
	for (uint32_t i = 0; !batch->later_slice && i < batch->share.member_count; i++) {
		const struct cpu_attention_member *member = &batch->share.members[i];
		struct cpu_attention_job *job = &batch->jobs[member->job];
		const uint32_t begin = cpu_attention_visible(job, job->q_rows - 1).begin;

		job->shared_begin = divide_up(begin, CPU_ATTENTION_SPLIT_TOKENS);
		job->shared_end = member->shared_end;
		if (job->shared_begin >= job->shared_end)
			job->shared_begin = job->shared_end = 0;
	}
}

/* How many splits of all jobs fit at once; each job keeps its total beside them unless all do. */
static uint32_t splits_at_once(const struct cpu_attention_batch *batch)
{
	size_t left = batch->partial_bytes, each = 0;
	bool all = true;

	for (uint32_t i = 0; i < batch->count; i++) {
		const struct cpu_attention_job *job = &batch->jobs[i];
		size_t bytes;

		if (!cpu_attention_wants_parts(job, batch->participants))
			continue;
		bytes = cpu_attention_part_bytes(job);
		each += bytes;
		all = all && job->splits <= left / bytes;
		left -= all ? bytes * job->splits : 0;
	}
	if (all)
		return UINT32_MAX;
	return each < batch->partial_bytes / 2 ? (uint32_t)(batch->partial_bytes / each - 1) : 1;
}

/* Jobs for which there is no room go through all their splits by themselves. */
static void give_room(struct cpu_attention_batch *batch)
{
	unsigned char *at = batch->partial;
	size_t left = batch->partial_bytes;

	for (uint32_t i = 0; i < batch->count; i++) {
		struct cpu_attention_job *job = &batch->jobs[i];
		size_t bytes;

		if (!cpu_attention_wants_parts(job, batch->participants))
			continue;
		job->part_slots = job->splits < batch->round_splits ? job->splits : batch->round_splits;
		job->part_slots += batch->round_splits != UINT32_MAX;
		bytes = cpu_attention_part_bytes(job);
		if (left / bytes < job->part_slots) {
			job->shared_begin = job->shared_end = 0;
			continue;
		}
		job->partial = (float *)(void *)at;
		at += bytes * job->part_slots;
		left -= bytes * job->part_slots;
	}
}

/* Rows of a tile of several jobs: as many as a job's own tile could have, fewer where threads would be idle. */
static void cut_rows(const struct cpu_attention_batch *batch, const struct cpu_attention_job *job,
	struct cpu_attention_together *together)
{
	const uint32_t columns = job->kv->kv_heads * job->head_parts * together->splits;
	uint32_t chunk_rows = cpu_attention_tile_rows(job);

	chunk_rows = chunk_rows < together->rows ? chunk_rows : together->rows;
	while (chunk_rows > 1 && columns * divide_up(together->rows, chunk_rows) < batch->participants)
		chunk_rows = divide_up(chunk_rows, 2);
	together->chunks = divide_up(together->rows, chunk_rows);
	together->chunk_rows = divide_up(together->rows, together->chunks);
}

/* What the groups have to do in splits begin <= split < end, of which no job shares any before `least`. */
static void plan_groups(struct cpu_attention_batch *batch, uint32_t begin, uint32_t end)
{
	const struct cpu_attention_share *share = &batch->share;
	uint32_t units = 0, least = UINT32_MAX;

	batch->shared_units = 0;
	if (batch->later_slice)
		return;
	for (uint32_t i = 0; i < share->member_count; i++) {
		const struct cpu_attention_job *job = &batch->jobs[share->members[i].job];

		if (job->shared_begin < job->shared_end && job->shared_begin < least)
			least = job->shared_begin;
	}
	begin = begin > least ? begin : least;
	for (uint32_t i = 0; i < share->group_count; i++) {
		const struct cpu_attention_group *group = &share->groups[i];
		const struct cpu_attention_member *first = &share->members[group->first];
		const struct cpu_attention_job *job = &batch->jobs[first->job];
		const uint32_t last = group->end < end ? group->end : end;
		struct cpu_attention_together *together = &batch->together[i];

		*together = (struct cpu_attention_together){ .first_unit = units, .begin = group->begin > begin ? group->begin : begin,
			.rows = first[group->count].rows_before - first->rows_before };
		if (together->begin >= last)
			continue;
		together->splits = last - together->begin;
		cut_rows(batch, job, together);
		units += together->chunks * together->splits * job->kv->kv_heads * job->head_parts;
		batch->page_visits += (uint64_t)together->chunks * together->splits * job->kv->kv_heads * job->head_parts * SPLIT_PAGES;
	}
	batch->shared_units = units;
}

/* Begins the round of splits begin <= split < end. */
static void begin_round(struct cpu_attention_batch *batch, uint32_t begin, uint32_t end)
{
	batch->round_end = end;
	for (uint32_t i = 0; i < batch->count; i++)
		cpu_attention_round(&batch->jobs[i], begin, end);
	plan_groups(batch, begin, end);
}

/* The first split of any job, at `from` or behind it, that is still to be attended to in a round; UINT32_MAX: none. */
static uint32_t next_split(const struct cpu_attention_batch *batch, uint32_t from)
{
	uint32_t next = UINT32_MAX;

	for (uint32_t i = 0; i < batch->count; i++) {
		const struct cpu_attention_job *job = &batch->jobs[i];
		const uint32_t begin = job->first_split > from ? job->first_split : from;

		if (job->partial != NULL && begin < job->first_split + job->splits && begin < next)
			next = begin;
	}
	return next;
}

/* A round has so many splits from the first one on that any job needs. */
static uint32_t round_end(const struct cpu_attention_batch *batch, uint32_t first)
{
	return batch->round_splits < UINT32_MAX - first ? first + batch->round_splits : UINT32_MAX;
}

void cpu_attention_batch_plan(struct cpu_attention_batch *batch)
{
	share_splits(batch);
	batch->round_splits = splits_at_once(batch);
	give_room(batch);
	batch->page_visits = 0;
	for (uint32_t i = 0; i < batch->count; i++)
		batch->page_visits += cpu_attention_page_visits(&batch->jobs[i]);
	begin_round(batch, 0, round_end(batch, next_split(batch, 0)));
}

bool cpu_attention_batch_next_round(struct cpu_attention_batch *batch)
{
	const uint32_t next = next_split(batch, batch->round_end);

	if (batch->round_end == UINT32_MAX || next == UINT32_MAX)
		return false;
	begin_round(batch, next, round_end(batch, next));
	return true;
}

bool cpu_attention_batch_next_slice(struct cpu_attention_batch *batch)
{
	bool more = false;

	for (uint32_t i = 0; i < batch->count; i++) {
		more |= cpu_attention_slice_next(&batch->jobs[i]);
		cpu_attention_cut(&batch->jobs[i], batch->participants);
	}
	batch->later_slice = true;
	if (more)
		cpu_attention_batch_plan(batch);
	return more;
}

/* ---- phases and units --------------------------------------------------------------------------------------------- */

uint32_t cpu_attention_batch_phase(struct cpu_attention_batch *batch, enum cpu_attention_phase phase)
{
	uint32_t units = phase == CPU_ATTENTION_ATTEND ? batch->shared_units : 0;

	batch->phase = phase;
	for (uint32_t i = 0; i < batch->count; i++) {
		batch->first_unit[i] = units;
		units += batch->jobs[i].units[phase];
	}
	batch->first_unit[batch->count] = units;
	return units;
}

/* The last of `count` groups whose first unit is not behind this one; those without units have the next one's. */
static uint32_t group_of(const struct cpu_attention_batch *batch, uint32_t unit)
{
	uint32_t low = 0, high = batch->share.group_count;

	while (high - low > 1) {
		const uint32_t middle = low + (high - low) / 2;

		if (batch->together[middle].first_unit <= unit)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static uint32_t job_of(const struct cpu_attention_batch *batch, uint32_t unit)
{
	uint32_t low = 0, high = batch->count;

	while (high - low > 1) {
		const uint32_t middle = low + (high - low) / 2;

		if (batch->first_unit[middle] <= unit)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* The member whose rows hold this one; rows are counted over all members. */
static const struct cpu_attention_member *member_of(const struct cpu_attention_batch *batch,
	const struct cpu_attention_group *group, uint32_t row)
{
	const struct cpu_attention_member *low = &batch->share.members[group->first], *high = low + group->count;

	while (high - low > 1) {
		const struct cpu_attention_member *middle = low + (high - low) / 2;

		if (middle->rows_before <= row)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static bool takes_part(const struct cpu_attention_job *job, uint32_t split)
{
	return split >= job->shared_begin && split < job->shared_end;
}

/* Units that follow each other share a split's pages: chunk of rows fastest, then split. */
static void attend_together(const struct cpu_attention_batch *batch, uint32_t unit, struct cpu_attention_scratch *scratch)
{
	const uint32_t g = group_of(batch, unit);
	const struct cpu_attention_group *group = &batch->share.groups[g];
	const struct cpu_attention_together *together = &batch->together[g];
	const uint32_t index = unit - together->first_unit, chunk = index % together->chunks;
	const uint32_t split = together->begin + index / together->chunks % together->splits;
	const uint32_t column = index / together->chunks / together->splits;
	const uint32_t before = batch->share.members[group->first].rows_before;
	uint32_t row = before + chunk * together->chunk_rows, end = row + together->chunk_rows, count = 0;
	const struct cpu_attention_member *member = member_of(batch, group, row);
	struct cpu_attention_tile tiles[CPU_ATTENTION_VECTORS];

	end = end < before + together->rows ? end : before + together->rows;
	for (; row < end; row = member[1].rows_before, member++) {
		const struct cpu_attention_job *job = &batch->jobs[member->job];
		const uint32_t rows = (member[1].rows_before < end ? member[1].rows_before : end) - row;

		if (takes_part(job, split))
			tiles[count++] = cpu_attention_tile_at(job, column, row - member->rows_before, rows);
	}
	if (count > 0)
		cpu_attention_attend_together(tiles, count, split, scratch);
}

void cpu_attention_batch_run(const struct cpu_attention_batch *batch, uint32_t unit, void *scratch)
{
	uint32_t i;

	if (batch->phase == CPU_ATTENTION_ATTEND && unit < batch->shared_units) {
		attend_together(batch, unit, scratch);
		return;
	}
	i = job_of(batch, unit);
	cpu_attention_run(&batch->jobs[i], batch->phase, unit - batch->first_unit[i], scratch);
}
