/*
 * The hot path: both ends of a client's two rings. Everything here is inline, takes no lock,
 * allocates nothing and makes no system call.
 *
 * struct shm_daemon_end lives in the daemon's private memory and belongs to the front's thread;
 * struct shm_client_end lives in the client process and belongs to one thread at a time. Each
 * holds whatever it needs (pointers, masks, indices) and never reads the layout, or its own
 * index, back from shared memory.
 *
 * The other side may be hostile: a record is loaded word by word, each word once, into a private
 * copy, and only the copy is looked at; an index of the client is clamped. shm_layout.h names
 * the ordering edges R1/A1, R2/A2 and the sleeping protocol.
 *
 * Room. Every record that the daemon takes owes exactly one final completion. A final completion
 * always has a slot, because a record is taken only while that slot can be kept:
 *
 *   completion slots S = finals_max + streams_max,  finals_max = max_in_flight + S/4,  max_in_flight <= S/2
 *   open (taken, final not put) + finals put and not yet seen as consumed <= finals_max
 *   stream completions put and not yet seen as consumed                   <= streams_max
 *
 * S/4 is what a client may have consumed without having published it yet; so a client that keeps
 * to max_in_flight never waits for its own index.
 */
#ifndef SHM_RING_H
#define SHM_RING_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "attnd/record.h"
#include "shm-ipc/shm_layout.h"

enum { SHM_SLOT_WORDS = 8 };

/* A record as its atomic words. The lap lies in word 0 of a request and in word 1 of a completion. */
struct shm_slot {
	alignas(64) _Atomic uint64_t word[SHM_SLOT_WORDS];
};
_Static_assert(sizeof(struct shm_slot) == sizeof(struct attnd_request), "a slot is a request");
_Static_assert(sizeof(struct shm_slot) == sizeof(struct attnd_completion), "a slot is a completion");

enum {
	SHM_REQUEST_LAP_WORD = 0,
	SHM_REQUEST_LAP_SHIFT = 32, /* little-endian: bytes 4 and 5 of word 0 */
	SHM_COMPLETION_LAP_WORD = 1,
	SHM_COMPLETION_LAP_SHIFT = 16, /* bytes 2 and 3 of word 1 */
};
_Static_assert(offsetof(struct attnd_request, lap) == SHM_REQUEST_LAP_WORD * 8 + SHM_REQUEST_LAP_SHIFT / 8,
	"the request's lap is where the ring stores it");
_Static_assert(offsetof(struct attnd_completion, lap) == SHM_COMPLETION_LAP_WORD * 8 + SHM_COMPLETION_LAP_SHIFT / 8,
	"the completion's lap is where the ring stores it");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the contract is little-endian");

/* Moves an index on by one and its lap with it; equal to shm_lap(index, mask + 1). */
static inline void shm_step(uint64_t *index, uint16_t *lap, uint32_t mask)
{
	if ((++*index & mask) == 0)
		*lap = *lap == 65535 ? 1 : (uint16_t)(*lap + 1);
}

/* R1: the lap's word is stored last, with release, and so publishes the other seven. Pairs with
 * A1 in shm_slot_take. */
static inline void shm_slot_put(struct shm_slot *slot, const void *record, unsigned lap_word, unsigned lap_shift, uint16_t lap)
{
	uint64_t words[SHM_SLOT_WORDS];

	memcpy(words, record, sizeof(words));
	words[lap_word] = (words[lap_word] & ~(UINT64_C(0xffff) << lap_shift)) | ((uint64_t)lap << lap_shift);
	for (unsigned i = 0; i < SHM_SLOT_WORDS; i++)
		if (i != lap_word)
			atomic_store_explicit(&slot->word[i], words[i], memory_order_relaxed);
	atomic_store_explicit(&slot->word[lap_word], words[lap_word], memory_order_release);
}

/* A1: sees the record that R1 in shm_slot_put published. Each word is loaded exactly once, so
 * whatever the writer does meanwhile, the copy cannot change any more; relaxed is enough for the
 * other seven because the acquire comes before them. The copy's lap is 0. */
static inline bool shm_slot_take(const struct shm_slot *slot, void *copy, unsigned lap_word, unsigned lap_shift, uint16_t lap)
{
	uint64_t words[SHM_SLOT_WORDS];

	words[lap_word] = atomic_load_explicit(&slot->word[lap_word], memory_order_acquire);
	if ((uint16_t)(words[lap_word] >> lap_shift) != lap)
		return false;
	words[lap_word] &= ~(UINT64_C(0xffff) << lap_shift);
	for (unsigned i = 0; i < SHM_SLOT_WORDS; i++)
		if (i != lap_word)
			words[i] = atomic_load_explicit(&slot->word[i], memory_order_relaxed);
	memcpy(copy, words, sizeof(words));
	return true;
}

/* Whether the slot holds this lap. Acquire, as in A1: what the caller reads after a true answer
 * is not older. */
static inline bool shm_slot_full(const struct shm_slot *slot, unsigned lap_word, unsigned lap_shift, uint16_t lap)
{
	return (uint16_t)(atomic_load_explicit(&slot->word[lap_word], memory_order_acquire) >> lap_shift) == lap;
}

/* ---- the daemon's end ------------------------------------------------------------------------ */

/* A limit on wakes per second and client (generic cell rate algorithm): allowed while `next_ns`
 * is at most burst_ns ahead of now. */
struct shm_rate { int64_t next_ns, period_ns, burst_ns; };

struct shm_daemon_end {
	/* submissions: the daemon reads */
	alignas(64) const struct shm_slot *submissions;
	uint64_t submissions_taken;
	uint32_t submission_mask;
	uint16_t submission_lap, completion_lap;
	uint32_t submissions_unpublished; /* taken since R2 */
	uint32_t open;                    /* records taken whose final completion is not put */
	uint32_t max_in_flight;
	uint32_t finals_unread, finals_max; /* as the client's published index has it */
	uint32_t streams_unread, streams_max;
	uint32_t credits_due;             /* stream completions seen as consumed and not yet reported by shm_cpl_credits */
	/* completions: the daemon writes */
	struct shm_slot *completions;
	uint64_t completions_put;
	uint64_t completions_taken;       /* the client's index, clamped, as last read */
	uint64_t *finals;                 /* one bit per slot: what was put there was final */
	uint32_t completion_mask;
	bool wake_due;                    /* completions were put since the last bell check */
	bool wake_held;                   /* the rate limit held a wake back; shm_bell_retry sends it */
	struct shm_rate wake_rate;
	struct shm_daemon_line *line;              /* in R */
	const struct shm_client_line *client_line; /* in W */

	/* below here is not touched per request */
	uint64_t stream_completions, rejected, wakes, wakes_held, parked; /* copied to shm_counters now and then */
	struct shm_counters *counters; /* in R */
};

/* A2: reads how far the client has consumed; pairs with R2 in shm_client_publish. The value is
 * the client's: one that claims more than was put, or goes back, counts as nothing new. Returns
 * how many slots came free. */
static inline uint32_t shm_cpl_reclaim(struct shm_daemon_end *end)
{
	uint64_t taken = atomic_load_explicit(&end->client_line->completions_taken, memory_order_acquire);
	uint32_t streams = 0, freed;

	if (taken - end->completions_taken > end->completions_put - end->completions_taken)
		return 0;
	freed = (uint32_t)(taken - end->completions_taken);
	for (uint64_t i = end->completions_taken; i != taken; i++) {
		uint32_t slot = (uint32_t)i & end->completion_mask;

		streams += !((end->finals[slot / 64] >> (slot % 64)) & 1);
	}
	end->completions_taken = taken;
	end->streams_unread -= streams;
	end->finals_unread -= freed - streams;
	end->credits_due += streams;
	return freed;
}

/* Whether one more record may be taken: its final completion has a slot. */
static inline bool shm_sub_room(struct shm_daemon_end *end)
{
	if (end->open >= end->max_in_flight)
		return false;
	if (end->open + end->finals_unread < end->finals_max)
		return true;
	return shm_cpl_reclaim(end) && end->open + end->finals_unread < end->finals_max;
}

/* Publishes how far submissions were taken. R2; pairs with A2 in shm_sub_put. shm_sub_take does
 * it once per quarter of the ring. */
static inline void shm_sub_publish(struct shm_daemon_end *end)
{
	atomic_store_explicit(&end->line->submissions_taken, end->submissions_taken, memory_order_release);
	end->submissions_unpublished = 0;
}

/* Takes the next record, if there is one and its final completion has room, into *copy (lap 0).
 * From then on the client is owed one final completion. Bound the number of calls per poll: a
 * client can refill its ring as fast as it is emptied. */
static inline bool shm_sub_take(struct shm_daemon_end *end, struct attnd_request *copy)
{
	const struct shm_slot *slot = &end->submissions[end->submissions_taken & end->submission_mask];

	if (!shm_slot_full(slot, SHM_REQUEST_LAP_WORD, SHM_REQUEST_LAP_SHIFT, end->submission_lap) || !shm_sub_room(end))
		return false;
	/* The lap is judged again on the word that is copied: a hostile writer may have changed it
	 * since. */
	if (!shm_slot_take(slot, copy, SHM_REQUEST_LAP_WORD, SHM_REQUEST_LAP_SHIFT, end->submission_lap))
		return false;
	shm_step(&end->submissions_taken, &end->submission_lap, end->submission_mask);
	end->open++;
	if (++end->submissions_unpublished > end->submission_mask / 4)
		shm_sub_publish(end);
	return true;
}

/* Whether shm_sub_take would take something now (the second look of S2). */
static inline bool shm_sub_ready(struct shm_daemon_end *end)
{
	return shm_slot_full(&end->submissions[end->submissions_taken & end->submission_mask], SHM_REQUEST_LAP_WORD,
		SHM_REQUEST_LAP_SHIFT, end->submission_lap) && shm_sub_room(end);
}

/* Puts a completion; visible at once, but a sleeping client is woken only by the bell check that
 * the caller owes (shm_bell.h). False when there is no room: for a stream completion, when its
 * credit is missing; for a final one, when none is open, which is the caller's mistake. */
static inline bool shm_cpl_put(struct shm_daemon_end *end, const struct attnd_completion *completion)
{
	bool final = completion->flags & ATTND_CPL_FINAL;
	uint32_t slot = (uint32_t)end->completions_put & end->completion_mask;
	uint64_t bit = UINT64_C(1) << (slot % 64);

	if (final) {
		if (end->open == 0)
			return false;
		end->open--;
		end->finals_unread++;
		end->finals[slot / 64] |= bit;
	} else {
		if (end->streams_unread >= end->streams_max && (!shm_cpl_reclaim(end) || end->streams_unread >= end->streams_max))
			return false;
		end->streams_unread++;
		end->stream_completions++;
		end->finals[slot / 64] &= ~bit;
	}
	shm_slot_put(&end->completions[slot], completion, SHM_COMPLETION_LAP_WORD, SHM_COMPLETION_LAP_SHIFT,
		end->completion_lap);
	shm_step(&end->completions_put, &end->completion_lap, end->completion_mask);
	end->wake_due = true;
	return true;
}

/* How many stream completions the client has consumed since the last call: the credits to hand
 * back to whoever makes streams, which started with streams_max of them. */
static inline uint32_t shm_cpl_credits(struct shm_daemon_end *end)
{
	uint32_t due;

	if (end->streams_unread)
		shm_cpl_reclaim(end);
	due = end->credits_due;
	end->credits_due = 0;
	return due;
}

/* Whether the client has anything for the daemon: a record that can be taken, or credits. */
static inline bool shm_daemon_has_work(struct shm_daemon_end *end)
{
	if (shm_sub_ready(end))
		return true;
	if (end->streams_unread)
		shm_cpl_reclaim(end);
	return end->credits_due != 0;
}

/* Copies the private counts to where the client can read them; as often as the caller likes, not
 * per request. */
static inline void shm_counters_publish(struct shm_daemon_end *end)
{
	struct shm_counters *to = end->counters;

	atomic_store_explicit(&to->requests, end->submissions_taken, memory_order_relaxed);
	atomic_store_explicit(&to->completions, end->completions_put, memory_order_relaxed);
	atomic_store_explicit(&to->stream_completions, end->stream_completions, memory_order_relaxed);
	atomic_store_explicit(&to->rejected, end->rejected, memory_order_relaxed);
	atomic_store_explicit(&to->wakes, end->wakes, memory_order_relaxed);
	atomic_store_explicit(&to->wakes_held, end->wakes_held, memory_order_relaxed);
	atomic_store_explicit(&to->parked, end->parked, memory_order_relaxed);
}

/* ---- the client's end ------------------------------------------------------------------------ */

struct shm_client_end {
	/* submissions: the client writes */
	alignas(64) struct shm_slot *submissions;
	uint64_t submissions_put;
	uint64_t submissions_taken; /* the daemon's index as last read */
	uint32_t submission_mask;
	uint16_t submission_lap, completion_lap;
	/* completions: the client reads */
	uint32_t completion_mask;
	uint32_t completions_unpublished; /* taken since R2 */
	const struct shm_slot *completions;
	uint64_t completions_taken;
	bool ring_due;  /* something was published since the last bell check */
	int bell_fd;    /* the eventfd that the daemon watches */
	struct shm_client_line *line;              /* in W */
	const struct shm_daemon_line *daemon_line; /* in R */
};

/* Puts a request; visible at once, but a sleeping daemon is woken only by the bell check that
 * the caller owes, once per batch. False when the ring is full. */
static inline bool shm_sub_put(struct shm_client_end *end, const struct attnd_request *request)
{
	if (end->submissions_put - end->submissions_taken > end->submission_mask) {
		/* A2: the daemon is done with the slots below this index; pairs with R2 in shm_sub_publish. */
		end->submissions_taken = atomic_load_explicit(&end->daemon_line->submissions_taken, memory_order_acquire);
		if (end->submissions_put - end->submissions_taken > end->submission_mask)
			return false;
	}
	shm_slot_put(&end->submissions[end->submissions_put & end->submission_mask], request, SHM_REQUEST_LAP_WORD,
		SHM_REQUEST_LAP_SHIFT, end->submission_lap);
	shm_step(&end->submissions_put, &end->submission_lap, end->submission_mask);
	end->ring_due = true;
	return true;
}

/* Publishes how far completions were taken. R2; pairs with A2 in shm_cpl_reclaim. The daemon may
 * sleep for want of room, so a bell check is due. */
static inline void shm_client_publish(struct shm_client_end *end)
{
	atomic_store_explicit(&end->line->completions_taken, end->completions_taken, memory_order_release);
	end->completions_unpublished = 0;
	end->ring_due = true;
}

static inline bool shm_cpl_take(struct shm_client_end *end, struct attnd_completion *copy)
{
	if (!shm_slot_take(&end->completions[end->completions_taken & end->completion_mask], copy, SHM_COMPLETION_LAP_WORD,
		SHM_COMPLETION_LAP_SHIFT, end->completion_lap))
		return false;
	shm_step(&end->completions_taken, &end->completion_lap, end->completion_mask);
	if (++end->completions_unpublished > end->completion_mask / 4)
		shm_client_publish(end);
	return true;
}

static inline bool shm_cpl_ready(const struct shm_client_end *end)
{
	return shm_slot_full(&end->completions[end->completions_taken & end->completion_mask], SHM_COMPLETION_LAP_WORD,
		SHM_COMPLETION_LAP_SHIFT, end->completion_lap);
}

#endif
