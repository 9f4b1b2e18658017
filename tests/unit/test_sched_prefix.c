/*
 * The prefix cache alone: chains, spaces, collisions, holders, what is evicted and what is not, and a random walk beside a
 * naive model that keeps every chain as a list of tokens.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "sched/sched_prefix_internal.h"

enum { T = KERN_PAGE_TOKENS, BYTES = 4096, PAGES = 64 };

static struct sched_prefix *prefix;
static unsigned char blocks[1 << 16]; /* addresses, never written */
static uint32_t next_block;

static const struct sched_prefix_tenant TENANTS[4] = { { 1, 0 }, { 1, 1 }, { 2, 2 }, { 1, 2 } };
static const struct sched_prefix_space MINE = { .tenant = 0, .model = 0, .k = KERN_KV_INT8, .v = KERN_KV_INT8 };

static void start(uint32_t pages_max, bool least_recent)
{
	const struct sched_prefix_options options = { .pages_max = pages_max,
		.share_bytes = (uint64_t)pages_max * BYTES,
		.tenants = TENANTS,
		.tenant_count = 4,
		.key = { 17, 4 },
		.least_recent = least_recent };

	assert_int_equal(sched_prefix_create(&prefix, &options), 0);
	next_block = 0;
}

static void stop(void)
{
	assert_int_equal(sched_prefix_check(prefix), 0);
	sched_prefix_destroy(prefix);
}

/* Page p of text `name`: every page differs from every other. */
static void page_tokens(uint32_t *tokens, uint32_t name, uint32_t p)
{
	for (uint32_t i = 0; i < T; i++)
		tokens[i] = (uint32_t)base_mix64((uint64_t)name << 32 | p * T | i) % 50000;
}

static void text(uint32_t *tokens, uint32_t name, uint32_t pages)
{
	for (uint32_t p = 0; p < pages; p++)
		page_tokens(tokens + p * T, name, p);
}

static uint32_t add_sized(struct sched_prefix_space space, uint32_t parent, const uint32_t *tokens, uint64_t bytes, bool *is_new)
{
	const struct sched_prefix_page page = { .tokens = tokens,
		.block = &blocks[next_block++ % sizeof(blocks)],
		.bytes = bytes,
		.worth = 1.0 };

	return sched_prefix_add(prefix, space, parent, &page, is_new);
}

/* Pages from..to of a text, below `parent`; the last one's node. */
static uint32_t add(struct sched_prefix_space space, uint32_t parent, const uint32_t *tokens, uint32_t from, uint32_t to)
{
	bool is_new;

	for (uint32_t p = from; p < to; p++) {
		parent = add_sized(space, parent, tokens + p * T, BYTES, &is_new);
		assert_int_not_equal(parent, SCHED_PREFIX_NONE);
	}
	return parent;
}

static uint32_t known(struct sched_prefix_space space, const uint32_t *tokens, uint32_t pages)
{
	return sched_prefix_find(prefix, space, tokens, pages, false).pages;
}

static bool evict(struct sched_prefix_evicted *evicted)
{
	return sched_prefix_evict(prefix, BYTES, evicted);
}

/* ---- single cases --------------------------------------------------------------------- */

static void wrong_options(void **state)
{
	struct sched_prefix_options options = { .pages_max = 1, .tenants = TENANTS, .tenant_count = 4 };
	const struct sched_prefix_tenant weightless = { 0, 0 }, stray = { 1, 1 };

	(void)state;
	options.pages_max = 0;
	assert_int_equal(sched_prefix_create(&prefix, &options), -EINVAL);
	options.pages_max = SCHED_PREFIX_PAGES_MAX + 1;
	assert_int_equal(sched_prefix_create(&prefix, &options), -EINVAL);
	options.pages_max = 1;
	options.tenant_count = 1;
	options.tenants = &weightless;
	assert_int_equal(sched_prefix_create(&prefix, &options), -EINVAL);
	options.tenants = &stray;
	assert_int_equal(sched_prefix_create(&prefix, &options), -EINVAL);
}

static void the_longest_chain_is_found(void **state)
{
	static uint32_t a[5 * T], b[5 * T];
	uint32_t node;

	(void)state;
	start(PAGES, false);
	text(a, 1, 5);
	text(b, 1, 5);
	page_tokens(b + 3 * T, 2, 3); /* b leaves a at page 3, and its page 4 is a's */
	assert_int_equal(known(MINE, a, 5), 0);
	node = add(MINE, SCHED_PREFIX_NONE, a, 0, 5);
	assert_int_equal(sched_prefix_pages(prefix, node), 5);
	assert_int_equal(known(MINE, a, 5), 5);
	assert_int_equal(known(MINE, a, 2), 2);
	assert_int_equal(known(MINE, b, 5), 3);
	b[3 * T - 1] ^= 1;
	assert_int_equal(known(MINE, b, 5), 2);
	/* A page is a page of its chain: the same tokens elsewhere are another one. */
	assert_int_equal(known(MINE, a + T, 4), 0);
	sched_prefix_drop(prefix, node, 0, false);
	assert_int_equal(known(MINE, a, 5), 5);
	stop();
}

static void spaces_do_not_meet(void **state)
{
	static uint32_t a[3 * T];
	struct sched_prefix_space other = MINE;

	(void)state;
	for (int collide = 0; collide < 2; collide++) {
		start(PAGES, false);
		if (collide)
			sched_prefix_collide(prefix);
		text(a, 1, 3);
		add(MINE, SCHED_PREFIX_NONE, a, 0, 3);
		other = MINE;
		other.tenant = 1;
		assert_int_equal(known(other, a, 3), 0);
		other = MINE;
		other.model = 1;
		assert_int_equal(known(other, a, 3), 0);
		other = MINE;
		other.k = KERN_KV_INT4;
		assert_int_equal(known(other, a, 3), 0);
		other = MINE;
		other.v = KERN_KV_INT4;
		assert_int_equal(known(other, a, 3), 0);
		/* Tenants 2 and 3 are one group. */
		other = MINE;
		other.tenant = 2;
		add(other, SCHED_PREFIX_NONE, a, 0, 2);
		other.tenant = 3;
		assert_int_equal(known(other, a, 3), 2);
		stop();
	}
}

static void collisions_hand_over_nothing(void **state)
{
	static uint32_t texts[8][4 * T];
	uint32_t nodes[8];

	(void)state;
	start(PAGES, false);
	sched_prefix_collide(prefix);
	for (uint32_t i = 0; i < 8; i++) {
		text(texts[i], i / 2, 4);
		if (i % 2)
			texts[i][2 * T + 5] ^= 1; /* differs in one token of page 2 */
		nodes[i] = add(MINE, SCHED_PREFIX_NONE, texts[i], 0, 4);
	}
	for (uint32_t i = 0; i < 8; i++) {
		struct sched_prefix_found found = sched_prefix_find(prefix, MINE, texts[i], 4, false);

		assert_int_equal(found.pages, 4);
		assert_int_equal(found.node, nodes[i]);
	}
	assert_int_equal(sched_prefix_counters(prefix)->pages, 4 * (2 + 4));
	stop();
}

static void added_twice_is_there_once(void **state)
{
	static uint32_t a[2 * T];
	struct sched_prefix_evicted evicted;
	uint32_t first, second;
	bool is_new;

	(void)state;
	start(PAGES, false);
	text(a, 1, 2);
	first = add_sized(MINE, SCHED_PREFIX_NONE, a, BYTES, &is_new);
	assert_true(is_new);
	second = add_sized(MINE, SCHED_PREFIX_NONE, a, BYTES, &is_new);
	assert_false(is_new);
	assert_int_equal(first, second);
	assert_ptr_equal(sched_prefix_block(prefix, second), &blocks[0]);
	/* Two hold it: it goes when both have left. */
	assert_int_equal(sched_prefix_drop(prefix, first, 0, false), SCHED_PREFIX_NONE);
	assert_false(evict(&evicted));
	sched_prefix_drop(prefix, second, 0, false);
	assert_true(evict(&evicted));
	assert_ptr_equal(evicted.block, &blocks[0]);
	assert_false(evict(&evicted));
	stop();
}

static void pages_go_from_the_end(void **state)
{
	static uint32_t a[4 * T];
	struct sched_prefix_evicted evicted;
	uint32_t node;

	(void)state;
	start(PAGES, false);
	text(a, 1, 4);
	node = add(MINE, SCHED_PREFIX_NONE, a, 0, 4);
	node = sched_prefix_drop(prefix, node, 2, false);
	assert_int_equal(sched_prefix_pages(prefix, node), 2);
	for (uint32_t left = 3; left >= 2; left--) {
		assert_true(evict(&evicted));
		assert_ptr_equal(evicted.block, &blocks[left]);
		assert_int_equal(known(MINE, a, 4), left);
	}
	assert_false(evict(&evicted)); /* the rest is held */
	stop();
}

static void a_full_cache_takes_no_more(void **state)
{
	static uint32_t a[3 * T];
	struct sched_prefix_evicted evicted;
	uint32_t node;
	bool is_new;

	(void)state;
	start(2, false);
	text(a, 1, 3);
	node = add(MINE, SCHED_PREFIX_NONE, a, 0, 2);
	assert_int_equal(add_sized(MINE, node, a + 2 * T, BYTES, &is_new), SCHED_PREFIX_NONE);
	sched_prefix_drop(prefix, node, 1, false);
	assert_true(evict(&evicted));
	assert_int_not_equal(add_sized(MINE, sched_prefix_parent(prefix, node), a + 2 * T, BYTES, &is_new), SCHED_PREFIX_NONE);
	stop();
}

static void sessions_go_on_where_a_block_lies_ahead(void **state)
{
	static uint32_t a[4 * T];
	struct sched_prefix_evicted evicted;
	struct sched_prefix_found found;
	uint32_t node;

	(void)state;
	start(PAGES, false);
	text(a, 1, 4);
	node = add(MINE, SCHED_PREFIX_NONE, a, 0, 3);
	found = sched_prefix_find(prefix, MINE, a, 4, true);
	assert_int_equal(found.pages, 1); /* the first page has nothing ahead */
	assert_int_equal(found.known, 3);
	sched_prefix_set_ahead(prefix, node, &blocks[1000], 2 * BYTES);
	node = add(MINE, node, a, 3, 4);
	found = sched_prefix_find(prefix, MINE, a, 4, true);
	assert_int_equal(found.pages, 3);
	assert_ptr_equal(sched_prefix_ahead(prefix, found.node), &blocks[1000]);
	assert_int_equal(sched_prefix_counters(prefix)->bytes, 6 * BYTES);
	sched_prefix_drop(prefix, node, 0, false);
	assert_true(evict(&evicted));
	assert_null(evicted.ahead);
	assert_true(evict(&evicted));
	assert_ptr_equal(evicted.ahead, &blocks[1000]);
	assert_int_equal(sched_prefix_counters(prefix)->bytes, 2 * BYTES);
	stop();
}

static void wanted_sizes_go_first(void **state)
{
	static uint32_t a[T];
	struct sched_prefix_evicted evicted;
	struct sched_prefix_space large = MINE;
	bool is_new;

	(void)state;
	start(PAGES, false);
	large.model = 1;
	for (uint32_t i = 0; i < 4; i++) {
		text(a, i, 1);
		sched_prefix_drop(prefix, add_sized(MINE, SCHED_PREFIX_NONE, a, BYTES, &is_new), 0, false);
	}
	sched_prefix_drop(prefix, add_sized(large, SCHED_PREFIX_NONE, a, 4 * BYTES, &is_new), 0, false);
	/* The youngest of five. */
	assert_true(sched_prefix_evict(prefix, 4 * BYTES, &evicted));
	assert_ptr_equal(evicted.block, &blocks[4]);
	stop();
}

/* Trees whose first pages are twice as large. A whole tree goes for such a one: from its ends, and none that is held. */
static void a_first_page_takes_its_tree_along(void **state)
{
	static uint32_t a[4][5 * T], side[5 * T];
	struct sched_prefix_evicted evicted;
	uint32_t held = SCHED_PREFIX_NONE;
	bool is_new;

	(void)state;
	start(PAGES, false);
	for (uint32_t i = 0; i < 4; i++) {
		uint32_t node;

		text(a[i], i, 5);
		node = add_sized(MINE, SCHED_PREFIX_NONE, a[i], 2 * BYTES, &is_new);
		node = add(MINE, node, a[i], 1, 5);
		if (i == 0)
			held = sched_prefix_drop(prefix, node, 1, false); /* its first page is held, and the smaller ones may go */
		else
			sched_prefix_drop(prefix, node, 0, false);
	}
	/* One of them parts behind its second page. */
	text(side, 9, 5);
	memcpy(side, a[1], sizeof(*side) * 2 * T);
	sched_prefix_hold(prefix, sched_prefix_find(prefix, MINE, side, 5, false).node);
	sched_prefix_drop(prefix, add(MINE, sched_prefix_find(prefix, MINE, side, 5, false).node, side, 2, 5), 0, false);
	for (uint32_t left = 3; left > 0; left--) {
		const uint64_t before = sched_prefix_counters(prefix)->bytes;
		uint64_t whole = 6 * BYTES;
		uint32_t pages = 0;

		do {
			assert_true(sched_prefix_evict(prefix, 2 * BYTES, &evicted));
			assert_int_equal(sched_prefix_check(prefix), 0);
			pages++;
		} while (evicted.block != &blocks[0] && evicted.block != &blocks[5] && evicted.block != &blocks[10] &&
			evicted.block != &blocks[15]);
		if (evicted.block == &blocks[5]) /* the one that parts */
			whole += 3 * BYTES;
		assert_int_equal(pages, whole / BYTES - 1);
		assert_int_equal(before - sched_prefix_counters(prefix)->bytes, whole);
	}
	assert_false(sched_prefix_evict(prefix, 2 * BYTES, &evicted));
	assert_int_equal(known(MINE, a[0], 5), 5);
	for (uint32_t i = 4; i > 0; i--) {
		assert_true(evict(&evicted));
		assert_ptr_equal(evicted.block, &blocks[i]);
	}
	assert_false(sched_prefix_evict(prefix, 0, &evicted));
	sched_prefix_drop(prefix, held, 0, false);
	assert_false(evict(&evicted));
	assert_true(sched_prefix_evict(prefix, 2 * BYTES, &evicted));
	assert_ptr_equal(evicted.block, &blocks[0]);
	stop();
}

/* A tree that parts goes branch by branch, each from its end up: who fells it does not walk down the same way again. */
static void no_way_is_walked_twice(void **state)
{
	enum { DEEP = 30 };
	static uint32_t one[DEEP * T], other[DEEP * T];
	struct sched_prefix_evicted evicted;
	uint32_t node, walked = 0, pages = 0;
	bool is_new;

	(void)state;
	start(PAGES, false);
	text(one, 1, DEEP);
	text(other, 2, DEEP);
	memcpy(other, one, sizeof(*one) * T);
	node = add_sized(MINE, SCHED_PREFIX_NONE, one, 2 * BYTES, &is_new);
	sched_prefix_hold(prefix, node);
	sched_prefix_drop(prefix, add(MINE, node, one, 1, DEEP), 0, false);
	sched_prefix_drop(prefix, add(MINE, node, other, 1, DEEP), 0, false);
	do {
		for (node = prefix->felled; node != SCHED_PREFIX_NONE && prefix->nodes[node].child != SCHED_PREFIX_NONE; walked++)
			node = prefix->nodes[node].child;
		pages++;
	} while (sched_prefix_evict(prefix, 2 * BYTES, &evicted));
	assert_int_equal(pages, 2 * DEEP);
	assert_in_range(walked, 1, DEEP);
	stop();
}

/* Hundreds of others may go: a draw of some meets the one of the size seldom. */
static void a_rare_size_is_found(void **state)
{
	static uint32_t a[T];
	struct sched_prefix_evicted evicted;
	bool is_new;

	(void)state;
	for (int least_recent = 0; least_recent < 2; least_recent++) {
		start(1024, least_recent);
		for (uint32_t i = 0; i < 1000; i++) {
			text(a, i, 1);
			sched_prefix_drop(prefix, add_sized(MINE, SCHED_PREFIX_NONE, a, i % 100 == 50 ? 3 * BYTES : BYTES, &is_new), 0, false);
		}
		for (uint32_t i = 0; i < 10; i++) {
			assert_true(sched_prefix_evict(prefix, 3 * BYTES, &evicted));
			assert_int_equal((evicted.block - blocks) % 100, 50);
		}
		assert_false(sched_prefix_evict(prefix, 3 * BYTES, &evicted));
		assert_false(sched_prefix_evict(prefix, 2 * BYTES, &evicted));
		stop();
	}
}

/* ---- shares --------------------------------------------------------------------------- */

/* Room as a caller makes it who has so many blocks. */
static void make_room(uint32_t capacity)
{
	struct sched_prefix_evicted evicted;

	while (sched_prefix_counters(prefix)->pages >= capacity)
		assert_true(evict(&evicted));
}

/* Tenant 1 has weight 1 of 5. What it has within a fifth stays, however much tenant 0 brings. */
static void a_flood_takes_nobodys_share(void **state)
{
	enum { QUIET_PAGES = 12 };
	static uint32_t quiet[QUIET_PAGES * T], flood[8 * T];
	struct sched_prefix_space neighbour = MINE;
	uint32_t node = SCHED_PREFIX_NONE;
	bool is_new;

	(void)state;
	start(PAGES, false);
	neighbour.tenant = 1;
	text(quiet, 1, QUIET_PAGES);
	node = add(neighbour, SCHED_PREFIX_NONE, quiet, 0, QUIET_PAGES);
	sched_prefix_drop(prefix, node, 0, false);
	for (uint32_t i = 0; i < 2000; i++) {
		text(flood, 100 + i, 8);
		node = SCHED_PREFIX_NONE;
		for (uint32_t p = 0; p < 8; p++) {
			make_room(PAGES);
			node = add_sized(MINE, node, flood + p * T, BYTES, &is_new);
		}
		sched_prefix_drop(prefix, node, 0, i % 2);
		assert_int_equal(known(neighbour, quiet, QUIET_PAGES), QUIET_PAGES);
		assert_false(sched_prefix_over_share(prefix, 1));
	}
	assert_int_equal(sched_prefix_tenant_bytes(prefix, 0), (PAGES - QUIET_PAGES) * BYTES);
	/* When the flood is over, what is beyond its share goes first; then everybody's. */
	struct sched_prefix_evicted evicted;

	while (sched_prefix_over_share(prefix, 0)) {
		assert_true(evict(&evicted));
		assert_int_equal(known(neighbour, quiet, QUIET_PAGES), QUIET_PAGES);
	}
	while (evict(&evicted))
		;
	assert_int_equal(sched_prefix_counters(prefix)->pages, 0);
	stop();
}

/* ---- what is kept --------------------------------------------------------------------- */

/* Prompts of 8 pages through a cache of 64: of three, two are never seen again, and one comes back after 24 more, so that by
 * recency nothing survives until it is wanted. How many pages are found. */
static uint64_t found_with(bool least_recent)
{
	static uint32_t tokens[8 * T];
	uint64_t found_pages = 0;

	start(PAGES, least_recent);
	for (uint32_t i = 0; i < 3000; i++) {
		struct sched_prefix_found found;
		uint32_t node;
		bool is_new;

		text(tokens, i % 3 == 0 ? i % 24 : 1000 + i, 8);
		found = sched_prefix_find(prefix, MINE, tokens, 8, false);
		sched_prefix_hold(prefix, found.node);
		found_pages += found.pages;
		node = found.node;
		for (uint32_t p = found.pages; p < 8; p++) {
			make_room(PAGES);
			node = add_sized(MINE, node, tokens + p * T, BYTES, &is_new);
		}
		sched_prefix_drop(prefix, node, 0, found.pages > 4);
	}
	stop();
	return found_pages;
}

static void what_comes_back_is_kept(void **state)
{
	(void)state;
	assert_int_equal(found_with(true), 0);
	assert_true(found_with(false) > 2000); /* of 8,000 */
}

/* ---- a random walk -------------------------------------------------------------------- */

enum { TEXTS = 6, DEPTH = 6, HOLDERS = 12, ROOM = 24 };

/* Texts share their beginnings: text i has the first i pages of text 0's. A model page is a chain's end. */
struct model_page {
	bool there;
	uint32_t users, node;
};
static struct model_page model[2][TEXTS][DEPTH]; /* by space; shared pages stand at text 0 */

static struct model_page *model_at(uint32_t space, uint32_t name, uint32_t p)
{
	return &model[space][p < name ? 0 : name][p];
}

static bool model_has_child(uint32_t space, uint32_t name, uint32_t p)
{
	for (uint32_t i = 0; i < TEXTS && p + 1 < DEPTH; i++)
		if (model_at(space, i, p) == model_at(space, name, p) && model_at(space, i, p + 1)->there)
			return true;
	return false;
}

struct holder {
	uint32_t space, name, pages, node;
};

/* Nobody holds a page that is in the way of one of so many bytes: a last one, or a first one with all behind it. */
static bool model_leads_to(uint64_t bytes)
{
	for (uint32_t s = 0; s < 2; s++)
		for (uint32_t i = 0; i < TEXTS; i++)
			for (uint32_t p = 0; p < DEPTH; p++)
				if (model_at(s, i, p)->there && model_at(s, i, p)->users == 0 && bytes == (p == 0 ? 2 * BYTES : BYTES) &&
					(p == 0 || !model_has_child(s, i, p)))
					return true;
	return false;
}

/* Of a size drawn by lot, or of none; then of any. */
static bool walk_evict(struct sched_prefix_evicted *evicted, uint64_t *seed)
{
	const uint64_t bytes = BYTES * base_rand_below(seed, 3);

	if (bytes > 0 && sched_prefix_evict(prefix, bytes, evicted)) {
		assert_true(model_leads_to(bytes));
		return true;
	}
	assert_false(bytes > 0 && model_leads_to(bytes));
	return sched_prefix_evict(prefix, 0, evicted);
}

static void walk_in(struct holder *holder, const uint32_t *tokens, uint64_t *seed)
{
	struct sched_prefix_space space = MINE;
	struct sched_prefix_found found;
	struct sched_prefix_evicted evicted;
	uint32_t there = 0, wanted = 1 + (uint32_t)base_rand_below(seed, DEPTH);
	bool is_new;

	space.tenant = holder->space;
	while (there < wanted && model_at(holder->space, holder->name, there)->there)
		there++;
	found = sched_prefix_find(prefix, space, tokens, wanted, false);
	assert_int_equal(found.pages, there);
	sched_prefix_hold(prefix, found.node);
	holder->node = found.node;
	holder->pages = there;
	for (uint32_t p = 0; p < there; p++)
		model_at(holder->space, holder->name, p)->users++;
	for (uint32_t p = there; p < wanted; p++) {
		struct model_page *page = model_at(holder->space, holder->name, p);
		uint32_t node = add_sized(space, holder->node, tokens + p * T, p == 0 ? 2 * BYTES : BYTES, &is_new);

		if (node == SCHED_PREFIX_NONE) {
			assert_int_equal(sched_prefix_counters(prefix)->pages, ROOM);
			if (!walk_evict(&evicted, seed))
				return;
			for (uint32_t s = 0; s < 2; s++) /* find out which one it was */
				for (uint32_t i = 0; i < TEXTS; i++)
					for (uint32_t q = i; q < DEPTH; q++)
						if (model[s][i][q].there &&
							sched_prefix_pages(prefix, model[s][i][q].node) == 0) {
							assert_int_equal(model[s][i][q].users, 0);
							assert_false(model_has_child(s, i, q));
							model[s][i][q].there = false;
						}
			p--;
			continue;
		}
		assert_true(is_new);
		*page = (struct model_page){ true, 1, node };
		holder->node = node;
		holder->pages = p + 1;
	}
}

static void walk_back(struct holder *holder, uint64_t *seed)
{
	uint32_t keep = (uint32_t)base_rand_below(seed, 2) ? 0 : (uint32_t)base_rand_below(seed, holder->pages + 1);

	holder->node = sched_prefix_drop(prefix, holder->node, keep, base_rand_below(seed, 2));
	while (holder->pages > keep)
		model_at(holder->space, holder->name, --holder->pages)->users--;
	assert_int_equal(sched_prefix_pages(prefix, holder->node), keep);
}

static void a_random_walk_beside_a_naive_model(void **state)
{
	static uint32_t tokens[TEXTS][DEPTH * T];
	struct holder holders[HOLDERS];
	uint64_t seed = 7;

	(void)state;
	for (uint32_t i = 0; i < TEXTS; i++) {
		text(tokens[i], i, DEPTH);
		text(tokens[i], 0, i);
	}
	for (int collide = 0; collide < 2; collide++) {
		uint32_t idle = 0;

		start(ROOM, false);
		if (collide)
			sched_prefix_collide(prefix);
		memset(model, 0, sizeof(model));
		memset(holders, 0, sizeof(holders));
		for (uint32_t step = 0; step < 20000; step++) {
			struct holder *holder = &holders[base_rand_below(&seed, HOLDERS)];

			if (holder->pages > 0) {
				walk_back(holder, &seed);
			} else {
				holder->space = (uint32_t)base_rand_below(&seed, 2);
				holder->name = (uint32_t)base_rand_below(&seed, TEXTS);
				walk_in(holder, tokens[holder->name], &seed);
			}
			idle = 0;
			for (uint32_t s = 0; s < 2; s++)
				for (uint32_t i = 0; i < TEXTS; i++)
					for (uint32_t p = i; p < DEPTH; p++)
						idle += model[s][i][p].there && model[s][i][p].users == 0;
			assert_int_equal(sched_prefix_counters(prefix)->idle_pages, idle);
			if (step % 64 == 0)
				assert_int_equal(sched_prefix_check(prefix), 0);
		}
		assert_true(sched_prefix_counters(prefix)->pages_evicted > 1000);
		stop();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_options),
		cmocka_unit_test(the_longest_chain_is_found),
		cmocka_unit_test(spaces_do_not_meet),
		cmocka_unit_test(collisions_hand_over_nothing),
		cmocka_unit_test(added_twice_is_there_once),
		cmocka_unit_test(pages_go_from_the_end),
		cmocka_unit_test(a_full_cache_takes_no_more),
		cmocka_unit_test(sessions_go_on_where_a_block_lies_ahead),
		cmocka_unit_test(wanted_sizes_go_first),
		cmocka_unit_test(a_first_page_takes_its_tree_along),
		cmocka_unit_test(no_way_is_walked_twice),
		cmocka_unit_test(a_rare_size_is_found),
		cmocka_unit_test(a_flood_takes_nobodys_share),
		cmocka_unit_test(what_comes_back_is_kept),
		cmocka_unit_test(a_random_walk_beside_a_naive_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
