/*
 * What the parts of `attnquant measure` share: formats of a KV cache by name, the CPU backend on all cores, loops over
 * threads, inputs for attention and how far a result is from what it should be.
 *
 * Main thread, except where a function says that it is called by several. Out of memory ends the program.
 */
#ifndef ATTNQUANT_MEASURE_H
#define ATTNQUANT_MEASURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_backend.h"

/* ---- commands ------------------------------------------------------------------------------- */

int attnquant_measure_attention_command(int argc, char **argv);
int attnquant_measure_model_command(int argc, char **argv);

/* ---- formats of a cache --------------------------------------------------------------------- */

enum { MEASURE_KV_MAX = 64 };

struct measure_kv {
	enum kern_kv k, v;
	char name[32]; /* "int8", "int8/bf16" for K and V of two formats */
};

struct measure_kv_list {
	struct measure_kv list[MEASURE_KV_MAX];
	uint32_t count;
};

/* Every format that the kernels know, K and V alike. */
void measure_kv_all(struct measure_kv_list *list);
/* "int8,int4,int8/bf16" or "all"; a name that is none ends the program with those that there are. */
void measure_kv_argument(struct measure_kv_list *list, const char *text);
/* Bits that one stored number takes, with its share of scales, in a page behind the first block. */
double measure_kv_bits(const struct kern_kv_geometry *kv);

/* ---- work ----------------------------------------------------------------------------------- */

/* zeroed */
void *measure_alloc(size_t count, size_t bytes);
/* The processors that this process may use, at least 1. */
uint32_t measure_processors(void);
/* The CPU backend with all of them; ends the program where it cannot be had. */
struct kern_backend *measure_backend(void);
/* To the end. 0, or -errno. */
int measure_run(struct kern_backend *backend, const struct kern_work *work);
/* Calls work(context, index, thread) for every index below count, from all processors at once; thread tells them
 * apart, below measure_processors(). */
void measure_parallel(
	uint32_t count, void (*work)(void *context, uint32_t index, uint32_t thread), void *context);
/* A bar with a text behind it, on standard error where that is a terminal. */
void measure_progress(uint64_t done, uint64_t total, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void measure_progress_end(void);

/* ---- attention ------------------------------------------------------------------------------ */

struct measure_shape {
	uint32_t heads, kv_heads, head_dim, rows; /* rows: the last tokens attend */
};

enum { MEASURE_INPUTS = 4 };

extern const char *const measure_input_names[MEASURE_INPUTS];
extern const char *const measure_input_texts[MEASURE_INPUTS];

struct measure_input {
	struct measure_shape shape;
	uint32_t tokens;
	float *q;     /* [rows][heads][head_dim] */
	float *k, *v; /* [tokens][kv_heads][head_dim] */
};

/* The numbers are a function of the input's index and the shape. */
void measure_input_make(
	struct measure_input *input, const struct measure_shape *shape, uint32_t index, uint32_t tokens);
void measure_input_free(struct measure_input *input);
size_t measure_q_count(const struct measure_input *input);
size_t measure_kv_count(const struct measure_input *input);

/* Causal attention of the last rows, in float64: o [rows][heads][head_dim]. */
void measure_exact(const struct measure_input *input, double *o);

/* KV as llama.cpp stores it: blocks of 32 numbers with a scale in half precision. */
struct measure_peer {
	const char *name;
	enum kern_type type;
	bool rotate; /* K, V and Q are turned by a Hadamard matrix first, and the result back */
	double bits;
};

enum { MEASURE_PEERS = 4 };

extern const struct measure_peer measure_peers[MEASURE_PEERS];

/* False where llama.cpp has no such cache: its blocks do not divide a head. */
bool measure_peer_fits(const struct measure_shape *shape);
/* K and V stored as the peer does, and then float64. Its CPU code multiplies K by a Q that is rounded to q8_0; exact_q
 * spares it that. */
void measure_peer_run(
	const struct measure_peer *peer, const struct measure_input *input, bool exact_q, double *o);

struct measure_score {
	double cosine, cosine_least; /* over rows and heads: mean, least */
	double rmse;                 /* relative: root of the sums of squares of error and of truth */
	double max_error;
};

/* of count vectors of dim numbers */
struct measure_score measure_compare(const double *o, const double *exact, size_t count, uint32_t dim);

/* ---- models --------------------------------------------------------------------------------- */

struct model_tokenizer;

/* Text as tokens, in chunks of the same length. */
struct measure_text {
	const char *path;
	uint32_t *tokens; /* [chunks][context] */
	uint32_t chunks, context;
};

/* path NULL: WikiText-2 of the optional data. As many whole chunks as `tokens` has room for, at least one; 0: all of
 * the text. The first token of each is the beginning of a sequence where the tokenizer wants one. Ends the program where
 * the text is missing or too short. */
void measure_text_open(struct measure_text *text, const char *path, const struct model_tokenizer *tokenizer,
	uint32_t vocab, uint32_t context, uint32_t tokens);
void measure_text_close(struct measure_text *text);

/* What the reference said about the rows of one chunk, and how far another run is from it. A row is the logits of one
 * position; next is the token that came. All sums are float64, in order of the rows. */
struct measure_chunk {
	uint32_t vocab, rows;
	float *logits;  /* [rows][vocab] */
	double *log_sum, *loss; /* [rows] log of the sum of exp of the logits; -log p(next) */
	uint32_t *best;
};

struct measure_sums {
	uint64_t rows, same_best;
	double loss, more, more_squared; /* more: loss beyond the reference's */
	double divergence, divergence_most;
};

void measure_chunk_create(struct measure_chunk *chunk, uint32_t vocab, uint32_t rows);
void measure_chunk_free(struct measure_chunk *chunk);
/* The reference's rows, after their logits were written to chunk->logits. */
void measure_chunk_close(
	struct measure_chunk *chunk, const uint32_t *next, struct measure_sums *sums);
/* Rows first .. first + rows - 1 of another run. */
void measure_chunk_compare(const struct measure_chunk *chunk, uint32_t first, uint32_t rows, const float *logits,
	const uint32_t *next, struct measure_sums *sums);

#endif
