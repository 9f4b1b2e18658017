/*
 * The Internet checksum. See net_sum.h.
 */
#include "netio/net_sum.h"

static uint64_t load_word(const unsigned char *bytes)
{
	uint64_t word;

	memcpy(&word, bytes, sizeof(word));
	return word;
}

/* Both halves of a word on their own: sums of 32 bits do not overflow 64 before 2^32 of them. */
static uint64_t halves(uint64_t word)
{
	return (word >> 32) + (word & UINT32_MAX);
}

/* The last bytes, with zeros behind them: fewer than eight. */
static uint64_t load_rest(const unsigned char *bytes, size_t count)
{
	uint64_t word = 0;

	memcpy(&word, bytes, count);
	return word;
}

uint64_t net_sum_add(uint64_t sum, const unsigned char *bytes, size_t count)
{
	uint64_t other = 0;

	for (; count >= 32; bytes += 32, count -= 32) {
		sum += halves(load_word(bytes)) + halves(load_word(bytes + 8));
		other += halves(load_word(bytes + 16)) + halves(load_word(bytes + 24));
	}
	for (; count >= 8; bytes += 8, count -= 8)
		sum += halves(load_word(bytes));
	return sum + other + halves(load_rest(bytes, count));
}
