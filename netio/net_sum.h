/*
 * The Internet checksum (RFC 1071). Pure; any thread.
 *
 * Words are added as the machine has them, and the folded sum is stored as the machine has it: that comes to the same bytes on either byte
 * order (RFC 1071, 2.B). No branch depends on what is summed.
 */
#ifndef NET_SUM_H
#define NET_SUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Adds `count` bytes to a sum that began as 0. Of several pieces all but the last have an even number of bytes; together at most 2^32. */
uint64_t net_sum_add(uint64_t sum, const unsigned char *bytes, size_t count);

/* Adds a number that stands in the packet as 16 bits, big-endian. */
static inline uint64_t net_sum_add_be16(uint64_t sum, uint32_t number)
{
	const unsigned char bytes[2] = { (unsigned char)(number >> 8), (unsigned char)number };
	uint16_t word;

	memcpy(&word, bytes, sizeof(word));
	return sum + word;
}

/* To 16 bits. Over something with a right checksum in it: 0xffff. */
static inline uint16_t net_sum_fold(uint64_t sum)
{
	sum = (sum >> 32) + (sum & UINT32_MAX);
	sum = (sum >> 16) + (sum & UINT16_MAX); /* at most 17 bits, and some */
	sum = (sum >> 16) + (sum & UINT16_MAX);
	sum = (sum >> 16) + (sum & UINT16_MAX);
	return (uint16_t)sum;
}

/* Where a checksum was computed over zeros in its place. */
static inline void net_sum_store(unsigned char *to, uint16_t folded)
{
	const uint16_t word = (uint16_t)~folded;

	memcpy(to, &word, sizeof(word));
}

#endif
