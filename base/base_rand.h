/*
 * Random numbers that are a function of a key: splitmix64 for sequences (tests, simulator), and a mix of
 * (seed, position) for sampling, so that a draw depends on nothing else (Steele, Lea, Flood 2014).
 */
#ifndef BASE_RAND_H
#define BASE_RAND_H

#include <stdint.h>

#include "base/base_int.h"

static inline uint64_t base_mix64(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static inline uint64_t base_rand_next(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15u;
	return base_mix64(*state);
}

/* Uniform in [0, n); n > 0. Bias below 2^-32 for n < 2^32 (multiply-shift on the high word). */
static inline uint64_t base_rand_below(uint64_t *state, uint64_t n)
{
	return (uint64_t)(((base_u128)base_rand_next(state) * n) >> 64);
}

/* Uniform in [0, 1) from (seed, position) alone. */
static inline double base_rand_at(uint64_t seed, uint64_t position)
{
	uint64_t bits = base_mix64(base_mix64(seed + 0x9e3779b97f4a7c15u) ^
		base_mix64(position * 0xd1342543de82ef95u + 1));

	return (double)(bits >> 11) * 0x1p-53;
}

#endif
