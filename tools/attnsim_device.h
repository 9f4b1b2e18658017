/*
 * The modelled device: a backend that computes nothing and takes the time that its model says.
 *
 *   step = overhead + max(bytes / bandwidth, operations / rate), times a residual
 *
 * Bytes are the weights once, and each sequence's cache once; operations are two for each weight and
 * row, and four for each row, key and channel of attention. The residual is drawn from a distribution
 * of measured time / expected time, by the seed and the number of the work alone.
 *
 * One thread; works land in the order in which they were submitted, when the clock has passed their
 * end. Tokens carry what the device has to know: each is the number of its tenant, and the logits say
 * so again, so that what is generated is too.
 */
#ifndef ATTNSIM_DEVICE_H
#define ATTNSIM_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base_clock.h"
#include "kernels/kern_backend.h"

enum { ATTNSIM_TENANTS_MAX = 16 };

/* A model as far as time goes. */
struct attnsim_model {
	const char *name, *what;
	uint64_t parameters;
	uint32_t layers, heads, kv_heads, head_dim, vocab, width;
	bool tied; /* the embedding is the output matrix */
};

/* A machine: so many devices of one kind. */
struct attnsim_machine {
	const char *name, *what;
	uint32_t devices;
	double bytes_per_s, operations_per_s;
	int64_t overhead_ns;
	uint64_t memory_bytes;
	uint32_t step_rows; /* a good size of its steps */
};

/* NULL-named at the end. */
extern const struct attnsim_model attnsim_models[];
extern const struct attnsim_machine attnsim_machines[];
const struct attnsim_model *attnsim_model_find(const char *name);
const struct attnsim_machine *attnsim_machine_find(const char *name);

/* Weights in 8 bits with a scale for 32 (Q8_0). */
uint64_t attnsim_weight_bytes(const struct attnsim_model *model);
/* Those multiplied for each row; the output matrix is multiplied for output rows alone. */
uint64_t attnsim_row_weights(const struct attnsim_model *model);
/* The program that a scheduler sees: a small vocabulary, so wide that its products are the model's. */
void attnsim_program(struct kern_program *program, const struct attnsim_model *model, enum kern_kv kv,
	uint32_t max_rows, uint32_t max_outs);

/* ---- noise ------------------------------------------------------------------------------------- */

struct attnsim_noise {
	double *ratios; /* measured / expected, ascending */
	size_t count;
	const char *source;
};

/* The distribution that is built in; its source says where it was measured. */
void attnsim_noise_builtin(struct attnsim_noise *noise);
/* A ratio a line; empty lines and lines that begin with # are passed over. -EINVAL, -ENOMEM with a
 * message that names the line. */
int attnsim_noise_parse(struct attnsim_noise *noise, const char *name, const char *text, size_t size);
void attnsim_noise_free(struct attnsim_noise *noise);
/* u in [0, 1); between two measured ones it is interpolated. */
double attnsim_noise_at(const struct attnsim_noise *noise, double u);

/* ---- time -------------------------------------------------------------------------------------- */

struct attnsim_load {
	uint64_t rows, outs, visits, kv_bytes;
};

/* Without noise. */
int64_t attnsim_step_ns(
	const struct attnsim_machine *machine, const struct attnsim_model *model, const struct attnsim_load *load);
/* A prompt alone on an idle device, in steps of so many rows, until its first token. */
int64_t attnsim_ideal_ns(const struct attnsim_machine *machine, const struct attnsim_model *model,
	const struct kern_kv_geometry *kv, uint32_t prompt, uint32_t step_rows);

/* ---- the backend ------------------------------------------------------------------------------- */

struct attnsim_device_options {
	struct base_clock *clock;
	const struct attnsim_machine *machine;
	const struct attnsim_model *model;
	const struct attnsim_noise *noise; /* NULL: none */
	uint64_t seed;
	int64_t busy_from_ns, busy_until_ns; /* busy time is counted in between */
};

struct attnsim_device;

/* NULL: no memory. */
struct attnsim_device *attnsim_device_create(const struct attnsim_device_options *options);
struct kern_backend *attnsim_device_backend(struct attnsim_device *device);
/* When the oldest work in flight lands; INT64_MAX: none. */
int64_t attnsim_device_next_ns(const struct attnsim_device *device);

struct attnsim_device_stats {
	uint64_t works, steps, rows, most_rows;
	int64_t busy_ns;                              /* between the two times of the options */
	int64_t tenant_ns[ATTNSIM_TENANTS_MAX]; /* of steps, by rows */
};
const struct attnsim_device_stats *attnsim_device_stats(const struct attnsim_device *device);

#endif
