/*
 * Limits with AVX2: see limits.h. Compiled for AVX2, and called only where base_cpu() has it.
 */
#include <immintrin.h>

#include "tests/bench/limits.h"

enum { CHAINS = 10 };

static uint64_t read_avx2(const void *memory, size_t bytes, struct limits_reading how)
{
	const size_t run = bytes / how.runs;
	__m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;

	for (size_t done = 0; done < run; done += LIMITS_STEP)
		for (uint32_t r = 0; r < how.runs; r++) {
			const __m256i *at = (const __m256i *)((const char *)memory + r * run + done);

			for (size_t line = 0; how.ahead > 0 && line < LIMITS_STEP; line += 64)
				_mm_prefetch((const char *)at + how.ahead + line, _MM_HINT_T0);
			a = _mm256_xor_si256(a, _mm256_xor_si256(_mm256_load_si256(at), _mm256_load_si256(at + 4)));
			b = _mm256_xor_si256(b, _mm256_xor_si256(_mm256_load_si256(at + 1), _mm256_load_si256(at + 5)));
			c = _mm256_xor_si256(c, _mm256_xor_si256(_mm256_load_si256(at + 2), _mm256_load_si256(at + 6)));
			d = _mm256_xor_si256(d, _mm256_xor_si256(_mm256_load_si256(at + 3), _mm256_load_si256(at + 7)));
		}
	a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
	return (uint64_t)_mm256_extract_epi64(a, 0);
}

static uint64_t f32_avx2(uint64_t rounds)
{
	__m256 sums[CHAINS], factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(1.0f);

#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		sums[j] = _mm256_set1_ps((float)j);
	for (uint64_t i = 0; i < rounds; i++)
#pragma GCC unroll 32
		for (int j = 0; j < CHAINS; j++)
			sums[j] = _mm256_fmadd_ps(sums[j], factor, term);
#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		limits_sink += _mm256_cvtss_f32(sums[j]);
	return rounds * CHAINS * 8 * 2;
}

/* Bytes to 16-bit pairs to 32-bit sums: three instructions for 32 products. */
static uint64_t int8_avx2(uint64_t rounds)
{
	__m256i sums[CHAINS], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5), ones = _mm256_set1_epi16(1);

#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		sums[j] = _mm256_set1_epi32(j);
	for (uint64_t i = 0; i < rounds; i++)
#pragma GCC unroll 32
		for (int j = 0; j < CHAINS; j++) {
			/* To the compiler another value each time, so that the products are not made once for all. */
			__asm__ volatile("" : "+x"(a));
			sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
		}
#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		limits_sink += (float)_mm256_extract_epi32(sums[j], 0);
	return rounds * CHAINS * 32 * 2;
}

const struct limits_loops limits_avx2 = {
	.name = "avx2", .read = read_avx2, .f32 = f32_avx2, .int8 = int8_avx2, .int8_name = "vpmaddubsw, vpmaddwd, vpaddd"
};
