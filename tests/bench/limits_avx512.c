/*
 * Limits with AVX-512: see limits.h. Compiled for AVX-512 with VNNI and BF16; each loop is called only where base_cpu()
 * has what it needs.
 */
#include <immintrin.h>

#include "tests/bench/limits.h"

/* Two units with a latency of five (bf16: more) want at least as many chains; registers are 32. */
enum { CHAINS = 20 };

static uint64_t read_avx512(const void *memory, size_t bytes, struct limits_reading how)
{
	const size_t run = bytes / how.runs;
	__m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;

	for (size_t done = 0; done < run; done += LIMITS_STEP)
		for (uint32_t r = 0; r < how.runs; r++) {
			const char *at = (const char *)memory + r * run + done;

			for (size_t line = 0; how.ahead > 0 && line < LIMITS_STEP; line += 64)
				_mm_prefetch(at + how.ahead + line, _MM_HINT_T0);
			a = _mm512_xor_si512(a, _mm512_load_si512(at));
			b = _mm512_xor_si512(b, _mm512_load_si512(at + 64));
			c = _mm512_xor_si512(c, _mm512_load_si512(at + 128));
			d = _mm512_xor_si512(d, _mm512_load_si512(at + 192));
		}
	return (uint64_t)_mm512_reduce_or_epi64(_mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d)));
}

static uint64_t f32_avx512(uint64_t rounds)
{
	__m512 sums[CHAINS], factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(1.0f);

#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		sums[j] = _mm512_set1_ps((float)j);
	for (uint64_t i = 0; i < rounds; i++)
#pragma GCC unroll 32
		for (int j = 0; j < CHAINS; j++)
			sums[j] = _mm512_fmadd_ps(sums[j], factor, term);
#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		limits_sink += _mm512_cvtss_f32(sums[j]);
	return rounds * CHAINS * 16 * 2;
}

static uint64_t int8_avx512(uint64_t rounds)
{
	__m512i sums[CHAINS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);

#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		sums[j] = _mm512_set1_epi32(j);
	for (uint64_t i = 0; i < rounds; i++)
#pragma GCC unroll 32
		for (int j = 0; j < CHAINS; j++)
			/* By hand: gcc 12 copies the sums to and fro around the intrinsic. */
			__asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sums[j]) : "v"(a), "v"(b));
#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		limits_sink += (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(sums[j]));
	return rounds * CHAINS * 64 * 2;
}

static uint64_t bf16_avx512(uint64_t rounds)
{
	__m512 sums[CHAINS];
	__m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f)), b = a;

#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		sums[j] = _mm512_set1_ps((float)j);
	for (uint64_t i = 0; i < rounds; i++)
#pragma GCC unroll 32
		for (int j = 0; j < CHAINS; j++)
			sums[j] = _mm512_dpbf16_ps(sums[j], a, b);
#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		limits_sink += _mm512_cvtss_f32(sums[j]);
	return rounds * CHAINS * 32 * 2;
}

const struct limits_loops limits_avx512 = {
	.name = "avx512", .read = read_avx512, .f32 = f32_avx512, .int8 = int8_avx512, .int8_name = "vpdpbusd",
	.bf16 = bf16_avx512, .bf16_name = "vdpbf16ps"
};
