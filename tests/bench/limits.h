/*
 * What this machine can do at most, measured: reading memory and caches, and operations per second of each kind of
 * arithmetic, by so many threads on a core each. Figures of kernels are quoted as fractions of these.
 *
 * The arithmetic is what base_cpu() allows, so that ATTND_ISA narrows the limits with the kernels. Rates are medians of
 * LIMITS_SAMPLES. A machine that is not quiet moves, so a limit can be measured again beside what is compared to it.
 *
 * Main thread; threads that it starts end with each measurement. Failures end the program with a message.
 */
#ifndef LIMITS_H
#define LIMITS_H

#include <stddef.h>
#include <stdint.h>

enum { LIMITS_SAMPLES = 5, LIMITS_CPUS_MAX = 256 };

#define LIMITS_MEMORY_BYTES ((size_t)1 << 30)

/* How memory is read: as so many runs side by side, in turns of LIMITS_STEP bytes; each asked for so many bytes ahead, a multiple
 * of 64 (0: not). */
struct limits_reading {
	uint32_t runs;
	size_t ahead;
};

enum { LIMITS_STEP = 256 };

/* One instruction set's loops. A loop of arithmetic returns how many operations it has done (a multiplication and an
 * addition are two); NULL: not on this instruction set. */
struct limits_loops {
	const char *name;
	/* Reads memory once, a multiple of LIMITS_STEP * runs bytes. */
	uint64_t (*read)(const void *memory, size_t bytes, struct limits_reading how);
	uint64_t (*f32)(uint64_t rounds);
	uint64_t (*int8)(uint64_t rounds);
	const char *int8_name, *bf16_name;
	uint64_t (*bf16)(uint64_t rounds);
};

/* Where loops leave their sums, so that no compiler leaves the loops out. Several threads write it; nobody reads. */
extern volatile float limits_sink;

extern const struct limits_loops limits_scalar, limits_avx2, limits_avx512;

/* AMX, where CPUID has it and the kernel grants it. prepare: 0, or -errno; once per process, before any loop. */
int limits_amx_prepare(void);
uint64_t limits_amx_int8(uint64_t rounds);
uint64_t limits_amx_bf16(uint64_t rounds);

/* Bytes and operations per second; 0 where the machine cannot. */
struct limits {
	uint32_t threads;
	double stream, l2, l3;
	double f32, int8, bf16, int8_amx, bf16_amx;
	const char *int8_name, *bf16_name; /* the instruction; NULL with a rate of 0 */
};

struct limits_machine {
	const struct limits_loops *loops;
	unsigned char *memory; /* [LIMITS_MEMORY_BYTES] */
	uint32_t cpus[LIMITS_CPUS_MAX], cpu_count; /* one of each core */
	size_t l2_bytes, l3_bytes;
	struct limits_reading reading; /* the best way, once a limit was measured */
	int amx;
};

void limits_open(struct limits_machine *machine);
void limits_close(struct limits_machine *machine);
void limits_measure(struct limits_machine *machine, uint32_t threads, struct limits *limits);
/* One measurement alone: a pass over memory, bytes per second; a loop of arithmetic, operations per second. */
double limits_stream(const struct limits_machine *machine, uint32_t threads);
double limits_arithmetic(const struct limits_machine *machine, uint32_t threads, uint64_t (*loop)(uint64_t rounds));

/* The median of values, which are sorted by this. */
double limits_median(double *values, uint32_t count);

#endif
