/*
 * A scheduler on a modelled device and a fake clock, for its unit tests: sends messages, polls,
 * lets time pass, and collects replies. After every poll all invariants are checked. Every client
 * has an arena of its own, freed when its QUIESCED arrives, so that a sanitizer sees any later
 * touch. There is one lane unless a test asks for two; every reply must come by its client's.
 */
#ifndef SCHED_RIG_H
#define SCHED_RIG_H

#include "sched/sched.h"
#include "tests/sim/sim_device.h"

enum {
	RIG_CLIENTS = 40,
	RIG_LANES = 2,
	RIG_MODELS = 2,
	RIG_VOCAB = 64,
	RIG_WIDTH = 16,
	RIG_REPLIES = 1 << 14,
	RIG_ARENA_BYTES = 1 << 20
};

struct rig {
	struct base_clock clock;
	struct sim_device_options device_options;
	struct sched_options options; /* may be changed between rig_init and rig_start */
	struct sched_tenant tenants[4];
	struct kern_program programs[RIG_MODELS];
	struct model_info infos[RIG_MODELS];
	struct sched_model models[RIG_MODELS];
	struct sim_device *device;
	struct base_spsc in[RIG_LANES], out[RIG_LANES];
	struct sched *sched;
	unsigned char *arenas[RIG_CLIENTS];
	size_t used[RIG_CLIENTS];
	uint32_t timelines; /* that clients see; set before rig_add. Default 0 */
	struct base_view_own_device *views[RIG_CLIENTS];
	struct sched_reply *replies; /* [RIG_REPLIES] not yet looked at by a test, in order */
	uint32_t reply_count;
	uint64_t next_id;
	uint32_t quiesced[RIG_CLIENTS]; /* times */
	bool stop_draining[RIG_LANES];  /* leave replies in `out` */
	uint32_t vocab;                 /* of the models; may be changed as options may; so may */
	uint32_t head_dim;              /* of their caches, by which sizes of blocks differ; 0: as small as can be */
};

/* Defaults: two models, generous quotas, work 10 us + 1 us per row. */
void rig_init(struct rig *rig);
void rig_start(struct rig *rig);
/* init, start, and clients 0 and 1 of tenant 0 with 1000 credits each */
void rig_start_plain(struct rig *rig);
/* Everybody leaves, everything comes back, and all is destroyed. */
/* Before rig_start: the first so many clients are the first lane's, the others the second's. */
void rig_two_lanes(struct rig *rig, uint32_t first, uint32_t second);
void rig_stop(struct rig *rig);

void rig_message(
	struct rig *rig, uint32_t kind, uint32_t client, uint32_t argument, uint32_t credits);
void rig_add(struct rig *rig, uint32_t client, uint32_t tenant, uint32_t credits);
/* 64-byte aligned memory of the client's arena, and a start from its beginning again. */
void *rig_loan(struct rig *rig, uint32_t client, size_t bytes);
void rig_rewind(struct rig *rig, uint32_t client);

/* Sends; a request id of 0 is replaced by a new one, which is returned. */
uint64_t rig_send(
	struct rig *rig, uint32_t client, struct attnd_request record, const void *in, void *out);
/* One poll, with the check; replies are collected. Returns the work done. */
int rig_poll(struct rig *rig);
/* Polls and lets time pass until nothing moves any more. */
void rig_run(struct rig *rig);
/* Polls, without time passing, until nothing changes but the device's being busy. */
void rig_settle(struct rig *rig);
/* Time passes until the oldest work in flight lands, and one poll sees it. */
void rig_land(struct rig *rig);

/* Takes the oldest collected reply to this request; fails the test when there is none. */
struct attnd_completion rig_take(struct rig *rig, uint64_t request_id);
bool rig_has(const struct rig *rig, uint64_t request_id);
/* Send, run, take. */
struct attnd_completion rig_call(
	struct rig *rig, uint32_t client, struct attnd_request record, const void *in, void *out);

/* ---- requests ------------------------------------------------------------------------- */

struct attnd_open_params rig_open_params(uint32_t model);
struct attnd_open_params rig_attention_params(
	uint32_t layers, uint32_t heads, uint32_t kv_heads, uint32_t head_dim);
/* Opens; fails the test unless it works. */
uint64_t rig_open(struct rig *rig, uint32_t client, uint32_t model);
/* The same without time passing. */
uint64_t rig_open_now(struct rig *rig, uint32_t client, uint32_t model);
uint64_t rig_open_with(struct rig *rig, uint32_t client, const struct attnd_open_params *params);
struct attnd_completion rig_try_open(
	struct rig *rig, uint32_t client, const struct attnd_open_params *params);

struct attnd_request rig_step_record(uint64_t session, uint32_t count, enum attnd_output output);
/* STEP of these tokens with the arg max of the last as answer; not awaited. */
uint64_t rig_step(
	struct rig *rig, uint32_t client, uint64_t session, const uint32_t *tokens, uint32_t count);
/* The same, awaited and checked against the whole history of the session: `history` has the new
 * tokens at its end. */
void rig_step_check(struct rig *rig, uint32_t client, uint64_t session, const uint32_t *history,
	uint32_t total, uint32_t count);
/* GENERATE; params.struct_bytes and stop_count are filled in. Not awaited. */
uint64_t rig_generate(struct rig *rig, uint32_t client, uint64_t session, const uint32_t *prompt,
	uint32_t count, struct attnd_generate_params params, const uint32_t *stops,
	struct attnd_request record);
struct attnd_request rig_session_record(enum attnd_op op, uint64_t session, uint32_t argument);
/* The arg max behind this history. */
uint32_t rig_argmax(const struct rig *rig, const uint32_t *history, uint32_t count);
/* Some tokens below RIG_VOCAB that depend on the seed. */
void rig_tokens(uint32_t *tokens, uint32_t count, uint64_t seed);

/* ---- promises ---- */

/* STEP of so many (at most 1024) tokens. */
uint64_t rig_ask(struct rig *rig, uint32_t client, uint64_t session, uint32_t count, uint8_t class, int64_t deadline_ns);
/* The cost model learns; how long so many rows take alone. */
int64_t rig_learn(struct rig *rig, uint32_t client, uint64_t session, uint32_t count, uint32_t times);
/* It is done, well and in time. */
void rig_kept(struct rig *rig, uint64_t id);

#endif
