/*
 * Where the time of a generation went, from the times in its completions.
 */
#ifndef ATTNRUN_STATS_H
#define ATTNRUN_STATS_H

#include <stdint.h>
#include <stdio.h>

#include "attnd/attnd.h"

struct attnrun_stats {
	int64_t tokenize_ns, open_ns, sent_ns;
	struct attnd_completion first;
	int64_t *done_ns, *seen_ns; /* per token */
	uint32_t count, capacity;
};

int attnrun_stats_open(struct attnrun_stats *stats, uint32_t tokens);
void attnrun_stats_token(
	struct attnrun_stats *stats, const struct attnd_completion *completion, int64_t seen_ns);
void attnrun_stats_print(const struct attnrun_stats *stats, uint32_t prompt_tokens, FILE *stream);
void attnrun_stats_close(struct attnrun_stats *stats);

#endif
