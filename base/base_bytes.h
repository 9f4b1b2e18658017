/*
 * Little-endian numbers in bytes of any alignment, as they lie in packets.
 */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <stdint.h>

static inline uint16_t base_load16(const unsigned char *from)
{
	return (uint16_t)(from[0] | from[1] << 8);
}

static inline uint32_t base_load32(const unsigned char *from)
{
	return base_load16(from) | (uint32_t)base_load16(from + 2) << 16;
}

static inline uint64_t base_load64(const unsigned char *from)
{
	return base_load32(from) | (uint64_t)base_load32(from + 4) << 32;
}

static inline void base_store16(unsigned char *to, uint16_t value)
{
	to[0] = (unsigned char)value;
	to[1] = (unsigned char)(value >> 8);
}

static inline void base_store32(unsigned char *to, uint32_t value)
{
	base_store16(to, (uint16_t)value);
	base_store16(to + 2, (uint16_t)(value >> 16));
}

static inline void base_store64(unsigned char *to, uint64_t value)
{
	base_store32(to, (uint32_t)value);
	base_store32(to + 4, (uint32_t)(value >> 32));
}

#endif
