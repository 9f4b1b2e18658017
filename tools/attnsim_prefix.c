/*
 * Prompts that begin alike. See attnsim_prefix.h.
 *
 * The best possible is Belady's: evict what is wanted last. A page's predecessors are wanted whenever it is, so what is wanted
 * last, the deepest of a chain first, is always the end of one, and no page loses its beginning; a page that is wanted
 * later than all that are there is not taken in.
 */
#include "tools/attnsim_prefix.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "sched/sched_prefix.h"

const char *const attnsim_prefixes[] = { "ours", "lru", "none", NULL };

enum { PAGES_PER_BLOCK = ATTNSIM_BLOCK_TOKENS / KERN_PAGE_TOKENS };

void attnsim_prefix_tokens(const struct attnsim_trace *trace, size_t index, uint32_t tenant, uint32_t *tokens)
{
	const struct attnsim_request *request = &trace->requests[index];

	for (uint32_t i = 0; i < request->prompt; i++) {
		const uint32_t block = i / ATTNSIM_BLOCK_TOKENS;
		const uint64_t text = block < request->hash_count ? base_mix64(trace->hashes[request->hash_first + block])
								  : ~base_mix64(index + 1);

		tokens[i] = tenant + 16 * (uint32_t)(base_mix64(text + i) & 3);
	}
}

/* ---- the scheduler's cache alone -------------------------------------------------------------- */

static uint32_t named_pages(const struct attnsim_request *request)
{
	const uint32_t named = request->hash_count * PAGES_PER_BLOCK, full = request->prompt / KERN_PAGE_TOKENS;

	return named < full ? named : full;
}

/* A request comes and goes before the next one. Pages found. */
static uint32_t visit(struct sched_prefix *prefix, const uint32_t *tokens, uint32_t pages)
{
	static unsigned char nothing;
	const struct sched_prefix_space space = { 0 };
	const struct sched_prefix_found found = sched_prefix_find(prefix, space, tokens, pages, false);
	uint32_t node = found.node;

	sched_prefix_hold(prefix, node);
	for (uint32_t p = found.pages; p < pages; p++) {
		const struct sched_prefix_page page = {
			.tokens = tokens + (size_t)p * KERN_PAGE_TOKENS, .block = &nothing, .bytes = 1, .worth = 1.0
		};
		struct sched_prefix_evicted evicted;
		bool is_new;
		uint32_t next = sched_prefix_add(prefix, space, node, &page, &is_new);

		if (next == SCHED_PREFIX_NONE && sched_prefix_evict(prefix, 1, &evicted))
			next = sched_prefix_add(prefix, space, node, &page, &is_new);
		if (next == SCHED_PREFIX_NONE)
			break;
		node = next;
	}
	sched_prefix_drop(prefix, node, 0, 2 * found.pages > pages);
	return found.pages;
}

static int found_by(const struct attnsim_trace *trace, uint64_t pages, bool least_recent, uint64_t *found)
{
	const struct sched_prefix_tenant tenant = { .weight = 1 };
	const struct sched_prefix_options options = { .pages_max = (uint32_t)pages,
		.share_bytes = pages,
		.tenants = &tenant,
		.tenant_count = 1,
		.key = { 1, 2 },
		.least_recent = least_recent };
	uint32_t *tokens = malloc(sizeof(*tokens) * ATTNSIM_TOKENS_MAX);
	struct sched_prefix *prefix = NULL;
	int rc = tokens ? sched_prefix_create(&prefix, &options) : base_fail(ENOMEM, "no memory for a prompt");

	*found = 0;
	for (size_t r = 0; rc == 0 && r < trace->count; r++) {
		attnsim_prefix_tokens(trace, r, 0, tokens);
		*found += visit(prefix, tokens, named_pages(&trace->requests[r]));
	}
	sched_prefix_destroy(prefix);
	free(tokens);
	return rc;
}

/* ---- the best that is possible ---------------------------------------------------------------- */

/* A page of one request, in the order of the trace; pages are known by name and number. */
struct use {
	uint64_t name;
	uint32_t page, request; /* page: of the prompt */
	size_t place;
	uint32_t next;  /* request that wants it next; UINT32_MAX: none */
	uint32_t which; /* the page's number among all */
};

static int by_page(const void *left, const void *right)
{
	const struct use *a = left, *b = right;

	if (a->name != b->name)
		return a->name < b->name ? -1 : 1;
	if (a->page != b->page)
		return a->page < b->page ? -1 : 1;
	return (a->place > b->place) - (a->place < b->place);
}

static int by_place(const void *left, const void *right)
{
	const struct use *a = left, *b = right;

	return (a->place > b->place) - (a->place < b->place);
}

static size_t list_uses(const struct attnsim_trace *trace, struct use *uses)
{
	size_t count = 0;

	for (size_t r = 0; r < trace->count; r++) {
		const struct attnsim_request *request = &trace->requests[r];

		for (uint32_t p = 0; p < named_pages(request); p++, count++)
			if (uses)
				uses[count] = (struct use){ .name = trace->hashes[request->hash_first + p / PAGES_PER_BLOCK],
					.page = p,
					.request = (uint32_t)r,
					.place = count,
					.next = UINT32_MAX };
	}
	return count;
}

/* Says of each use when its page is wanted next; returns the number of pages. */
static uint32_t find_next(struct use *uses, size_t count)
{
	uint32_t which = 0;

	qsort(uses, count, sizeof(*uses), by_page);
	for (size_t i = 0; i < count; i++) {
		const bool same = i > 0 && uses[i].name == uses[i - 1].name && uses[i].page == uses[i - 1].page;

		which += i > 0 && !same;
		uses[i].which = which;
		if (same)
			uses[i - 1].next = uses[i].request;
	}
	qsort(uses, count, sizeof(*uses), by_place);
	return which + 1;
}

/* What is wanted last on top; an entry that its page has outlived is passed over. */
struct entry {
	uint32_t next, page, which;
};

struct best {
	struct entry *heap;
	size_t count;
	uint32_t *next; /* of each page that is there; 0: it is not (no page is wanted next by the first request) */
	uint64_t there;
};

static bool sooner(struct entry a, struct entry b)
{
	return a.next != b.next ? a.next < b.next : a.page < b.page;
}

static void push(struct best *best, struct entry entry)
{
	size_t at = best->count++;

	for (; at > 0 && sooner(best->heap[(at - 1) / 2], entry); at = (at - 1) / 2)
		best->heap[at] = best->heap[(at - 1) / 2];
	best->heap[at] = entry;
}

static struct entry pop(struct best *best)
{
	const struct entry top = best->heap[0], last = best->heap[--best->count];
	size_t at = 0;

	for (size_t child = 1; child < best->count; child = 2 * at + 1) {
		if (child + 1 < best->count && sooner(best->heap[child], best->heap[child + 1]))
			child++;
		if (!sooner(last, best->heap[child]))
			break;
		best->heap[at] = best->heap[child];
		at = child;
	}
	best->heap[at] = last;
	return top;
}

static uint64_t walk(struct best *best, const struct use *uses, size_t count, uint64_t pages)
{
	uint64_t found = 0;

	for (size_t i = 0; i < count; i++) {
		const struct use *use = &uses[i];

		if (best->next[use->which]) {
			found++;
			best->there--;
			best->next[use->which] = 0;
		}
		if (use->next == UINT32_MAX)
			continue;
		push(best, (struct entry){ use->next, use->page, use->which });
		best->next[use->which] = use->next;
		best->there++;
		while (best->there > pages) {
			const struct entry entry = pop(best);

			if (best->next[entry.which] != entry.next)
				continue;
			best->next[entry.which] = 0;
			best->there--;
		}
	}
	return found;
}

static int found_at_best(const struct attnsim_trace *trace, uint64_t pages, uint64_t *found, uint64_t *again, uint64_t *all)
{
	const size_t count = list_uses(trace, NULL);
	struct use *uses = malloc(sizeof(*uses) * (count + 1));
	struct best best = { .heap = malloc(sizeof(*best.heap) * (count + 1)) };
	uint32_t different;

	*found = *again = *all = 0;
	if (uses && best.heap && count > 0) {
		list_uses(trace, uses);
		different = find_next(uses, count);
		best.next = calloc(different, sizeof(*best.next));
		*all = count;
		*again = count - different;
		if (best.next)
			*found = walk(&best, uses, count, pages);
	}
	if (!uses || !best.heap || (count > 0 && !best.next))
		*all = UINT64_MAX;
	free(best.next);
	free(best.heap);
	free(uses);
	return *all == UINT64_MAX ? base_fail(ENOMEM, "no memory for %zu pages of prompts", count) : 0;
}

int attnsim_prefix_rates(const struct attnsim_trace *trace, uint64_t pages, struct attnsim_prefix_rates *rates)
{
	uint64_t best, again, all, ours, lru;
	int rc;

	if (pages > SCHED_PREFIX_PAGES_MAX)
		pages = SCHED_PREFIX_PAGES_MAX;
	*rates = (struct attnsim_prefix_rates){ .pages = pages };
	rc = found_at_best(trace, pages, &best, &again, &all);
	if (rc < 0 || all == 0)
		return rc;
	rc = found_by(trace, pages, false, &ours);
	if (rc == 0)
		rc = found_by(trace, pages, true, &lru);
	if (rc == 0)
		*rates = (struct attnsim_prefix_rates){ pages, (double)ours / (double)all, (double)lru / (double)all,
			(double)best / (double)all, (double)again / (double)all };
	return rc;
}
