/*
 * What is replayed: a trace of requests, read from a file or made up.
 *
 *   Azure     CSV: TIMESTAMP,ContextTokens,GeneratedTokens (Azure public dataset, LLM inference 2023)
 *   Mooncake  JSON lines: timestamp (ms), input_length, output_length, hash_ids (Qin et al., 2024)
 *   poisson   requests that know nothing of each other; bursts: the same in crowds
 *
 * Files are doubted: a line that is not what it should be is refused with file, line and value. Main
 * thread; memory is the trace's.
 */
#ifndef ATTNSIM_TRACE_H
#define ATTNSIM_TRACE_H

#include <stddef.h>
#include <stdint.h>

enum {
	ATTNSIM_TOKENS_MAX = 1 << 20,   /* of a prompt, and of an answer */
	ATTNSIM_REQUESTS_MAX = 1 << 23, /* of a trace */
	ATTNSIM_FILE_MAX = 1 << 30,     /* bytes */
	ATTNSIM_MADE = 10000,           /* requests of a trace that is made up, where nothing else is asked for */
	ATTNSIM_CROWD = 32,             /* requests of a crowd of "bursts", on the average */
};

struct attnsim_request {
	int64_t arrival_ns; /* since the first one's, in the trace's own time */
	uint32_t prompt, output;
	uint32_t hash_count; /* prompt blocks with a name: equal names, equal tokens up to there */
	size_t hash_first;   /* in the trace's hashes */
};

struct attnsim_trace {
	const char *kind; /* "azure", "mooncake", "poisson", "bursts" */
	struct attnsim_request *requests; /* by arrival */
	size_t count, room;
	uint64_t *hashes;
	size_t hash_count, hash_room;
};

/* name is for messages. -EINVAL, -ENOMEM with a message; the trace is empty then. */
int attnsim_trace_parse(struct attnsim_trace *trace, const char *name, const char *text, size_t size);
/* -errno with a message. */
int attnsim_trace_read(struct attnsim_trace *trace, const char *path);
/* count requests, one a second on the average; a crowd is `crowd` of them on the average, 1: none. */
int attnsim_trace_make(struct attnsim_trace *trace, size_t count, uint32_t crowd, uint64_t seed);
/* What --trace says: "poisson" and "bursts" are made up, with so many requests (0: ATTNSIM_MADE); else a file, of which the
 * first so many are kept (0: all). -errno with a message. */
int attnsim_trace_get(struct attnsim_trace *trace, const char *name, size_t requests, uint64_t seed);
void attnsim_trace_free(struct attnsim_trace *trace);

/* Requests a second, in the trace's own time. */
double attnsim_trace_rate(const struct attnsim_trace *trace);
uint32_t attnsim_trace_longest(const struct attnsim_trace *trace); /* prompt and answer together */
/* Share of named prompt blocks that an earlier request had as well: what an endless cache would find. */
double attnsim_trace_reuse(const struct attnsim_trace *trace);

#endif
