/*
 * What stands around a measurement: two processors, a daemon, a client of it, before and after each
 * round what the machine can do at best (the ping-pong of a cache line; over sockets bare echoes,
 * too), and what must be known of the machine to read the numbers.
 */
#ifndef ATTNBENCH_FRAME_H
#define ATTNBENCH_FRAME_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "tools/attnbench.h"
#include "tools/attnbench_bare.h"
#include "tools/attnbench_load.h"
#include "tools/tool_cpu.h"

enum {
	ATTNBENCH_ROUNDS_MAX = 100,
	ATTNBENCH_REPEATS_MAX = 5, /* rounds that may be thrown away */
	ATTNBENCH_PINGPONG_NS = 100000000,
	ATTNBENCH_UNQUIET_PERCENT = 20,
};

/* A round may hold two loops; a command that has but one leaves the other empty. */
enum attnbench_loop { ATTNBENCH_CLOSED, ATTNBENCH_OPEN, ATTNBENCH_LOOPS };

/* What rounds are compared with. */
enum attnbench_limit {
	ATTNBENCH_LIMIT_LINE,        /* the ping-pong of a cache line */
	ATTNBENCH_LIMIT_BARE,        /* over sockets: the bare echo that `ratio_p50` is about */
	ATTNBENCH_LIMIT_NONBLOCKING, /* and the one of non-blocking calls */
	ATTNBENCH_LIMITS
};

struct attnbench_limit_times {
	bool is_wanted;
	int64_t last_ns;                         /* p50 of the last time */
	int64_t round_ns[ATTNBENCH_ROUNDS_MAX];  /* by round that counts: p50, mean of before and after */
	struct base_hist all;
};

struct attnbench_frame {
	struct attnbench_options *options;
	struct tool_cpu_pair cpus;
	struct attnd_client *client;
	struct attnd_daemon_info about;
	struct base_clock clock;
	unsigned rounds, repeats; /* measured; thrown away */
	bool noisy;               /* a round counts although before and after it differ */
	int64_t p50_ns[ATTNBENCH_ROUNDS_MAX];         /* of each round's latency */
	struct attnbench_result all[ATTNBENCH_LOOPS]; /* of the rounds that count */
	struct attnbench_limit_times limits[ATTNBENCH_LIMITS];
	struct attnbench_bare bare; /* over sockets: what the bare echoes are like */
	char bare_missing[160];     /* why there is no ATTNBENCH_LIMIT_BARE where one should be */
	struct base_hist pause; /* how long an idle spinner was held up */
	double load_average;
};

/* Chooses processors, starts the private daemon if one is wanted (spinning, on its processor;
 * its options may be added to options->daemon before), pins itself and connects. Ends the
 * program with a message when it cannot. */
struct attnbench_frame *attnbench_frame_open(struct attnbench_options *options);

/* Bare echoes of such messages before and after each round, too, where the private daemon is talked to over a socket. Before measure. */
void attnbench_frame_compare(struct attnbench_frame *frame, uint32_t message_bytes);

/* Measures one round of span_ns into results[ATTNBENCH_LOOPS]. 0 or -errno. */
typedef int attnbench_round(void *context, struct attnbench_frame *frame, int64_t span_ns,
	struct attnbench_result *results);
/* All rounds; what stands in frame->all is what counts. An exit code, TOOL_OK when it went well. */
int attnbench_frame_measure(struct attnbench_frame *frame, attnbench_round *round, void *context);

/* The median of the rounds' p50 over the limit's beside it, and the median of the limit's; 0: it was not measured. */
double attnbench_frame_ratio(const struct attnbench_frame *frame, enum attnbench_limit limit);
int64_t attnbench_frame_limit_ns(const struct attnbench_frame *frame, enum attnbench_limit limit);
/* The limit that `ratio_p50` is about; ATTNBENCH_LIMITS: none, because the daemon is elsewhere or there is no such echo here. */
enum attnbench_limit attnbench_frame_main_limit(const struct attnbench_frame *frame);
/* The median of something else by round that counts. */
double attnbench_frame_median(const struct attnbench_frame *frame, const double *by_round);
/* Runs fn while the private daemon stands still, so that its processor is free; with another's
 * daemon, beside it. */
void attnbench_frame_aside(struct attnbench_frame *frame, void (*fn)(void *context), void *context);

int attnbench_frame_close(struct attnbench_frame *frame, int status);

#endif
