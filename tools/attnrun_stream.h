/*
 * Token ids into text, while the model goes on: ids are collected, the daemon turns them into
 * bytes (one DETOKENIZE in flight, beside the GENERATE), and whole UTF-8 characters are written
 * as soon as they are whole.
 *
 * Belongs to the thread of its client.
 */
#ifndef ATTNRUN_STREAM_H
#define ATTNRUN_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "attnd/attnd.h"

enum {
	ATTNRUN_STREAM_BATCH = 64,  /* new ids in one request */
	ATTNRUN_STREAM_CONTEXT = 8, /* ids before them */
	ATTNRUN_STREAM_TEXT_BYTES = 64 << 10,
};

struct attnrun_stream {
	struct attnd_client *client;
	uint32_t model;
	uint64_t request_id; /* of its DETOKENIZE requests */
	FILE *out;
	const uint32_t *ids; /* all that were generated; the caller appends */
	uint32_t asked, count;
	bool busy;
	/* The context, then new ids. How a piece reads may depend on what stands before it (the
	 * first one of a text loses its leading blank), so every request begins with the same few
	 * ids, whose text is skipped: the prompt's last, and where that has no text (a control
	 * token) the first generated ones until there is some. */
	uint32_t *loan_ids;
	uint32_t context;
	size_t skip_bytes; /* the text of the context */
	char *loan_text;
	char held[8]; /* the beginning of a character whose end has not come */
	size_t held_bytes;
};

/* last_id is the prompt's last: how a piece reads may depend on what stands before it. No
 * request may be in flight. 0 or -errno; attnd_error() has the sentence. */
int attnrun_stream_open(struct attnrun_stream *stream, struct attnd_client *client, uint32_t model,
	uint32_t last_id, FILE *out);
/* Asks for the text of what has come, if anything has and nothing is asked. 0 or -errno. */
int attnrun_stream_ask(struct attnrun_stream *stream);
/* Takes the answer. -EIO when its status is not OK. */
int attnrun_stream_take(struct attnrun_stream *stream, const struct attnd_completion *completion);
bool attnrun_stream_done(const struct attnrun_stream *stream);
/* Writes what is still held back, whole or not. */
void attnrun_stream_close(struct attnrun_stream *stream);

/* How many of the bytes end with a whole character; the rest, at most three, may be the
 * beginning of one. Bytes that cannot begin a character count as whole. */
size_t attnrun_stream_whole(const char *text, size_t bytes);

#endif
