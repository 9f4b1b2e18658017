/*
 * Prompts that begin alike: the tokens that stand for a trace's names of blocks, and how much of its prompts a cache of so many
 * pages would find if it had them to itself and requests came one after the other: the scheduler's own cache, the same with
 * the least recently used page evicted, and the best that is possible.
 */
#ifndef ATTNSIM_PREFIX_H
#define ATTNSIM_PREFIX_H

#include <stdint.h>

#include "tools/attnsim_trace.h"

enum { ATTNSIM_BLOCK_TOKENS = 512 }; /* that a name stands for */

/* How replays keep prefixes. In the order of the names that --prefix takes. */
enum attnsim_prefix { ATTNSIM_PREFIX_OURS, ATTNSIM_PREFIX_LRU, ATTNSIM_PREFIX_NONE };
extern const char *const attnsim_prefixes[]; /* NULL at the end */

/* The prompt's token ids, below 64: its tenant, below 16, in the lower four bits. Equal names give equal tokens; a request without
 * names is like no other. */
void attnsim_prefix_tokens(const struct attnsim_trace *trace, size_t request, uint32_t tenant, uint32_t *tokens);

/* Shares of all full pages of prompts. */
struct attnsim_prefix_rates {
	uint64_t pages; /* that fit */
	double ours, lru, best, endless;
};
/* -ENOMEM with a message. Without names all are 0. */
int attnsim_prefix_rates(const struct attnsim_trace *trace, uint64_t pages, struct attnsim_prefix_rates *rates);

#endif
