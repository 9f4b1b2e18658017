/*
 * The tree of shared blocks: candidates go down from its root one after the other and leave a branch of their own where
 * their blocks differ from all that came before them; then a walk puts those below a node side by side.
 */
#include "kernels/cpu/cpu_attention_share.h"

#include <string.h>

#include "kernels/cpu/cpu_attention_unit.h"

enum { SPLIT_BLOCKS = CPU_ATTENTION_SPLIT_TOKENS / KERN_PAGE_TOKENS, ROOT = 0, NONE = UINT16_MAX };

/* Splits compared and places of the table looked at, a cache line each, in a slice. */
enum { SLICE_LINES = 1024 };

/* Query vectors that a job of several rows has for a part of a KV head's heads. At 32 of 128 channels sharing cost more than it saved,
 * with and without AMX. */
enum { SHARER_VECTORS = 16 };

_Static_assert((int)CPU_ATTENTION_SHARE_NODES < (int)NONE, "nodes have numbers of 16 bits");

/* Splits from 0 on that every row of the job sees to their end, and that have no low halves any more. */
static uint32_t whole_splits(const struct cpu_attention_job *job)
{
	const uint32_t seen = cpu_attention_visible(job, 0).end / KERN_PAGE_TOKENS;
	uint32_t pages = kern_kv_filled(job->kv_position + job->kv_rows);

	if (kern_kv_has_low(job->kv))
		pages = pages > KERN_KV_AHEAD ? pages - KERN_KV_AHEAD : 0;
	return (pages < seen ? pages : seen) / SPLIT_BLOCKS;
}

/* A job of several rows with more vectors has as much to compute for a page as to read, and parts to write: it goes alone. */
static bool may_share(const struct cpu_attention_job *job)
{
	return job->q_rows > 0 && (job->q_rows == 1 || job->q_rows <= SHARER_VECTORS / job->heads_per_unit) &&
		whole_splits(job) > 0;
}

bool cpu_attention_share_begin(struct cpu_attention_share *share, const struct cpu_attention_job *jobs, uint32_t count)
{
	share->jobs = jobs;
	share->group_count = share->member_count = share->candidate_count = 0;
	for (uint32_t i = 0; i < count && share->candidate_count < CPU_ATTENTION_SHARERS; i++) {
		if (!may_share(&jobs[i]))
			continue;
		share->candidates[share->candidate_count].job = i;
		share->candidates[share->candidate_count++].splits = whole_splits(&jobs[i]);
	}
	if (share->candidate_count < 2)
		return false;
	memset(share->table, 0, sizeof(share->table));
	share->nodes[ROOT] = (struct cpu_attention_share_node){ .parent = NONE };
	share->node_count = 1;
	share->at_hand = share->at = 0;
	share->node = ROOT;
	share->edge = NONE;
	return true;
}

/* ---- going down --------------------------------------------------------------------------------------------------- */

static const struct cpu_attention_job *job_of(const struct cpu_attention_share *share, uint32_t candidate)
{
	return &share->jobs[share->candidates[candidate].job];
}

static unsigned char *const *blocks_of(const struct cpu_attention_share *share, uint32_t candidate, uint32_t split)
{
	return job_of(share, candidate)->blocks + (size_t)split * SPLIT_BLOCKS;
}

static bool same_blocks(const struct cpu_attention_share *share, uint32_t a, uint32_t b, uint32_t split)
{
	return memcmp(blocks_of(share, a, split), blocks_of(share, b, split), SPLIT_BLOCKS * sizeof(unsigned char *)) == 0;
}

/* Whether their vectors may lie in one tile: same code, pages laid out alike, the same way from products to weights. */
static bool alike(const struct cpu_attention_job *a, const struct cpu_attention_job *b)
{
	const struct kern_kv_geometry *x = a->kv, *y = b->kv;

	return (x == y || (x->k == y->k && x->v == y->v && x->heads == y->heads && x->kv_heads == y->kv_heads &&
		x->head_dim == y->head_dim)) && a->isa == b->isa && a->amx == b->amx && a->layer == b->layer &&
		memcmp(&a->scale, &b->scale, sizeof(a->scale)) == 0 && memcmp(&a->soft_cap, &b->soft_cap, sizeof(a->soft_cap)) == 0;
}

/* Where the search for a node begins that follows `parent` and whose blocks are the candidate's. The last block of a split says
 * most: lists that differ anywhere before nearly always differ there. */
static uint32_t first_slot(const struct cpu_attention_share *share, uint32_t parent, uint32_t candidate, uint32_t split)
{
	const uint64_t key = (uint64_t)(uintptr_t)blocks_of(share, candidate, split)[SPLIT_BLOCKS - 1] + parent;

	return (uint32_t)(key * 0x9e3779b97f4a7c15u >> 40) % CPU_ATTENTION_SHARE_TABLE;
}

/* A node that would take the candidate at hand further, as its first split's last block has it; NONE: there is none. */
static uint32_t find_edge(struct cpu_attention_share *share, uint32_t *lines)
{
	const unsigned char *last = blocks_of(share, share->at_hand, share->at)[SPLIT_BLOCKS - 1];
	uint32_t slot = first_slot(share, share->node, share->at_hand, share->at), i;

	for (; (i = share->table[slot]) != 0; slot = (slot + 1) % CPU_ATTENTION_SHARE_TABLE) {
		const struct cpu_attention_share_node *node = &share->nodes[i];

		++*lines;
		if (node->parent == share->node && blocks_of(share, node->candidate, node->begin)[SPLIT_BLOCKS - 1] == last &&
				(share->node != ROOT || alike(job_of(share, share->at_hand), job_of(share, node->candidate)))) {
			share->slot = slot;
			return i;
		}
	}
	return NONE;
}

static void insert(struct cpu_attention_share *share, uint32_t i)
{
	const struct cpu_attention_share_node *node = &share->nodes[i];
	uint32_t slot = first_slot(share, node->parent, node->candidate, node->begin);

	while (share->table[slot] != 0)
		slot = (slot + 1) % CPU_ATTENTION_SHARE_TABLE;
	share->table[slot] = (uint16_t)i;
}

static uint32_t new_node(struct cpu_attention_share *share, uint32_t parent, uint32_t begin, uint32_t end, uint32_t candidate)
{
	share->nodes[share->node_count] = (struct cpu_attention_share_node){
		.parent = parent, .begin = begin, .end = end, .candidate = candidate };
	return share->node_count++;
}

/* Cuts the edge in two where the candidate has got to; returns the upper part. The lower one keeps its number, since nodes
 * below and candidates that ended there know it. */
static uint32_t cut_edge(struct cpu_attention_share *share)
{
	struct cpu_attention_share_node *lower = &share->nodes[share->edge];
	const uint32_t upper = new_node(share, lower->parent, lower->begin, share->at, lower->candidate);

	share->table[share->slot] = (uint16_t)upper;
	lower->parent = upper;
	lower->begin = share->at;
	insert(share, share->edge);
	return upper;
}

/* Takes the candidate at hand a piece further. True: it ends at share->node. */
static bool go_down(struct cpu_attention_share *share, uint32_t *lines)
{
	const uint32_t splits = share->candidates[share->at_hand].splits;
	struct cpu_attention_share_node *edge;

	if (share->edge == NONE && share->at == splits)
		return true;
	if (share->edge == NONE && (share->edge = find_edge(share, lines)) == NONE) {
		share->node = new_node(share, share->node, share->at, splits, share->at_hand);
		insert(share, share->node);
		return true;
	}
	edge = &share->nodes[share->edge];
	while (share->at < edge->end && share->at < splits && *lines < SLICE_LINES) {
		++*lines;
		if (!same_blocks(share, share->at_hand, edge->candidate, share->at))
			break;
		share->at++;
	}
	if (*lines >= SLICE_LINES)
		return false;
	/* Other blocks before the same last one: it shares nothing from here on, or the tree would have two edges of one key. */
	if (share->at == edge->begin)
		return true;
	share->node = share->at < edge->end ? cut_edge(share) : share->edge;
	share->edge = NONE;
	return false;
}

/* ---- the result --------------------------------------------------------------------------------------------------- */

static void link_nodes(struct cpu_attention_share *share)
{
	for (uint32_t i = 0; i < share->node_count; i++)
		share->nodes[i].child = share->nodes[i].sibling = share->nodes[i].ended = NONE;
	for (uint32_t i = 1; i < share->node_count; i++) {
		struct cpu_attention_share_node *parent = &share->nodes[share->nodes[i].parent];

		share->nodes[i].sibling = parent->child;
		parent->child = i;
	}
	for (uint32_t i = 0; i < share->candidate_count; i++) {
		struct cpu_attention_share_node *node = &share->nodes[share->candidates[i].node];

		share->candidates[i].next = node->ended;
		node->ended = i;
	}
}

/* A node is entered before those below it: the members that end there come first. */
static void enter(struct cpu_attention_share *share, uint32_t i)
{
	struct cpu_attention_share_node *node = &share->nodes[i];

	node->first = share->member_count;
	for (uint32_t c = node->ended; c != NONE; c = share->candidates[c].next)
		share->members[share->member_count++] = (struct cpu_attention_member){ .job = share->candidates[c].job, .shared_end = i };
}

static void leave(struct cpu_attention_share *share, uint32_t i)
{
	struct cpu_attention_share_node *node = &share->nodes[i];

	node->count = share->member_count - node->first;
	if (i != ROOT && node->count > 1)
		share->groups[share->group_count++] = (struct cpu_attention_group){ node->first, node->count, node->begin, node->end };
}

static void walk(struct cpu_attention_share *share)
{
	uint32_t i = ROOT;

	enter(share, i);
	for (;;) {
		if (share->nodes[i].child != NONE) {
			i = share->nodes[i].child;
			enter(share, i);
			continue;
		}
		leave(share, i);
		while (i != ROOT && share->nodes[i].sibling == NONE) {
			i = share->nodes[i].parent;
			leave(share, i);
		}
		if (i == ROOT)
			return;
		i = share->nodes[i].sibling;
		enter(share, i);
	}
}

/* A branch of one job alone is not shared, but what is above it is: nodes above have two members at least. */
static void measure_members(struct cpu_attention_share *share)
{
	uint32_t rows = 0;

	for (uint32_t i = 0; i < share->member_count; i++) {
		struct cpu_attention_member *member = &share->members[i];
		const struct cpu_attention_share_node *node = &share->nodes[member->shared_end];

		member->shared_end = node->count > 1 ? node->end : node->begin;
		member->rows_before = rows;
		rows += share->jobs[member->job].q_rows;
	}
	share->members[share->member_count].rows_before = rows;
}

bool cpu_attention_share_advance(struct cpu_attention_share *share)
{
	uint32_t lines = 0;

	while (share->at_hand < share->candidate_count) {
		while (!go_down(share, &lines))
			if (lines >= SLICE_LINES)
				return false;
		share->candidates[share->at_hand++].node = share->node;
		share->node = ROOT;
		share->edge = NONE;
		share->at = 0;
	}
	link_nodes(share);
	walk(share);
	measure_members(share);
	return true;
}
