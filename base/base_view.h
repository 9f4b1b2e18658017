/*
 * How one thread writes what others read without asking: a sequence lock, whose readers write nothing and whose writer never
 * waits. And where what is read lies (attnd/view.h has the structs).
 *
 * How it works (Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012). Memory is words of 64
 * bits, each stored and loaded atomically, so there is no data race. Word 0 of what is guarded is its number, odd while it is written.
 *   W1  the writer stores an odd number, relaxed, then a release fence, then the words, relaxed;
 *   W2  then an even number it never had before, with release.
 *   R1  the reader loads the number with acquire, pairs with W2: it sees all words as old as that number, or newer;
 *   R2  then the words, relaxed, then an acquire fence, which pairs with the fence of W1: had a word been of a later write, then
 *   R3  the number, loaded again, relaxed, would be that write's or a later one's. The same even number twice: one moment.
 * On x86 all of these are plain moves.
 *
 * One writer for each number. A writer that dies in between leaves it odd for ever: readers try a bounded number of times. What
 * has to survive that is written twice in turns (base_view_device.now).
 *
 * Memory of readers is read-only to them; the writer never reads it to decide anything.
 */
#ifndef BASE_VIEW_H
#define BASE_VIEW_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attnd/view.h"

enum { BASE_VIEW_TRIES = 1000 };

/* ---- where things lie ------------------------------------------------------------------------ */

enum { BASE_VIEW_VERSION = 1 };
#define BASE_VIEW_MAGIC UINT64_C(0x3130776569767461) /* "atview01" */

/* A client's part of the segment that it can only read: this, then for each device an attnd_view_own and its timelines. */
struct base_view_own_head { /* 128 bytes; constant after attach */
	uint64_t magic;
	uint32_t version, devices;
	uint32_t slots;         /* timelines of each device; a power of two */
	uint32_t reserved;
	uint64_t device_bytes;  /* sizeof(struct attnd_view_own) + slots * sizeof(struct attnd_timeline) */
	uint64_t reserved2[12];
};

struct base_view_own_device {
	struct attnd_view_own own; /* records and ended alone are written here */
	struct attnd_timeline timelines[];
};

/* The operators' segment: this, then a base_view_device for each device. */
struct base_view_head { /* 384 bytes */
	uint64_t magic;
	uint32_t version, devices;
	uint64_t bytes;            /* of the segment */
	uint64_t device_bytes;     /* sizeof(struct base_view_device) */
	uint64_t reserved[12];
	struct attnd_view_daemon daemon;
};

struct base_view_device {
	struct attnd_view_now now[2]; /* written in turns: publication n is in now[n % 2], with number 2 n */
	struct attnd_view_counts counts;
};

_Static_assert(sizeof(struct base_view_own_head) == 128, "struct base_view_own_head has another size");
_Static_assert(sizeof(struct base_view_head) == 384, "struct base_view_head has another size");
_Static_assert(sizeof(struct base_view_device) == 12800, "struct base_view_device has another size");

/* Eight bytes of a struct, whatever its members are. */
typedef uint64_t base_view_word __attribute__((may_alias));

/* ---- writing --------------------------------------------------------------------------------- */

static inline void base_view_put(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void base_view_put_time(int64_t *word, int64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void base_view_put_half(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

/* A count that one thread alone changes; the word is in no memory that a reader could write. */
static inline void base_view_count(uint64_t *word)
{
	base_view_put(word, __atomic_load_n(word, __ATOMIC_RELAXED) + 1);
}

/* Words of a private copy. */
static inline void base_view_put_all(void *to, const void *from, size_t bytes)
{
	for (size_t i = 0; i < bytes / sizeof(uint64_t); i++)
		__atomic_store_n((base_view_word *)to + i, ((const base_view_word *)from)[i], __ATOMIC_RELAXED);
}

/* W1, W2: number is even. */
static inline void base_view_begin(uint64_t *word, uint64_t number)
{
	base_view_put(word, number | 1);
	atomic_thread_fence(memory_order_release);
}

static inline void base_view_end(uint64_t *word, uint64_t number)
{
	__atomic_store_n(word, number, __ATOMIC_RELEASE);
}

/* ---- reading --------------------------------------------------------------------------------- */

static inline uint64_t base_view_get(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void base_view_get_all(void *to, const void *from, size_t bytes)
{
	for (size_t i = 0; i < bytes / sizeof(uint64_t); i++)
		((base_view_word *)to)[i] = __atomic_load_n((const base_view_word *)from + i, __ATOMIC_RELAXED);
}

/* What begins with a number, at one moment. False: it is being written, and was at every try. */
static inline bool base_view_read(void *to, const void *from, size_t bytes)
{
	const uint64_t *word = from;

	for (int i = 0; i < BASE_VIEW_TRIES; i++) {
		const uint64_t number = __atomic_load_n(word, __ATOMIC_ACQUIRE); /* R1 */

		if (number & 1) {
			__builtin_ia32_pause();
			continue;
		}
		base_view_get_all(to, from, bytes); /* R2 */
		atomic_thread_fence(memory_order_acquire);
		if (base_view_get(word) == number) /* R3 */
			return *(const base_view_word *)to == number;
	}
	return false;
}

#endif
