/*
 * Sampling: from logits to a token, as a function of (logits, history, parameters, seed, position) alone.
 * Pure; any thread with its own scratch; nothing is allocated. Order of the filters: repetition penalty (Keskar et
 * al. 2019), temperature, top-k, top-p, min-p, draw. temperature 0 is arg max, the lowest id among equals. A NaN logit
 * counts as -inf, +inf as the largest float; if no logit is above -inf the answer is id 0. Time is linear in the
 * vocabulary, whatever the logits and the parameters.
 */
#ifndef MODEL_SAMPLE_H
#define MODEL_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

struct model_sampling { /* the contract's struct attnd_sampling, field for field */
	uint64_t seed;
	float temperature, top_p, min_p, repeat_penalty;
	uint32_t top_k, repeat_window;
};

struct model_top { uint32_t id; float logit, log_probability; };

/* Bytes of scratch for a vocabulary. */
size_t model_sample_scratch_bytes(uint32_t vocab);

/* recent: the last recent_count tokens of the session (at most repeat_window are looked at). logits are not changed. */
uint32_t model_sample(const struct model_sampling *sampling, const float *logits, uint32_t vocab,
	const uint32_t *recent, size_t recent_count, uint64_t position, void *scratch);

uint32_t model_argmax(const float *logits, uint32_t vocab);
/* The k largest, best first, ties by lower id; k <= 256 and k <= vocab. log_probability against the full softmax
 * (float64 sum). */
void model_top(const float *logits, uint32_t vocab, uint32_t k, struct model_top *top, void *scratch);

#endif
