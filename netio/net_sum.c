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

/* The last bytes, fewer than eight; behind an odd one stands a zero. */
static uint64_t rest(const unsigned char *bytes, size_t count)
{
	uint64_t sum = 0;
	uint32_t four;
	uint16_t two;

	if (count & 4) {
		memcpy(&four, bytes, sizeof(four));
		sum += four;
		bytes += sizeof(four);
	}
	if (count & 2) {
		memcpy(&two, bytes, sizeof(two));
		sum += two;
		bytes += sizeof(two);
	}
	if (count & 1) {
		two = 0;
		memcpy(&two, bytes, 1);
		sum += two;
	}
	return sum;
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
	return sum + other + rest(bytes, count);
}
