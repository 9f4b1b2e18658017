/*
 * Probabilities of one chunk: what the reference says, and how far another run is from it. Rows are spread over threads;
 * they are added up afterwards, in order, so that a sum does not depend on the threads.
 */
#include <math.h>
#include <stdlib.h>

#include "tools/attnquant_measure.h"

void measure_chunk_create(struct measure_chunk *chunk, uint32_t vocab, uint32_t rows)
{
	*chunk = (struct measure_chunk){ .vocab = vocab, .rows = rows };
	chunk->logits = measure_alloc((size_t)rows * vocab, sizeof(*chunk->logits));
	chunk->log_sum = measure_alloc(rows, sizeof(*chunk->log_sum));
	chunk->loss = measure_alloc(rows, sizeof(*chunk->loss));
	chunk->best = measure_alloc(rows, sizeof(*chunk->best));
}

void measure_chunk_free(struct measure_chunk *chunk)
{
	free(chunk->logits);
	free(chunk->log_sum);
	free(chunk->loss);
	free(chunk->best);
}

static uint32_t best_of(const float *logits, uint32_t vocab)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < vocab; i++)
		if (logits[i] > logits[best])
			best = i;
	return best;
}

static double log_sum_exp(const float *logits, uint32_t vocab, uint32_t best)
{
	const double most = (double)logits[best];
	double sum = 0;

	for (uint32_t i = 0; i < vocab; i++)
		sum += exp((double)logits[i] - most);
	return most + log(sum);
}

/* ---- the reference ------------------------------------------------------------------------------------ */

static void close_row(void *context, uint32_t row, uint32_t thread)
{
	struct measure_chunk *chunk = context;
	const float *logits = chunk->logits + (size_t)row * chunk->vocab;

	(void)thread;
	chunk->best[row] = best_of(logits, chunk->vocab);
	chunk->log_sum[row] = log_sum_exp(logits, chunk->vocab, chunk->best[row]);
}

void measure_chunk_close(
	struct measure_chunk *chunk, const uint32_t *next, struct measure_sums *sums)
{
	measure_parallel(chunk->rows, close_row, chunk);
	for (uint32_t row = 0; row < chunk->rows; row++) {
		chunk->loss[row] =
			chunk->log_sum[row] - (double)chunk->logits[(size_t)row * chunk->vocab + next[row]];
		sums->loss += chunk->loss[row];
	}
	sums->rows += chunk->rows;
	sums->same_best += chunk->rows;
}

/* ---- another run -------------------------------------------------------------------------------------- */

struct row {
	double loss, divergence;
	bool same_best;
};

struct comparison {
	const struct measure_chunk *chunk;
	const float *logits;
	const uint32_t *next;
	uint32_t first;
	struct row *rows;
};

static void compare_row(void *context, uint32_t index, uint32_t thread)
{
	const struct comparison *comparison = context;
	const struct measure_chunk *chunk = comparison->chunk;
	const uint32_t vocab = chunk->vocab, at = comparison->first + index;
	const float *said = chunk->logits + (size_t)at * vocab;
	const float *logits = comparison->logits + (size_t)index * vocab;
	const uint32_t best = best_of(logits, vocab);
	const double log_sum = log_sum_exp(logits, vocab, best), shift = log_sum - chunk->log_sum[at];
	struct row *row = &comparison->rows[index];

	(void)thread;
	/* Sum of p (log p - log q), where both logarithms are logits less their sums. */
	for (uint32_t i = 0; i < vocab; i++)
		row->divergence += exp((double)said[i] - chunk->log_sum[at]) *
			((double)said[i] - (double)logits[i] + shift);
	row->loss = log_sum - (double)logits[comparison->next[index]];
	row->same_best = best == chunk->best[at];
}

void measure_chunk_compare(const struct measure_chunk *chunk, uint32_t first, uint32_t rows, const float *logits,
	const uint32_t *next, struct measure_sums *sums)
{
	struct comparison comparison = { .chunk = chunk, .logits = logits, .next = next, .first = first,
		.rows = measure_alloc(rows, sizeof(struct row)) };

	measure_parallel(rows, compare_row, &comparison);
	for (uint32_t i = 0; i < rows; i++) {
		const struct row *row = &comparison.rows[i];
		const double more = row->loss - chunk->loss[first + i];

		sums->loss += row->loss;
		sums->more += more;
		sums->more_squared += more * more;
		sums->divergence += row->divergence;
		/* A divergence that is no number is the worst there is. */
		if (!(row->divergence <= sums->divergence_most))
			sums->divergence_most = row->divergence;
		sums->same_best += row->same_best;
	}
	sums->rows += rows;
	free(comparison.rows);
}
